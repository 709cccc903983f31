"""With ordering switched off in the library, the tests of order fail: for exactly the pairs that need the library."""

import sys
from pathlib import Path

import pytest

import probe

BUILT = Path(probe.__file__).parent

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import show_missing_order  # noqa: E402

# What the hardware does not order, of two streams on one device; each in both directions. 0 is legacy.
PAIRS = [("0", "non-blocking"), ("legacy", "non-blocking"), ("per-thread", "blocking"), ("per-thread", "non-blocking"),
         ("blocking", "blocking"), ("blocking", "non-blocking"), ("non-blocking", "non-blocking")]

# Streams with a handle, which alone can be of another device than the array.
OWN = ("blocking", "non-blocking")
KINDS = ("0", "legacy", "per-thread", *OWN)

FROM_PRODUCER_TO_CONSUMER = [
    "test_acquire_comes_after_the_producers_work", "test_consumers_writing_comes_after_the_producers_reading",
    "test_a_call_launches_after_the_work_on_every_argument", "test_a_capsule_comes_after_the_arrays_work",
    "test_a_new_stream_comes_after_the_one_before",
]
FROM_CONSUMER_TO_PRODUCER = [
    "test_release_orders_the_producers_writing_after_the_consumers_reading",
    "test_release_shows_the_consumers_work_to_the_producer", "test_the_end_of_a_call_shows_its_work_to_every_producer",
    "test_an_array_is_freed_after_the_work_that_it_was_told_of",
]
BEFORE_THE_HOST = [
    "test_memory_is_given_back_late", "test_the_host_waits_for_the_producers_work",
    "test_the_host_waits_before_pinned_memory_goes_back",
    "test_a_deleter_runs_after_the_work_that_the_array_was_told_of", "test_a_deleter_runs_after_the_work_of_everybody",
]


@pytest.fixture(scope="module")
def cases():
    """All tests of order, without order."""
    return show_missing_order.run(BUILT / "unordered", BUILT)


def failing(cases, test):
    """The pairs for which every case of a test failed, which are all for which any did."""
    pairs = {case.pair for case in cases if case.test == test and case.end == show_missing_order.FAILED}
    assert not pairs & {case.pair for case in cases if case.test == test and case.end == show_missing_order.PASSED}
    return pairs


def test_what_the_hardware_does_not_order_fails_and_nothing_else(cases):
    assert [case for case in cases if not case.is_right] == []


@pytest.mark.parametrize("test", FROM_PRODUCER_TO_CONSUMER + FROM_CONSUMER_TO_PRODUCER)
def test_every_pair_fails_in_both_directions(cases, test):
    expected = {f"{one}-before-{other}" for pair in PAIRS for one, other in (pair, pair[::-1])}
    expected |= {f"{one}-other-device's-before-{other}" for one in OWN for other in KINDS}
    expected |= {f"{one}-before-other-device's-{other}" for one in KINDS for other in OWN}
    assert failing(cases, test) == expected


@pytest.mark.parametrize("test", BEFORE_THE_HOST)
def test_every_stream_fails_before_the_host(cases, test):
    assert failing(cases, test) == {f"{kind}-before-the-host" for kind in KINDS}


def test_the_stream_of_another_thread_fails(cases):
    assert failing(cases, "test_acquire_comes_after_the_work_of_another_threads_stream") == {
        f"another-thread's-before-{kind}" for kind in ("per-thread", *OWN)}
    assert failing(cases, "test_release_shows_the_consumers_work_to_another_threads_stream") == {
        f"{kind}-before-another-thread's" for kind in ("per-thread", *OWN)}


def test_the_script_finds_what_passes_without_order(capsys):
    """Over modules that do order, everything that should fail passes."""
    arguments = ["--built", str(BUILT), "-k", "test_acquire_comes_after_the_producers_work and interface-v3"]
    assert show_missing_order.main(arguments) == 0
    assert "PASSES" not in capsys.readouterr().out
    assert show_missing_order.main([*arguments, "--modules", str(BUILT)]) == 1
    assert "PASSES WITHOUT ORDER\n         0-before-non-blocking\n" in capsys.readouterr().out
