"""What test programs report, read from their JUnit files: one list of passes, failures and skips for everything."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field

# Failures that are listed by name at the end; each suite has printed its own before.
MOST_FAILURES = 40


@dataclass
class Results:
    """What came of one suite."""

    suite: str
    passed: int = 0
    failures: list = field(default_factory=list)
    skips: list = field(default_factory=list)  # (name, reason)

    def fail(self, text):
        self.failures.append(text)

    def ran(self):
        return self.passed + len(self.failures)


def _one_line(text):
    return " ".join((text or "").split())


def _reason(case, skipped):
    """pytest writes the reason into the element, Meson into the output beside it."""
    message = skipped.get("message") or skipped.text or case.findtext("system-out")
    return re.sub(r"^Skipped: ", "", _one_line(message)) or "no reason given"


def _name(case):
    # Meson numbers the tests of a TAP program, and Criterion adds the time.
    name = re.sub(r"^\d+ - ", "", case.get("name", "?"))
    name = re.sub(r"\s+\([\d.]+s\)$", "", name)
    return f"{case.get('classname', '')}::{name}".strip(":")


def add_junit(results, path):
    """Add the cases of a JUnit file. Whether there was one that could be read."""
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return False
    for case in cases:
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            results.fail(_name(case))
        elif skipped is not None:
            results.skips.append((_name(case), _reason(case, skipped)))
        else:
            results.passed += 1
    return True


def add_meson(results, logs, status):
    """Add what `meson test` left in its log folder. A program that died without a failing test is a failure too."""
    before = len(results.failures)
    if not add_junit(results, logs / "testlog.junit.xml"):
        results.fail("meson test left no results")
        return
    failed = " ".join(results.failures[before:])
    try:
        lines = (logs / "testlog.json").read_text().splitlines()
    except OSError:
        lines = []
    for told in map(json.loads, lines):
        if told["result"] in ("OK", "SKIP", "EXPECTEDFAIL") or told["name"].split(" - ")[-1] in failed:
            continue
        results.fail(f"{told['name']}: {told['result']}, exit status {told['returncode']}")
    if status != 0 and len(results.failures) == before:
        results.fail(f"meson test: exit status {status}")


def add_pytest(results, path, status):
    """Add a pytest run: its JUnit file and its exit status."""
    before = len(results.failures)
    found = add_junit(results, path)
    if not found or (status not in (0, 5) and len(results.failures) == before):
        results.fail(f"pytest: exit status {status}{'' if found else ', and no results'}")


def print_skips(everything):
    """The reasons of all skips, each once with the number of tests."""
    reasons = Counter((results.suite, reason) for results in everything for _, reason in results.skips)
    if reasons:
        print("\nskipped:")
    for (suite, reason), count in sorted(reasons.items()):
        print(f"  {suite}: {count} x {reason}" if count > 1 else f"  {suite}: {reason}")


def print_failures(everything):
    failures = [(results.suite, text) for results in everything for text in results.failures]
    if failures:
        print("\nfailed:")
    for suite, text in failures[:MOST_FAILURES]:
        print(f"  {suite}: {text}")
    if len(failures) > MOST_FAILURES:
        print(f"  and {len(failures) - MOST_FAILURES} more")


def print_total(everything):
    """The last line. Returns the exit status."""
    passed = sum(results.passed for results in everything)
    failed = sum(len(results.failures) for results in everything)
    skipped = sum(len(results.skips) for results in everything)
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0
