"""How the benchmark counts: medians, records, goals, and which cases there are."""

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests/benchmarks"))

import cases  # noqa: E402  the benchmark's modules lie in its folder
import instructions  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402


def test_median_and_spread():
    spread = measure.Spread.of([30.0, 10.0, 20.0, 50.0, 40.0])
    assert (spread.ns, spread.low, spread.high) == (30.0, 14.0, 46.0)
    assert measure.Spread.of([7.0]) == measure.Spread(7.0, 7.0, 7.0)
    assert measure.Spread.of([1.0, 2.0]).ns == 1.5


def race(plans, repeats, target=1):
    """The results of a case in one sweep."""
    under_way = measure.Race(plans, target)
    under_way.sample(repeats)
    return under_way.results()


def test_libraries_take_turns():
    turns = []
    plans = {name: measure.Plan(f"f({name!r})", {"f": turns.append}) for name in "ab"}
    results = race(plans, 3)
    assert list(results) == ["a", "b"] and all(result.ns > 0 for result in results.values())
    firsts = [name for before, name in zip([None, *turns], turns) if name != before]
    assert firsts[-6:] == ["a", "b"] * 3


def test_what_a_library_cannot_do_ends_nothing():
    plans = {
        "a": measure.Plan("f()", {"f": lambda: 1 / 0}),
        "b": measure.Cannot("it is not installed"),
        "c": measure.Plan("f()", {"f": int}),
    }
    results = race(plans, 1)
    assert str(results["a"]) == "ZeroDivisionError: division by zero"
    assert str(results["b"]) == "it is not installed"
    assert isinstance(results["c"], measure.Spread)


def test_failure_between_two_results():
    """The library is given up, and the others go on."""
    numbers = iter(range(100))
    plans = {
        "a": measure.Plan("f()", {"f": lambda: 1 // (next(numbers) < 60)}),
        "b": measure.Plan("f()", {"f": int}),
    }
    results = race(plans, 20)
    assert str(results["a"]).startswith("ZeroDivisionError") and isinstance(results["b"], measure.Spread)


@pytest.mark.parametrize("repeats, expected", [(41, [14, 14, 13]), (3, [1, 1, 1]), (1, [1, 0, 0])])
def test_repeats_are_spread_over_the_sweeps(repeats, expected):
    assert measure.shares(repeats, 3) == expected


def test_a_sweep_in_which_the_machine_is_slow_does_not_decide():
    under_way = measure.Race({"a": measure.Plan("f()", {"f": int})}, target=1)
    timer = under_way.timers["a"]
    for nanoseconds in (10, 500, 10):
        timer.chunk = lambda repeat, *_, spent=nanoseconds: spent * timer.times * measure.UNROLLED
        under_way.sample(10)
    assert under_way.results()["a"].ns == 10


def test_work_on_a_gpu_is_waited_for_after_few_calls():
    waits, calls = [], []
    plan = measure.Plan("f(0)", {"f": calls.append}, settle=lambda: waits.append(len(calls)), most=20)
    race({"a": plan}, 2, target=50_000)
    assert max(after - before for before, after in zip([0, *waits], waits)) == 20


def test_records():
    assert report.record_of("c", "cai", measure.Spread(1.234, 1.0, 2.0)) == {
        "case": "c", "library": "cai", "ns": 1.23, "low": 1.0, "high": 2.0
    }  # fmt: skip
    assert report.record_of("c", "cai", 14312) == {"case": "c", "library": "cai", "bytes": 14312}
    assert report.record_of("c", "x", measure.Cannot("why")) == {"case": "c", "library": "x", "cannot": "why"}


def records(**numbers):
    return {library: {"library": library, "ns": ns, "low": ns, "high": ns} for library, ns in numbers.items()}


@pytest.mark.parametrize("cai, met", [(54.9, True), (55.0, True), (55.1, False)])
def test_goal_is_a_ratio(cai, met):
    assert report.check(cases.Goal("c", 0.55), records(floor=100.0, cai=cai)) == (cai / 100, met)


def test_goal_is_an_amount():
    assert report.check(cases.Goal("c", 0.5, "s"), records(cai=6e8)) == (0.6, False)
    assert report.check(cases.Goal("c", 45, "kB"), {"cai": {"bytes": 45000}}) == (45.0, True)


def test_goal_without_a_measurement():
    assert report.check(cases.Goal("c", 0.5), records(floor=100.0)) == (None, None)
    assert report.check(cases.Goal("c", 0.5, "s"), {}) == (None, None)


def test_peers_are_listed_from_the_fastest():
    line = report.line("c", records(floor=100.0, cai=50.0, slow=300.0, fast=200.0))
    assert "0.50" in line and line.endswith("fast 200, slow 300")


def test_cases():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    assert {goal.case for goal in cases.GOALS} <= set(names)
    assert [case.name for case in cases.matching(["numpy-3", "numpy-1"])] == ["numpy-1", "numpy-3"]
    with pytest.raises(ValueError, match="no such case: numpi-1"):
        cases.matching(["numpy-1", "numpi-1"])


def test_packages_are_pinned_as_the_tests_have_them():
    lines = [
        (ROOT / name).read_text().splitlines()
        for name in ("tests/requirements.txt", "tests/benchmarks/requirements.txt")
    ]
    tests, benchmarks = ({line for line in part if "==" in line} for part in lines)
    names = {line.split("==")[0] for line in tests}
    assert {line for line in benchmarks if line.split("==")[0] in names} <= tests


def test_instructions_of_one_statement():
    # Of each measurement: what came before it, ten loops of ten statements, twenty.
    assert instructions.per_statement([5000, 1100, 2100, 7000, 50100, 100100]) == [10, 500]
    assert instructions.total("# callgrind format\nsummary: 1234\n\ntotals: 1234\n") == 1234


def test_instructions_are_compared():
    kept = {"a": {"floor": 100, "cai": 1000}, "b": {"cai": 1000}}
    lines, worse = instructions.compare({"a": {"floor": 100, "cai": 990}, "new": {"cai": 5}}, kept)
    assert not worse and lines[0].split() == ["a", "100", "990", "1000", "-1.0%"] and lines[1].split()[-1] == "–"
    lines, worse = instructions.compare({"b": {"cai": 1050}}, kept)
    assert worse and lines[0].endswith("+5.0%  MORE")
