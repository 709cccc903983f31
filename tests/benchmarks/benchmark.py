"""The benchmark itself, in the interpreter that set_up.py chose: builds the modules, times the cases, reports."""

import argparse
import os
import sys
from pathlib import Path

import build
import cases
import instructions
import libraries
import measure
import report
import world

HERE = Path(__file__).resolve().parent

# Every case is visited so often, and gives a part of its results each time: machines are slow for some seconds now and
# then, which would be all of a case's time.
SWEEPS = 3
sys.path.append(str(build.ROOT / "tools"))

import find_cuda  # noqa: E402  it lies among the project's tools


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="tests/benchmarks/run",
        description="Times cai against a floor of unchecked C and against every peer that is installed, in one process, "
        "the libraries taking turns. Prints medians in nanoseconds with the 10th and 90th of a hundred.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names or patterns ('numpy-*'); default: all")
    parser.add_argument("--json", metavar="FILE", help="write one record for each case and library")
    parser.add_argument("--chart", metavar="FILE", help="draw the cases that have goals (needs matplotlib)")
    parser.add_argument("--goals", action="store_true", help="say which goals are met; a missed one is no error")
    parser.add_argument("--repeats", type=int, default=41, metavar="N", help="results for each median (41)")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="count instructions by valgrind instead, for floor and cai on the CPU, and compare with the counts kept in "
        "instructions.json",
    )
    parser.add_argument("--keep", action="store_true", help="with --instructions: keep the new counts")
    parser.add_argument("--python", metavar="PATH", help="the interpreter to use (3.10 or newer), with its libraries")
    parser.add_argument("--marked", metavar="FILE", help=argparse.SUPPRESS)  # what --instructions runs in valgrind
    options = parser.parse_args(arguments)
    try:
        options.chosen = cases.matching(options.cases)
    except ValueError as error:
        parser.error(str(error))
    return options


def runtime():
    return find_cuda.look(Path(os.environ["CAI_CUDART_ROOT"]))


def build_modules(builder, wanted=("floor", "cai", "nanobind", "pybind11", "tvm-ffi")):
    """The modules, or the reason why one cannot be had. Without floor and cai there is nothing to do."""
    import_file = {
        name: (lambda path, name=name: build.load(name, path))
        for name in ("floor", "consumer", "nanobind_peer", "pybind11_peer")
    }
    recipes = {
        "floor": ("floor", lambda: builder.cuda_recipe("floor.c")),
        "cai": ("consumer", lambda: builder.cuda_recipe("consumer.c")),
        "nanobind": ("nanobind_peer", build.nanobind_recipe),
        "pybind11": ("pybind11_peer", build.pybind11_recipe),
        "tvm-ffi": ("tvm_ffi_peer", build.tvm_ffi_recipe),
    }
    modules = {}
    for library in wanted:
        name, recipe = recipes[library]
        try:
            path = builder.module(name, recipe())
            modules[library] = import_file.get(name, load_tvm_ffi)(path)
        except Exception as error:
            if library in ("floor", "cai"):
                raise
            modules[library] = measure.Cannot(measure.reason_of(error))
    return modules


def load_tvm_ffi(path):
    import tvm_ffi

    return tvm_ffi.load_module(str(path))


def time_minimal(builder, chosen, rounds):
    """The two cases about compiling, from one set of compiler runs."""
    times, sizes = builder.minimal(rounds)
    for case in chosen:
        yield case, sizes if case.name == "minimal-size" else times


def time_all(here, builder, options):
    """(case, results by library), as they come."""
    timed = [case for case in options.chosen if case.kind != "minimal"]
    minimal = [case for case in options.chosen if case.kind == "minimal"]
    first, *middle, last = measure.shares(options.repeats, SWEEPS)
    races = []
    for case in timed:
        races.append(measure.Race(libraries.plans_of(here, case)))
        races[-1].sample(first)
    for share in middle:
        for race in races:
            race.sample(share)
    for case, race in zip(timed, races):
        race.sample(last)
        yield case, race.results()
    if minimal:
        yield from time_minimal(builder, minimal, min(3, options.repeats))


def count_instructions(options, cuda):
    """Compare with the counts that are kept. 1 if cai takes more than it did, by the same versions."""
    found = report.versions(cuda, ("numpy", "torch"))
    try:
        counts = instructions.count([case.name for case in instructions.countable(options.chosen)])
    except measure.Cannot as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    kept = instructions.read_kept()
    lines, worse = instructions.compare(counts, kept["counts"])
    print(f"{'case':24} {'floor':>8} {'cai':>8} {'kept':>8} {'change':>8}", *lines, sep="\n")
    if kept["versions"] != found:
        print(f"the kept counts are of other versions: {kept['versions']}; here: {found}")
        worse = False
    if options.keep:
        instructions.keep(counts, found)
    return int(worse)


def main(arguments):
    options = parse_arguments(arguments)
    cuda = runtime()
    builder = build.Builder(os.environ["CAI_BENCHMARK_BUILD"], cuda)
    if options.marked or options.instructions:
        here = world.World(build_modules(builder, instructions.LIBRARIES))
        if options.instructions:
            return count_instructions(options, cuda)
        instructions.run_marked(here, options.chosen, options.marked)
        return 0
    here = world.World(build_modules(builder))
    records = []
    print(report.HEADING, flush=True)
    for case, results in time_all(here, builder, options):
        new = [report.record_of(case.name, library, result) for library, result in results.items()]
        records += new
        if any("cannot" not in record for record in new):
            print(report.line(case.name, {record["library"]: record for record in new}), flush=True)
    if any("cannot" in record for record in records):
        print("\nnot timed:", *report.reasons(records), sep="\n")
    if options.goals:
        print("\ngoals, cai ÷ floor:", *report.goal_lines(records), sep="\n")
    if options.json:
        report.write_json(options.json, records, cuda)
    if options.chart:
        hindrance = report.draw(options.chart, records)
        if hindrance:
            print(f"no chart: {hindrance}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
