"""Counts instructions by valgrind: the same at every run, where times vary, but only for one set of versions."""

import gc
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import libraries
import measure

HERE = Path(__file__).resolve().parent
KEPT = HERE / "instructions.json"
LIBRARIES = ("floor", "cai")

# Loops of ten statements whose instructions are the difference of a long and a short run.
SHORT, LONG = 10, 20

# What the same versions may differ by: how full the allocators are depends on what else was imported.
TOLERANCE = 0.03


def countable(chosen):
    """Cases that need no GPU; starting threads, as JAX does, takes valgrind minutes."""
    return [case for case in chosen if case.memory == "host" and case.kind != "minimal" and "jax" not in case.name]


# ------------------------------------------------------------------------------------------------- inside of valgrind


def run_marked(here, chosen, answer):
    """Run every case once for each library, calling mark() around its two runs, and write down which were run."""
    mark = here.built("floor").mark
    done = []
    gc.disable()
    for case in countable(chosen):
        plans = libraries.plans_of(here, case, LIBRARIES)
        for library in LIBRARIES:
            if isinstance(plans[library], Exception):
                continue
            timer = measure.Timer(plans[library])
            _run(timer, SHORT)
            for times in (SHORT, LONG):
                mark()
                _run(timer, times)
            mark()
            done.append((case.name, library))
    Path(answer).write_text(json.dumps(done))


def _run(timer, times):
    timer.chunk(itertools.repeat(None, times), int, *timer.plan.names.values())


# ------------------------------------------------------------------------------------------------ outside of valgrind


def total(text):
    """The instructions of one part that callgrind wrote."""
    return int(re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE).group(1))


def per_statement(parts):
    """Of the parts before each mark, three for each measurement: instructions of one statement."""
    return [
        round((parts[i + 2] - parts[i + 1]) / ((LONG - SHORT) * measure.UNROLLED)) for i in range(0, len(parts) - 2, 3)
    ]


def count(names):
    """Instructions of each case for floor and cai; measure.Cannot where valgrind is not to be had."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise measure.Cannot("valgrind is not installed (Debian package valgrind)")
    with tempfile.TemporaryDirectory() as folder:
        out, answer = Path(folder, "out"), Path(folder, "answer")
        command = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        command += [sys.executable, HERE / "benchmark.py", "--marked", answer, *names]
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if result.returncode != 0 or not answer.is_file():
            raise measure.Cannot(f"valgrind failed:\n{result.stderr[-2000:]}")
        done = json.loads(answer.read_text())
        numbered = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        counts = per_statement([total(path.read_text()) for path in numbered])
    table = {}
    for (case, library), number in zip(done, counts):
        table.setdefault(case, {})[library] = number
    return table


def compare(counts, kept):
    """Lines of a table, and whether cai takes more instructions anywhere than it did."""
    lines, worse = [], False
    for case, numbers in counts.items():
        before = kept.get(case, {}).get("cai")
        now = numbers.get("cai")
        change = "" if None in (before, now) else f"{(now - before) / before:+.1%}"
        grown = change != "" and now > before * (1 + TOLERANCE)
        worse |= grown
        columns = [str(number if number is not None else "–") for number in (numbers.get("floor"), now, before)]
        lines.append(f"{case:24} {columns[0]:>8} {columns[1]:>8} {columns[2]:>8} {change:>8}{'  MORE' * grown}")
    return lines, worse


def read_kept():
    return json.loads(KEPT.read_text()) if KEPT.is_file() else {"versions": {}, "counts": {}}


def keep(counts, versions):
    """Counts of other cases stay, if they are of the same versions."""
    kept = read_kept()
    old = kept["counts"] if kept["versions"] == versions else {}
    KEPT.write_text(json.dumps({"versions": versions, "counts": {**old, **counts}}, indent=1) + "\n")
