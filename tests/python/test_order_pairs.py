"""Every pair of streams, in both directions: what the hardware does not order is ordered by the library.

tests/tools/show_missing_order.py runs these tests with the library's ordering switched off: then exactly those fail
whose pair the hardware does not order.
"""

import concurrent.futures
import contextlib
import gc
import types
from typing import NamedTuple

import pytest

import checks
import emulated
import loans
from emulated import LEGACY, PER_THREAD
from loans import ASKED, SILENT, Loan, make_stream
from outward import Capsule
from pending import fill_later, read_later, synchronize

FIRST, SECOND = 0x11, 0x22

DEFAULT, OWN = ("0", "legacy", "per-thread"), ("blocking", "non-blocking")

# What the hardware orders by itself on one device (measured on H200s), where the two streams are not one.
BY_HARDWARE = {
    "0": {"0", "legacy", "per-thread", "blocking"},
    "legacy": {"0", "legacy", "per-thread", "blocking"},
    "per-thread": {"0", "legacy", "per-thread"},
    "blocking": {"0", "legacy"},
    "non-blocking": set(),
}

HERE, BEFORE_ELSEWHERE, AFTER_ELSEWHERE, ITSELF = "", "other-device's-before", "before-other-device's", "itself"


class Pair(NamedTuple):
    """Two kinds of streams, the first of which has work that the work on the second has to come after.

    `where`: two streams of the array's device, one of them of the other device, or one and the same stream.
    """

    before: str
    after: str
    where: str = HERE

    def __str__(self):
        return {HERE: f"{self.before}-before-{self.after}", ITSELF: f"{self.before}-before-itself"}.get(
            self.where, f"{self.before}-{self.where}-{self.after}")

    @property
    def by_hardware(self):
        return self.where == ITSELF or (self.where == HERE and self.after in BY_HARDWARE.get(self.before, ()))

    def streams(self):
        """(before, after), as numbers."""
        before = make_stream(self.before, 1 if self.where == BEFORE_ELSEWHERE else 0)
        after = before if self.where == ITSELF else make_stream(self.after, 1 if self.where == AFTER_ELSEWHERE else 0)
        return before, after


# 1 and 2 mean the streams of the array's device, so that only a stream with a handle can be of the other one.
PAIRS = [Pair(before, after) for before in loans.STREAM_KINDS for after in loans.STREAM_KINDS]
PAIRS += [Pair(kind, kind, ITSELF) for kind in loans.STREAM_KINDS]
PAIRS += [Pair(before, after, BEFORE_ELSEWHERE) for before in OWN for after in DEFAULT + OWN]
PAIRS += [Pair(before, after, AFTER_ELSEWHERE) for before in DEFAULT + OWN for after in OWN]

ANOTHER_THREADS = "another-thread's"
LEGACY_WAITS = ("0", "legacy")  # for the per-thread streams of all threads, and those wait for legacy


class ThreadPair(Pair):
    """One of the two is the per-thread stream of another thread."""

    @property
    def by_hardware(self):
        return (self.after if self.before == ANOTHER_THREADS else self.before) in LEGACY_WAITS


class HostPair(Pair):
    """The host, to which no stream is ordered by itself, must find the work of a stream done."""


each_pair = pytest.mark.parametrize("pair", PAIRS, ids=str)
each_before_the_host = pytest.mark.parametrize(
    "pair", [HostPair(kind, "the-host") for kind in loans.STREAM_KINDS], ids=str)
each_before_another_thread = pytest.mark.parametrize(
    "pair", [ThreadPair(kind, ANOTHER_THREADS) for kind in loans.STREAM_KINDS], ids=str)
each_after_another_thread = pytest.mark.parametrize(
    "pair", [ThreadPair(ANOTHER_THREADS, kind) for kind in loans.STREAM_KINDS], ids=str)


@pytest.fixture(autouse=True)
def note(pair, request):
    """What tests/tools/show_missing_order.py reads in the report."""
    by = "hardware" if pair.by_hardware else "library"
    request.node.user_properties += [("pair", str(pair)), ("ordered by", by)]
    with loans.torch_imported():
        yield


@pytest.fixture
def cai():
    """The two modules, with states of their own: events do not outlive the emulator's."""
    return types.SimpleNamespace(probe=checks.load("probe"), arrays=checks.load("arrays"))


class Producer:
    """An array whose stream is known, and which lives as long as the test: an object with the interface, with torch's
    table, or an array of cai's own."""

    def __init__(self, cai, source, stream):
        self._cai = cai
        self.handle = None
        if source == "array":
            arrays = cai.arrays
            self.handle = arrays.new_handle((4,), "float32", arrays.DEVICE, 0, stream)
            self.object = arrays.give(self.handle)
            self.pointer = self.object.ptr
            emulated.run_all()
        else:
            loan = Loan(source, stream, pending=False)
            self.object, self.pointer = loan.give(), loan.pointer
        self.write(0)

    def write(self, value):
        """At once."""
        emulated.write(self.pointer, bytes([value]) * loans.NBYTES)

    def borrow(self, consumer):
        return self._cai.probe.acquire(self.object, consumer, {})


each_known = pytest.mark.parametrize("source", ["interface-v3", "torch", "array"])


# ------------------------------------------------------------------------------------------ from producer to consumer


@each_known
@each_pair
def test_acquire_comes_after_the_producers_work(cai, source, pair):
    stream, consumer = pair.streams()
    producer = Producer(cai, source, stream)
    fill_later(stream, producer.pointer, FIRST)
    view = producer.borrow(consumer)
    seen = read_later(consumer, producer.pointer)
    synchronize(consumer)
    assert seen.value == FIRST
    view.release()


@each_known
@each_pair
def test_consumers_writing_comes_after_the_producers_reading(cai, source, pair):
    stream, consumer = pair.streams()
    producer = Producer(cai, source, stream)
    producer.write(FIRST)
    seen = read_later(stream, producer.pointer)
    view = producer.borrow(consumer)
    fill_later(consumer, producer.pointer, SECOND)
    synchronize(consumer)
    synchronize(stream)
    assert seen.value == FIRST
    view.release()


@pytest.mark.parametrize("source", loans.sources(SILENT))
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.before == "legacy" and pair.where != BEFORE_ELSEWHERE],
                         ids=str)
def test_acquire_comes_after_the_work_of_a_producer_that_tells_no_stream(cai, source, pair):
    _, consumer = pair.streams()
    loan = Loan(source, LEGACY)
    view = cai.probe.acquire(loan.give(), consumer, {})
    seen = loan.read_later(consumer)
    synchronize(consumer)
    assert seen == [loans.NEW]
    view.release()


@each_pair
def test_a_call_launches_after_the_work_on_every_argument(cai, pair):
    """The second argument's stream is ordered before the first one's, on which the call launches."""
    stream, launch = pair.streams()
    first, second = Producer(cai, "interface-v3", launch), Producer(cai, "interface-v3", stream)
    fill_later(stream, second.pointer, FIRST)
    seen = []

    def body(description):
        seen.append(read_later(description["stream"], second.pointer))

    cai.probe.call((first.object, second.object), ({}, {}), "adopt", body)
    synchronize(launch)
    assert seen[0].value == FIRST


@each_pair
def test_a_capsule_comes_after_the_arrays_work(cai, pair):
    stream, consumer = pair.streams()
    producer = Producer(cai, "array", stream)
    fill_later(stream, producer.pointer, FIRST)
    capsule = producer.object.__dlpack__(stream=consumer or LEGACY, max_version=(1, 3))
    seen = read_later(consumer, producer.pointer)
    synchronize(consumer)
    assert seen.value == FIRST
    Capsule(capsule).consume()()


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.after == "legacy" and pair.where != AFTER_ELSEWHERE],
                         ids=str)
def test_the_exchange_table_comes_after_the_arrays_work(cai, pair):
    """Its consumers work on legacy, since that is the stream that the table answers."""
    stream, _ = pair.streams()
    producer = Producer(cai, "array", stream)
    fill_later(stream, producer.pointer, FIRST)
    managed = cai.arrays.table_give(producer.object)
    seen = read_later(LEGACY, producer.pointer)
    synchronize(LEGACY)
    assert seen.value == FIRST
    Capsule(managed).consume()()


@each_pair
def test_a_new_stream_comes_after_the_one_before(cai, pair):
    """cai_array_set_stream."""
    stream, after = pair.streams()
    producer = Producer(cai, "array", stream)
    fill_later(stream, producer.pointer, FIRST)
    assert cai.arrays.set_stream(producer.handle, after, -1) == "OK"
    seen = read_later(after, producer.pointer)
    synchronize(after)
    assert seen.value == FIRST


# ------------------------------------------------------------------------------------------ from consumer to producer


@each_known
@each_pair
def test_release_orders_the_producers_writing_after_the_consumers_reading(cai, source, pair):
    consumer, stream = pair.streams()
    producer = Producer(cai, source, stream)
    producer.write(FIRST)
    view = producer.borrow(consumer)
    seen = read_later(consumer, producer.pointer)
    assert view.release() == "OK"
    fill_later(stream, producer.pointer, SECOND)
    synchronize(stream)
    synchronize(consumer)
    assert seen.value == FIRST


@each_known
@each_pair
def test_release_shows_the_consumers_work_to_the_producer(cai, source, pair):
    consumer, stream = pair.streams()
    producer = Producer(cai, source, stream)
    view = producer.borrow(consumer)
    fill_later(consumer, producer.pointer, FIRST)
    assert view.release() == "OK"
    seen = read_later(stream, producer.pointer)
    synchronize(stream)
    assert seen.value == FIRST


@each_pair
def test_the_end_of_a_call_shows_its_work_to_every_producer(cai, pair):
    launch, stream = pair.streams()
    first, second = Producer(cai, "interface-v3", launch), Producer(cai, "interface-v3", stream)

    def body(description):
        fill_later(description["stream"], second.pointer, FIRST)

    cai.probe.call((first.object, second.object), ({}, {}), "adopt", body)
    seen = read_later(stream, second.pointer)
    synchronize(stream)
    assert seen.value == FIRST


@each_pair
def test_an_array_is_freed_after_the_work_that_it_was_told_of(cai, pair):
    """In stream order: what is told to the array is before whatever its own stream does next."""
    consumer, stream = pair.streams()
    producer = Producer(cai, "array", stream)
    producer.write(FIRST)
    seen = read_later(consumer, producer.pointer)
    assert cai.arrays.used_on(producer.handle, consumer) == "OK"
    cai.arrays.release(producer.handle)
    del producer
    gc.collect()
    synchronize(stream)
    synchronize(consumer)
    assert seen.value == FIRST


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.where != BEFORE_ELSEWHERE], ids=str)
def test_an_array_that_went_out_is_freed_after_the_work_of_everybody(cai, pair):
    """Everybody on the array's device: nobody told of the consumer's stream."""
    consumer, stream = pair.streams()
    producer = Producer(cai, "array", stream)
    producer.write(FIRST)
    producer.object.__cuda_array_interface__
    seen = read_later(consumer, producer.pointer)
    cai.arrays.release(producer.handle)
    del producer
    gc.collect()
    synchronize(stream)
    synchronize(consumer)
    assert seen.value == FIRST


# ------------------------------------------------------------------------- the per-thread stream of another thread


@contextlib.contextmanager
def another_thread():
    """A function that runs others on one thread, which lives as long as the context: its stream may not outlive it."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield lambda function, *arguments: executor.submit(function, *arguments).result()


@each_after_another_thread
def test_acquire_comes_after_the_work_of_another_threads_stream(cai, pair):
    consumer = make_stream(pair.after)
    with another_thread() as there:
        producer = there(Producer, cai, "array", PER_THREAD)
        there(fill_later, PER_THREAD, producer.pointer, FIRST)
        view = producer.borrow(consumer)
        seen = read_later(consumer, producer.pointer)
        synchronize(consumer)
        assert seen.value == FIRST
        view.release()


@each_before_another_thread
def test_release_shows_the_consumers_work_to_another_threads_stream(cai, pair):
    consumer = make_stream(pair.before)
    with another_thread() as there:
        producer = there(Producer, cai, "array", PER_THREAD)
        view = producer.borrow(consumer)
        fill_later(consumer, producer.pointer, FIRST)
        assert view.release() == "OK"
        seen = there(read_later, PER_THREAD, producer.pointer)
        there(synchronize, PER_THREAD)
        assert seen.value == FIRST


# ------------------------------------------------------------------------------------------------ before the host


@pytest.mark.parametrize("source", loans.sources(SILENT, ASKED))
@each_before_the_host
def test_memory_is_given_back_late(cai, source, pair):
    """Whoever tells no stream uses the memory again the moment it comes back."""
    consumer = make_stream(pair.before)
    loan = Loan(source, LEGACY, pending=False)
    view = cai.probe.acquire(loan.give(), consumer, {})
    seen = loan.read_later(consumer)
    assert view.release() == "OK"
    synchronize(consumer)
    assert checks.Checks(cai.probe).settle(lambda: loan.given_back == 1)
    assert seen == [loans.NEW]


@each_known
@each_before_the_host
def test_the_host_waits_for_the_producers_work(cai, source, pair):
    stream = make_stream(pair.before)
    producer = Producer(cai, source, stream)
    fill_later(stream, producer.pointer, FIRST)
    view = producer.borrow("block")
    assert emulated.read(producer.pointer, 1) == bytes([FIRST])
    view.release()


@pytest.mark.parametrize("source", ["interface-v3", "interface-v2", "torch"])
@each_before_the_host
def test_the_host_waits_before_pinned_memory_goes_back(cai, source, pair):
    consumer = make_stream(pair.before)
    loan = Loan(source, LEGACY, kind="pinned", pending=False)
    array = loan.give()
    view = cai.probe.acquire(array, consumer, {"memory": cai.probe.ON_PINNED})
    loan.write_later(consumer)
    assert view.release() == "OK"
    assert loan.now() == loans.USED


@each_before_the_host
def test_a_deleter_runs_after_the_work_that_the_array_was_told_of(cai, pair):
    consumer = make_stream(pair.before)
    pointer = emulated.allocate(loans.NBYTES)
    handle = cai.arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 7)
    cai.arrays.forget_deleted()
    fill_later(consumer, pointer, FIRST)
    assert cai.arrays.used_on(handle, consumer) == "OK"
    cai.arrays.release(handle)
    assert cai.arrays.deleted() == [7]
    assert emulated.read(pointer, 1) == bytes([FIRST])


@each_before_the_host
def test_a_deleter_runs_after_the_work_of_everybody(cai, pair):
    consumer = make_stream(pair.before)
    pointer = emulated.allocate(loans.NBYTES)
    handle = cai.arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 8)
    cai.arrays.forget_deleted()
    array = cai.arrays.give(handle)
    array.__cuda_array_interface__
    cai.arrays.release(handle)
    fill_later(consumer, pointer, FIRST)
    del array
    assert cai.arrays.deleted() == [8]
    assert emulated.read(pointer, 1) == bytes([FIRST])
