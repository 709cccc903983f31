"""What came of a run: records, the table, the goals, and the chart."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections import defaultdict

from cases import GOALS
from measure import Spread

PACKAGES = (
    "numpy torch cupy-cuda12x cupy-cuda13x jax numba numba-cuda cuda-core nanobind pybind11 apache-tvm-ffi".split()
)


def record_of(case, library, result):
    """One record of the JSON file: a time with its spread, a size, or the reason why there is none."""
    record = {"case": case, "library": library}
    if isinstance(result, Spread):
        return record | {"ns": round(result.ns, 2), "low": round(result.low, 2), "high": round(result.high, 2)}
    if isinstance(result, int):
        return record | {"bytes": result}
    return record | {"cannot": str(result)}


def _output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor():
    try:
        lines = open("/proc/cpuinfo").read().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine():
    """What the times are of."""
    gpu = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu.splitlines()[0] if gpu else "none",
        "system": platform.platform(),
    }


def versions(cuda, packages=PACKAGES):
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    compiler = _output(os.environ.get("CC", "cc"), "--version").splitlines()
    found["compiler"] = compiler[0] if compiler else ""
    found["cuda"] = f"{cuda.version // 1000}.{cuda.version % 1000 // 10}"
    return found


def write_json(path, records, cuda):
    document = {
        "command": " ".join(sys.argv[1:]),
        "machine": machine(),
        "versions": versions(cuda),
        "records": records,
    }
    with open(path, "w") as file:
        json.dump(document, file, indent=1)
        file.write("\n")


# ------------------------------------------------------------------------------------------------------------- words


def amount(record):
    """A record's number in the unit that it is read in."""
    if "bytes" in record:
        return f"{record['bytes'] / 1000:.1f} kB"
    ns = record["ns"]
    return f"{ns / 1e9:.2f} s" if ns >= 1e7 else f"{ns:.0f}" if ns >= 100 else f"{ns:.1f}"


def value(record):
    return record.get("ns", record.get("bytes"))


def ratio(records):
    """cai ÷ floor of the records of one case by library, or None."""
    numbers = [value(records.get(library, {})) for library in ("cai", "floor")]
    return None if None in numbers else numbers[0] / numbers[1]


def by_case(records):
    cases = defaultdict(dict)
    for record in records:
        cases[record["case"]][record["library"]] = record
    return cases


def _cell(record):
    if record is None or value(record) is None:
        return "–"
    spread = f" ({record['low']:.0f}–{record['high']:.0f})" if "ns" in record and record["ns"] < 1e7 else ""
    return amount(record) + spread


def line(case, records):
    """One case in one line: floor, cai, their ratio, and the peers from the fastest to the slowest."""
    peers = [record for library, record in records.items() if library not in ("floor", "cai") and value(record)]
    words = ", ".join(f"{record['library']} {amount(record)}" for record in sorted(peers, key=value))
    quotient = ratio(records)
    shown = "–" if quotient is None else f"{quotient:.2f}"
    return f"{case:24} {_cell(records.get('floor')):>18} {_cell(records.get('cai')):>18} {shown:>6}  {words}"


HEADING = f"{'case':24} {'floor, ns':>18} {'cai, ns':>18} {'ratio':>6}  peers, ns"


def reasons(records):
    """Why libraries did not do cases: each reason once, whatever the name of the function."""
    cases = defaultdict(list)
    for record in records:
        if "cannot" in record:
            reason = re.sub(r"`[^`]*`|\b\w+\(\): |#\d", "…", record["cannot"])
            cases[record["library"], reason].append(record["case"])
    libraries = defaultdict(list)
    for (library, reason), names in cases.items():
        libraries[(reason, *names)].append(library)
    for (reason, *names), those in libraries.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        yield f"  {', '.join(those)}: {reason} [{shown}]"


# ------------------------------------------------------------------------------------------------------------- goals


def check(goal, records):
    """What was measured, and whether the goal is met; (None, None) where it was not measured."""
    if goal.unit:
        record = records.get("cai", {})
        measured = value(record) and value(record) / {"s": 1e9, "kB": 1e3}[goal.unit]
    else:
        measured = ratio(records)
    return (None, None) if measured is None else (measured, measured <= goal.limit)


def goal_lines(records):
    cases = by_case(records)
    for goal in GOALS:
        measured, met = check(goal, cases.get(goal.case, {}))
        shown = "not measured" if measured is None else f"{measured:.2f} {'met' if met else 'NOT MET'}"
        yield f"  {goal.case:24} at most {goal.limit:g} {goal.unit or 'x floor'}: {shown}"


# ------------------------------------------------------------------------------------------------------------- chart


def draw(path, records):
    """Times of the cases that have goals, for each library, as multiples of the floor. Returns what hindered it."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as pyplot
    except ImportError:
        return "matplotlib is not installed"
    cases = by_case(records)
    names = [goal.case for goal in GOALS if not goal.unit and value(cases.get(goal.case, {}).get("floor", {}))]
    if not names:
        return "no case with a goal was timed"
    libraries = dict.fromkeys(library for name in names for library in cases[name] if library != "floor")
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.4 * len(names)), layout="constrained")
    markers = "Ds^v<>ophX*Pd"
    for number, library in enumerate(libraries):
        points = [
            (value(cases[name][library]) / value(cases[name]["floor"]), place)
            for place, name in enumerate(names)
            if value(cases[name].get(library, {}))
        ]
        size = 70 if library == "cai" else 30
        if points:
            axes.scatter(*zip(*points), s=size, marker=markers[number % len(markers)], label=library, zorder=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="time ÷ floor, logarithmic", yticks=range(len(names)), yticklabels=names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.4)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None} if str(path).endswith(".png") else None)
    pyplot.close(figure)
    return None
