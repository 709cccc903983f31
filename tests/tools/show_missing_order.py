"""Shows that no order of the library's can go missing unseen: the tests of order, with its ordering switched off.

Every test of tests/python/test_order_pairs.py says whether the hardware orders its pair of streams by itself. Over the
modules of tests/python/unordered, those must pass, and all others must fail; what does not is printed, and the exit
status is then 1. Needs what `tests/run python` has built.
"""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests/python/test_order_pairs.py"
BUILT = ROOT / "build/tests/tests/python"

PASSED, FAILED, BROKEN = "passed", "failed", "broken"  # by an assertion, or by anything else


class Case(NamedTuple):
    """How one test ended without the library's ordering."""

    test: str  # the function's name
    pair: str  # "legacy-before-blocking"
    by_hardware: bool
    end: str

    @property
    def is_right(self):
        return self.end == (PASSED if self.by_hardware else FAILED)

    @property
    def words(self):
        return {
            (False, FAILED): "fails without order",
            (False, PASSED): "PASSES WITHOUT ORDER",
            (True, FAILED): "FAILS ALTHOUGH THE HARDWARE ORDERS IT",
            (True, PASSED): "ordered by the hardware",
        }.get((self.by_hardware, self.end), "IS BROKEN")


def _end(element):
    """An error at the test's end, such as the use of memory that was freed too early, comes beside a wrong value."""
    failure = element.find("failure")
    if failure is None:
        return PASSED if element.find("error") is None else BROKEN
    return FAILED if failure.get("message").startswith(("assert ", "AssertionError")) else BROKEN


def _cases(report):
    """A test that fails at its end as well is there twice; what comes first is what it was about."""
    cases = {}
    for element in ElementTree.parse(report).iter("testcase"):
        said = {entry.get("name"): entry.get("value") for entry in element.iter("property")}
        test = element.get("name").partition("[")[0]
        case = Case(test, said.get("pair", ""), said.get("ordered by") == "hardware", _end(element))
        before = cases.setdefault(element.get("name"), case)
        if before.end == PASSED and case.end != PASSED:
            cases[element.get("name")] = case
    return list(cases.values())


def run(modules, built, expression=""):
    """The tests of order whose names match, with what the folder `modules` has in place of what `built` has."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rN", "--no-header", "-p", "no:cacheprovider",
                   "-c", os.devnull, f"--rootdir={ROOT / 'tests'}", f"--junitxml={report}", "-o", "junit_family=xunit1",
                   "-k", expression, str(TESTS)]  # fmt: skip
        path = os.pathsep.join([str(modules), str(built)])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        cases = _cases(report) if report.exists() else []
    if not cases:
        raise RuntimeError(f"no test ran:\n{result.stdout}{result.stderr}")
    return cases


def table(cases, everything):
    """Lines: every test with how its cases ended, and the pairs of those that are wrong, or of all."""
    by_test = collections.defaultdict(lambda: collections.defaultdict(list))
    for case in cases:
        by_test[case.test][case.words].append(case)
    for test, ends in by_test.items():
        yield test
        for words, found in sorted(ends.items()):
            yield f"    {len(found):4} {words}"
            if everything or not found[0].is_right:
                yield from sorted({f"         {case.pair}" for case in found})


def main(arguments):
    parser = argparse.ArgumentParser(description="Run the tests of order with the library's ordering switched off.")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every pair, not only those that are wrong")
    parser.add_argument("-k", metavar="EXPR", default="", help="run only the tests that match")
    parser.add_argument("--built", type=Path, default=BUILT, help="the folder of the built modules")
    parser.add_argument("--modules", type=Path, help="the folder of those that do not order; default: BUILT/unordered")
    options = parser.parse_args(arguments)
    cases = run(options.modules or options.built / "unordered", options.built, options.k)
    wrong = [case for case in cases if not case.is_right]
    failed = [case for case in cases if case.end == FAILED]
    passed = [case for case in cases if case.end == PASSED]
    print(*table(cases, options.verbose), sep="\n")
    print(f"\n{len(failed)} fail without order, {len(passed)} pass; {len(wrong)} are not as they must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
