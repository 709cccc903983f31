"""Who runs after whom: the table under "Order" in the design, cell by cell.

What must be true comes first: the consumer sees the producer's work, and the producer gets its memory back after the
consumer's. How it is made true, by events and without a wait of the host, is the business of the groups that say so.
"""

import contextlib
import ctypes
import gc
import threading
import time
import types

import numpy as np
import pytest

import checks
import children
import dlpack
import emulated
import faults
import loans
import pools
import probe
import probe_host
import producers
import tables
from emulated import LEGACY, PER_THREAD
from loans import ASKED, KNOWN, NEW, READY, SILENT, USED, Loan, make_stream, normal, sources

ANY = {"memory": probe.ANYWHERE}

# Calls that order nothing and wait for nothing.
HARMLESS = {"cudaPointerGetAttributes", "cudaGetDevice", "cudaSetDevice"}

# What a loan does with memory that it gets back.
LENDER = {"cudaMemsetAsync"}

# What a test does as the consumer.
CONSUMER = {"cudaMemcpyAsync"}

# Calls that only look.
LOOKING = HARMLESS | {"cudaStreamIsCapturing", "cudaStreamGetCaptureInfo", "cudaGetLastError", "cudaStreamGetDevice",
                      "cudaStreamGetId"}

STREAM_PAIRS = [(p, c) for p in loans.STREAM_KINDS for c in loans.STREAM_KINDS]


@pytest.fixture(autouse=True)
def torch():
    with loans.torch_imported():
        yield


def calls_beyond(names):
    return [name for name in emulated.call_names() if name not in names]


def settle(condition):
    """Give whatever gives back late the time to do so."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        emulated.run_all()
        probe.acquire(np.zeros(1, "f4"), "none", ANY).release()
        time.sleep(0.001)
    assert condition()


def tells_by_number(source, kind):
    """Whether a producer can tell that kind of stream: NULL from a table other than torch's tells none."""
    return source != "table" or kind not in ("0", "legacy")


def each_stream(tells):
    """Sources that tell so much, each with every kind of stream that it can tell."""
    return [pytest.param(source, kind, id=f"{source}-{kind}")
            for source in sources(*tells) for kind in loans.STREAM_KINDS if tells_by_number(source, kind)]


def streams(pair, device=0):
    """The streams of a pair of kinds; the same kind of own stream twice makes two."""
    return make_stream(pair[0], device), make_stream(pair[1], device)


def cases(tells, pairs):
    """Sources that tell so much, each with pairs of stream kinds. Silent ones always work on legacy."""
    for source in sources(*tells):
        for pair in pairs:
            if source in sources(SILENT) and pair[0] != "legacy":
                continue
            if not tells_by_number(source, pair[0]):
                continue
            yield pytest.param(source, pair, id=f"{source}-{pair[0]}-before-{pair[1]}")


ORDERED = list(cases((KNOWN, READY, SILENT, ASKED), STREAM_PAIRS))


# ---------------------------------------------------------------------------------------- what must be true: waiting


@pytest.mark.parametrize("source, pair", ORDERED)
def test_order_wait_shows_the_producers_work_to_the_consumer(source, pair):
    producer, consumer = streams(pair)
    loan = Loan(source, producer)
    view = probe.acquire(loan.give(), consumer, {})
    seen = loan.read_later(view.describe()["stream"])
    loan.synchronize(consumer)
    assert seen == [NEW]
    view.release()


@pytest.mark.parametrize("source, pair", ORDERED)
def test_pitfall_53_memory_comes_back_after_the_consumers_work(source, pair):
    """Whoever gets the block next overwrites it at once, or on the producer's stream."""
    producer, consumer = streams(pair)
    loan = Loan(source, producer, pending=False)
    view = probe.acquire(loan.give(), consumer, {})
    seen = loan.read_later(consumer)
    assert view.release() == "OK"
    if loan.tells == KNOWN:
        loan.synchronize(producer)
    loan.synchronize(consumer)
    settle(lambda: loan.given_back == 1)
    emulated.run_all()
    if loan.tells != READY:
        assert seen == [NEW]
    assert loan.given_back == 1


@pytest.mark.parametrize("source, pair", list(cases((KNOWN,), STREAM_PAIRS)))
def test_order_wait_lets_the_producer_read_what_the_consumer_wrote(source, pair):
    producer, consumer = streams(pair)
    loan = Loan(source, producer)
    array = loan.give()
    view = probe.acquire(array, consumer, {})
    loan.write_later(consumer)
    view.release()
    seen = loan.read_later(producer)
    loan.synchronize(producer)
    assert seen == [USED]


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("device", [0, 1])
def test_order_adopt_shows_the_producers_work_on_the_views_stream(source, device):
    loan = Loan(source, make_stream("non-blocking", device), device=device)
    view = probe.acquire(loan.give(), "adopt", {})
    stream = view.describe()["stream"]
    seen = loan.read_later(stream)
    loan.synchronize(stream)
    assert seen == [NEW]
    view.release()


@pytest.mark.parametrize("source", sources(KNOWN, SILENT, ASKED))
@pytest.mark.parametrize("device", [0, 1])
def test_order_adopt_gives_memory_back_after_the_consumers_work(source, device):
    loan = Loan(source, make_stream("non-blocking", device), device=device, pending=False)
    view = probe.acquire(loan.give(), "adopt", {})
    stream = view.describe()["stream"]
    seen = loan.read_later(stream)
    assert view.release() == "OK"
    loan.synchronize(stream)
    settle(lambda: loan.given_back == 1)
    assert seen == [NEW]


@pytest.mark.parametrize("source, kind", each_stream((KNOWN, READY, SILENT, ASKED)))
def test_order_block_returns_when_the_producers_work_is_done(source, kind):
    loan = Loan(source, make_stream(kind))
    view = probe.acquire(loan.give(), "block", {})
    assert loan.now() == NEW
    emulated.clear_calls()
    view.release()
    assert emulated.calls("cudaStreamSynchronize") == []
    assert loan.given_back == 1


@pytest.mark.parametrize("source", loans.ALL)
def test_order_none_orders_nothing(source):
    loan = Loan(source, make_stream("non-blocking"))
    pending = loan.tells != READY
    view = probe.acquire(loan.give(), "none", {})
    assert loan.now() == (loans.OLD if pending else NEW)
    view.release()
    assert calls_beyond(HARMLESS | LENDER) == []
    assert loan.given_back == 1


# ------------------------------------------------------------------------------- what must be true: nothing is called


@pytest.mark.parametrize("source, kind", each_stream((KNOWN,)))
def test_equal_streams_are_not_ordered(source, kind):
    """pitfall 52: 0, which some say, is legacy; nothing else equals it."""
    stream = make_stream(kind)
    loan = Loan(source, stream)
    array = loan.give()
    for consumer in (stream, normal(stream)):
        view = probe.acquire(array, consumer, {})
        assert loan.now() == loans.OLD
        view.release()
    assert calls_beyond(HARMLESS) == []


@pytest.mark.parametrize("source", sources(KNOWN))
@pytest.mark.parametrize("device", [0, 1])
def test_adopting_a_known_stream_calls_nothing_that_orders(source, device):
    loan = Loan(source, make_stream("non-blocking", device), device=device)
    array = loan.give()
    probe.acquire(array, "adopt", {}).release()
    assert calls_beyond({"cudaPointerGetAttributes"} if "interface" in source else ()) == []


@pytest.mark.parametrize("order", ["adopt", "block", "none", 1, 2])
def test_a_producer_that_needs_no_order_gets_none(order):
    """pitfall 11: `stream: None` of version 3 says that nothing is pending; a missing key of version 2 does not."""
    loan = Loan("interface-v3-no-stream")
    probe.acquire(loan.give(), order, {}).release()
    assert emulated.call_names() == ["cudaPointerGetAttributes"]


@pytest.mark.parametrize("order", ["adopt", "block", "none", 1, 2])
@pytest.mark.parametrize("array", [np.arange(4.0), b"bytes"], ids=["numpy", "bytes"])
def test_host_memory_makes_no_cuda_call(order, array):
    emulated.clear_calls()
    view = probe.acquire(array, order, {"memory": probe.ON_HOST})
    described = view.describe()
    view.release()
    assert described["stream"] == 0
    assert described["flags"] & (probe.HAS_STREAM | probe.STREAM_UNKNOWN) == 0
    assert emulated.call_names() == []


EMPTY = {
    "interface-v3": lambda stream: producers.Interface(np.zeros(0, "f4"), stream=stream),
    "interface-v2": lambda stream: producers.Interface(np.zeros(0, "f4"), version=2),
    "dlpack": lambda stream: producers.DLPack(np.zeros(0, "f4")),
    "torch": lambda stream: loans.table_array(loans.Tensor, b"", shape=(0,)),
    "table": lambda stream: loans.table_array(loans.Owning, b"", shape=(0,)),
}


@pytest.mark.parametrize("source", EMPTY)
@pytest.mark.parametrize("order", ["adopt", "block", "none", 1, 2])
def test_an_array_without_elements_is_not_waited_for(source, order):
    stream = make_stream("non-blocking")
    seen = []
    emulated.launch(stream, lambda: seen.append(1))
    tables.set_stream(stream)
    array = EMPTY[source](stream)
    emulated.clear_calls()
    probe.acquire(array, order, {}).release()
    assert calls_beyond(LOOKING) == []
    assert seen == []


# ------------------------------------------------------------------------------------- the view's stream and flags

KNOWS, SAYS_NOT = probe.HAS_STREAM, probe.STREAM_UNKNOWN
P, C, L = "the producer's", "the consumer's", "legacy"

# What the table says of view.stream and of the two flags; None where it says nothing of that.
CELLS = {
    KNOWN: {"wait": (C, KNOWS), "adopt": (P, KNOWS), "block": (P, KNOWS), "none": (P, KNOWS)},
    READY: {"wait": (C, 0), "adopt": (None, 0), "block": (None, 0), "none": (None, 0)},
    SILENT: {"wait": (C, SAYS_NOT), "adopt": (LEGACY, SAYS_NOT), "block": (LEGACY, SAYS_NOT),
             "none": (LEGACY, SAYS_NOT)},
    ASKED: {"wait": (C, None), "adopt": (LEGACY, None), "block": (LEGACY, None), "none": (LEGACY, None)},
}


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["wait", "adopt", "block", "none"])
@pytest.mark.parametrize("device", [0, 1])
def test_view_names_the_stream_to_launch_on(source, order, device):
    producer, consumer = streams(("non-blocking", "non-blocking"), device)
    loan = Loan(source, producer, device=device)
    view = probe.acquire(loan.give(), consumer if order == "wait" else order, {})
    described = view.describe()
    view.release()
    stream, flags = CELLS[loan.tells][order]
    if stream is not None:
        assert described["stream"] == {P: producer, C: consumer}.get(stream, stream)
    if flags is not None:
        assert described["flags"] & (KNOWS | SAYS_NOT) == flags
    else:
        assert described["flags"] & KNOWS == 0
    assert described["device"] == (probe.DEVICE_CUDA, device)


@pytest.mark.parametrize("source, kind", [row for row in each_stream((KNOWN,)) if "blocking" not in row.id])
def test_default_streams_are_named_by_their_numbers(source, kind):
    """pitfall 12, pitfall 52: 0 is read as legacy, and never handed out."""
    number = PER_THREAD if kind == "per-thread" else LEGACY
    loan = Loan(source, make_stream(kind))
    array = loan.give()
    view = probe.acquire(array, "adopt", {})
    assert view.describe()["stream"] == number
    view.release()
    view = probe.acquire(array, make_stream("0"), {})
    assert view.describe()["stream"] == LEGACY
    view.release()


# -------------------------------------------------------------------------------------- what a DLPack producer is told

ASKING = [("adopt", [1]), ("block", [1]), ("none", [-1]), (0, [1]), (1, [1]), (2, [2])]


@pytest.mark.parametrize("order, asked", ASKING)
def test_pitfall_40_dlpack_producer_is_told_the_stream(order, asked):
    array = producers.DLPack(np.zeros(4, "f4"))
    probe.acquire(array, order, {}).release()
    assert [call["stream"] for call in array.asked] == asked
    assert [type(call["stream"]) for call in array.asked] == [int]
    assert array.asked[0]["max_version"] == (1, 3) and type(array.asked[0]["max_version"]) is tuple


def test_pitfall_40_dlpack_producer_is_told_a_handle():
    stream = make_stream("non-blocking")
    array = producers.DLPack(np.zeros(4, "f4"))
    probe.acquire(array, stream, {}).release()
    assert [call["stream"] for call in array.asked] == [stream]


@pytest.mark.parametrize("order", ["adopt", "block", "none", 1, 2])
def test_pitfall_40_producer_of_host_memory_is_told_no_stream(order):
    array = producers.DLPack(np.zeros(4, "f4"), kind="pinned")
    probe.acquire(array, order, ANY).release()
    assert [call["stream"] for call in array.asked] == [None]


def test_order_none_asks_for_legacy_where_minus_one_is_refused():
    """JAX takes -1 for a handle."""
    array = producers.refusing(-1)(np.zeros(4, "f4"))
    probe.acquire(array, "none", {}).release()
    assert [call["stream"] for call in array.asked] == [-1, 1]
    assert emulated.calls("cudaStreamSynchronize") == []


def test_pitfall_40_per_thread_stream_is_ordered_by_cai_where_the_producer_refuses_it():
    """torch refuses 2. The producer's work is then ordered before another stream, and from there by cai."""
    loan = Loan("dlpack", make_stream("non-blocking"))
    array = loan.give()
    array.refuses = (2,)
    view = probe.acquire(array, PER_THREAD, {})
    del array
    assert view.describe()["stream"] == PER_THREAD
    seen = loan.read_later(PER_THREAD)
    loan.synchronize(PER_THREAD)
    assert seen == [NEW]
    loan.synchronize(PER_THREAD)
    later = loan.read_later(PER_THREAD)
    view.release()
    loan.synchronize(PER_THREAD)
    settle(lambda: loan.given_back == 1)
    assert later == [NEW]


@pytest.mark.parametrize("refuses", [(1,), (1, -1)])
def test_a_producer_that_refuses_the_stream_is_never_asked_without_it(refuses):
    """pitfall 36: without the stream, the order would be lost silently."""
    array = producers.refusing(*refuses)(np.zeros(4, "f4"))
    with pytest.raises(probe.InterfaceNotImplementedError, match="stream 1 is refused") as raised:
        probe.acquire(array, "adopt", {})
    assert isinstance(raised.value.__cause__, BufferError)
    assert {call["stream"] for call in array.asked} == {1}


@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
@pytest.mark.parametrize("kind", ["non-blocking", "legacy"])
def test_pitfall_41_the_arrays_device_is_current_in_dlpack(order, kind):
    stream = make_stream(kind, 1)
    array = producers.DLPack(np.zeros(4, "f4"), device=1, stream=stream)
    probe.acquire(array, stream if order == "wait" else order, {}).release()
    assert [call["device"] for call in array.asked] == [1]
    assert emulated.get_device() == 0


def test_pitfall_41_the_device_is_restored_when_the_producer_raises():
    class Raising(producers.DLPack):
        def __dlpack__(self, *, stream=None, max_version=None):
            raise RuntimeError(f"on device {emulated.get_device()}")

    with pytest.raises(probe.InterfaceNotImplementedError, match="on device 1"):
        probe.acquire(Raising(np.zeros(4, "f4"), device=1), "adopt", {})
    assert emulated.get_device() == 0


# ------------------------------------------------------------------------------------------- numbers that are streams


@pytest.mark.parametrize("number", [-1, -2, 2**64, 2**70, "1", 1.0, (1,), [], True, object()],
                         ids=lambda value: repr(value)[:12])
def test_pitfall_12_what_is_no_stream_is_refused(number):
    array = producers.Interface(np.zeros(4, "f4"), overrides={"stream": number})
    with pytest.raises(probe.InvalidStreamError, match="'x'.*stream"):
        probe.acquire(array, "adopt", {})


@pytest.mark.parametrize("number, stream", [(0, 1), (1, 1), (2, 2)])
def test_pitfall_12_small_numbers_are_the_default_streams(number, stream):
    array = producers.Interface(np.zeros(4, "f4"), overrides={"stream": number})
    view = probe.acquire(array, "adopt", {})
    assert view.describe()["stream"] == stream
    assert view.describe()["flags"] & probe.HAS_STREAM


def test_pitfall_12_a_handle_may_be_anything_with_index():
    class Handle:
        def __index__(self):
            return stream

    stream = make_stream("non-blocking")
    view = probe.acquire(producers.Interface(np.zeros(4, "f4"), overrides={"stream": Handle()}), "adopt", {})
    assert view.describe()["stream"] == stream


@pytest.mark.parametrize("version, stream, flags", [
    (3, None, 0), (3, ..., 0), (4, None, 0), (2, None, SAYS_NOT), (2, ..., SAYS_NOT), (0, ..., SAYS_NOT),
    (..., ..., SAYS_NOT), (3, 1, KNOWS), (4, 2, KNOWS),
])
def test_pitfall_11_three_states_of_order(version, stream, flags):
    """None needed, given, not told: a missing stream means the first only from version 3 on."""
    array = producers.Interface(np.zeros(4, "f4"), overrides={"version": version, "stream": stream})
    view = probe.acquire(array, "adopt", {})
    assert view.describe()["flags"] & (KNOWS | SAYS_NOT) == flags


@pytest.mark.parametrize("version", [0, 1, 2])
def test_pitfall_11_old_interfaces_are_ordered_as_if_on_legacy(version):
    stream = make_stream("non-blocking")
    loan = Loan(f"interface-v{version}")
    view = probe.acquire(loan.give(), stream, {})
    seen = loan.read_later(stream)
    loan.synchronize(stream)
    assert seen == [NEW]
    view.release()


def test_tables_that_tell_no_stream_are_asked_once_for_the_arrays_device():
    loan = Loan("table", make_stream("non-blocking", 1), device=1)
    array = loan.give()
    probe.acquire(array, "adopt", {}).release()
    assert tables.asked_for() == (1, dlpack.CUDA, 1)


def test_a_table_that_fails_to_tell_its_stream_is_passed_over():
    array = loans.table_array(loans.Owning)
    tables.set_stream(-1)
    with pytest.raises(probe.InterfaceNotImplementedError, match="no stream today"):
        probe.acquire(array, "adopt", {})
    assert array.counts() == {"lent": 0, "owned": 1, "deleted": 1}


# --------------------------------------------------------------------------------------------------- pinned memory

# A __dlpack__ of host memory is told no stream: its producer answers when the memory is complete.
PINNED = {"memory": probe.ON_PINNED}
PINNED_SOURCES = ["interface-v3", "interface-v3-no-stream", "interface-v2", "torch", "table", "table-null-stream",
                  "dlpack", "capsule"]


@pytest.mark.parametrize("source", PINNED_SOURCES)
@pytest.mark.parametrize("order", ["adopt", "wait"])
def test_pinned_memory_is_complete_for_the_host_after_release(source, order):
    """Host code sees it at once, so that no stream can order it."""
    loan = Loan(source, make_stream("non-blocking"), kind="pinned", pending=source not in ("dlpack",))
    array = loan.give()
    view = probe.acquire(array, make_stream("non-blocking") if order == "wait" else order, PINNED)
    loan.write_later(view.describe()["stream"])
    view.release()
    if source != "capsule":
        assert loan.given_back == (1 if source == "dlpack" else 0)
    assert loan.now() == (loans.POISON if loan.given_back else USED)
    emulated.run_all()
    assert loan.now() == (loans.POISON if loan.given_back else USED)


@pytest.mark.parametrize("source", [source for source in PINNED_SOURCES if source != "dlpack"])
@pytest.mark.parametrize("order", ["adopt", "wait"])
def test_pinned_memory_shows_the_producers_work(source, order):
    loan = Loan(source, make_stream("non-blocking"), kind="pinned")
    view = probe.acquire(loan.give(), make_stream("non-blocking") if order == "wait" else order, PINNED)
    stream = view.describe()["stream"]
    seen = loan.read_later(stream)
    loan.synchronize(stream)
    assert seen == [NEW]


@pytest.mark.parametrize("source", PINNED_SOURCES)
def test_pinned_memory_is_complete_after_a_block(source):
    loan = Loan(source, make_stream("non-blocking"), kind="pinned", pending=source != "dlpack")
    view = probe.acquire(loan.give(), "block", PINNED)
    assert loan.now() == NEW
    emulated.clear_calls()
    view.release()
    assert emulated.calls("cudaStreamSynchronize") == []


@pytest.mark.parametrize("source", PINNED_SOURCES)
def test_pinned_memory_is_not_ordered_with_order_none(source):
    loan = Loan(source, make_stream("non-blocking"), kind="pinned")
    probe.acquire(loan.give(), "none", PINNED).release()
    assert calls_beyond(HARMLESS) == []


def test_pinned_memory_that_needs_no_order_is_not_waited_for_before_the_work():
    """Pinned memory is ordered as its producer says; only the end differs."""
    loan = Loan("interface-v3-no-stream", kind="pinned")
    view = probe.acquire(loan.give(), make_stream("non-blocking"), PINNED)
    assert emulated.calls("cudaStreamSynchronize") == []
    view.release()


@pytest.mark.parametrize("stream", [LEGACY, PER_THREAD])
@pytest.mark.parametrize("order", ["adopt", "wait"])
def test_pinned_memory_is_complete_whatever_device_is_current_at_release(stream, order):
    """pitfall 55: 1 and 2 mean the streams of the device that was current when they were said."""
    loan = Loan("interface-v3", stream, kind="pinned", pending=False)
    array = loan.give()
    view = probe.acquire(array, stream if order == "wait" else order, PINNED)
    loan.write_later(stream)
    with emulated.current_device(1):
        view.release()
    assert loan.now() == USED


# ----------------------------------------------------------------------------------------------------- two devices

@pytest.mark.parametrize("source, pair", ORDERED)
def test_pitfall_55_default_streams_are_those_of_the_arrays_device(source, pair):
    """An array on device 1 while device 0 is current: 0, 1 and 2 mean the streams of device 1 to both sides."""
    producer, consumer = streams(pair, device=1)
    loan = Loan(source, producer, device=1)
    view = probe.acquire(loan.give(), consumer, {})
    seen = loan.read_later(consumer)
    assert emulated.get_device() == 0
    loan.synchronize(consumer)
    assert seen == [NEW]
    later = loan.read_later(consumer)
    view.release()
    assert emulated.get_device() == 0
    if loan.tells == KNOWN:
        loan.synchronize(producer)
    loan.synchronize(consumer)
    settle(lambda: loan.given_back == 1)
    if loan.tells != READY:
        assert later == [NEW]


@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
@pytest.mark.parametrize("source", loans.ALL)
def test_pitfall_55_every_order_leaves_the_current_device_alone(source, order):
    loan = Loan(source, make_stream("legacy"), device=1)
    with emulated.current_device(0):
        view = probe.acquire(loan.give(), make_stream("per-thread") if order == "wait" else order, {})
        assert emulated.get_device() == 0
        view.release()
        assert emulated.get_device() == 0


@pytest.mark.parametrize("source", loans.ALL)
def test_pitfall_55_the_device_is_left_alone_when_a_wait_fails(source):
    loan = Loan(source, make_stream("per-thread"), device=1)
    emulated.fail("cudaStreamSynchronize", 1, 719)
    with contextlib.suppress(probe.CudaCallError):
        probe.acquire(loan.give(), make_stream("non-blocking", 1), {}).release()
    assert emulated.get_device() == 0
    emulated.clear_failures()


def test_a_stream_of_another_device_can_be_waited_for():
    """The producer's stream and the consumer's may lie on different devices: the data's device says nothing of them."""
    producer, consumer = make_stream("non-blocking", 1), make_stream("non-blocking", 0)
    memory = producers.Memory(np.frombuffer(loans.OLD, "f4"), "managed")
    with emulated.current_device(1):
        emulated.launch_write(producer, memory.pointer, NEW)
    array = producers.Interface(np.zeros(4, "f4"), kind="managed", overrides={
        "data": (memory.pointer, False), "stream": producer})
    view = probe.acquire(array, consumer, {"memory": probe.ON_MANAGED})
    seen = []
    emulated.launch(consumer, lambda: seen.append(emulated.read(memory.pointer, loans.NBYTES)))
    emulated.synchronize(consumer)
    assert seen == [NEW]
    view.release()


# ------------------------------------------------------------------------------------------- the stream of a thread


def on_another_thread(function):
    """Run a function on a thread of its own, and raise what it raises."""
    raised = []

    def run():
        try:
            function()
        except BaseException as exception:
            raised.append(exception)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("source", ["interface-v3", "torch", "table"])
@pytest.mark.parametrize("consumer", loans.STREAM_KINDS)
def test_the_per_thread_stream_is_that_of_the_calling_thread(source, consumer):
    def use():
        loan = Loan(source, PER_THREAD)
        stream = make_stream(consumer)
        view = probe.acquire(loan.give(), stream, {})
        seen = loan.read_later(stream)
        loan.synchronize(stream)
        assert seen == [NEW]
        later = loan.read_later(stream)
        view.release()
        loan.synchronize(PER_THREAD)
        loan.synchronize(stream)
        assert later == [NEW]

    on_another_thread(use)


@pytest.mark.parametrize("source", sources(SILENT, ASKED))
def test_memory_is_kept_for_work_on_the_stream_of_another_thread(source):
    """pitfall 52: 2 is used only on the thread it came from; elsewhere it names another stream."""
    loan = Loan(source, LEGACY, pending=False)
    view = probe.acquire(loan.give(), PER_THREAD, {})
    seen = loan.read_later(PER_THREAD)
    on_another_thread(view.release)
    loan.synchronize(PER_THREAD)
    settle(lambda: loan.given_back == 1)
    assert seen == [NEW]


# -------------------------------------------------------------------------------------------------------- captures


class Capture:
    """A graph capture that must come out intact: it is ended, replayed, and what it wrote is compared."""

    def __init__(self, stream, mode=emulated.THREAD_LOCAL, device=0):
        self.stream, self.mode, self.device = stream, mode, device
        self.first, self.last = (emulated.allocate(4, device=device) for _ in range(2))

    def __enter__(self):
        with emulated.current_device(self.device):
            emulated.begin_capture(self.stream, self.mode)
            emulated.launch_write(self.stream, self.first, b"one ")
        emulated.clear_calls()
        return self

    def __exit__(self, exception_type, exception, traceback):
        with emulated.current_device(self.device):
            emulated.launch_write(self.stream, self.last, b"two ")
            graph = emulated.end_capture(self.stream)
            if exception_type is None:
                emulated.write(self.first, b"....")
                emulated.write(self.last, b"....")
                emulated.replay(graph, self.stream)
                assert emulated.read(self.first, 4) + emulated.read(self.last, 4) == b"one two "


CAPTURING = ["non-blocking", "blocking", "per-thread"]

MODES = [pytest.param(emulated.GLOBAL, id="global"), pytest.param(emulated.THREAD_LOCAL, id="thread-local"),
         pytest.param(emulated.RELAXED, id="relaxed")]


@pytest.mark.parametrize("source", ["interface-v3", "torch", "table"])
@pytest.mark.parametrize("kind", CAPTURING)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["adopt", "none", "wait"])
def test_work_on_the_capturing_stream_of_the_producer_is_captured(source, kind, mode, order):
    stream = make_stream(kind)
    loan = Loan(source, stream, pending=False)
    array = loan.give()
    emulated.write(loan.pointer, loans.OLD)
    with Capture(stream, mode):
        loan.write_later(stream)
        view = probe.acquire(array, stream if order == "wait" else order, {})
        assert view.describe()["stream"] == stream
        seen = loan.read_later(stream)
        assert view.release() == "OK"
        assert calls_beyond(LOOKING | LENDER | CONSUMER) == []
        assert loan.now() == loans.OLD
    assert seen == [USED]  # by the replay


@pytest.mark.parametrize("source", ["interface-v3-no-stream"])
@pytest.mark.parametrize("kind", CAPTURING)
def test_a_producer_that_needs_no_order_can_be_used_in_a_capture(source, kind):
    stream = make_stream(kind)
    loan = Loan(source)
    array = loan.give()
    with Capture(stream):
        view = probe.acquire(array, stream, {})
        seen = loan.read_later(view.describe()["stream"])
        view.release()
    assert seen == [NEW]


def borders():
    """Sources with producer and consumer of which one captures: what would need a wait that a capture forbids."""
    for kind in CAPTURING:
        for source in sources(KNOWN, SILENT, ASKED):
            yield source, "legacy" if source in sources(SILENT) else "non-blocking", kind, "consumer"
        for source in sources(KNOWN):
            yield source, kind, "non-blocking", "producer"


@pytest.mark.parametrize("source, producer, consumer, side", [
    pytest.param(*row, id=f"{row[0]}-{row[1]}-before-{row[2]}-{row[3]}-captures") for row in borders()])
@pytest.mark.parametrize("mode", MODES)
def test_a_wait_across_a_captures_border_is_refused(source, producer, consumer, side, mode):
    """pitfall 51: refused before a stream is touched, naming the way out, and the capture comes out intact."""
    producer, consumer = make_stream(producer), make_stream(consumer)
    loan = Loan(source, producer, pending=False)
    array = loan.give()
    with Capture(consumer if side == "consumer" else producer, mode):
        with pytest.raises(probe.StreamCaptureError, match=r"'x'.*captur.*cai_order_none\(\)"):
            probe.acquire(array, consumer, {})
        assert calls_beyond(LOOKING) == []
    if loan.tells == ASKED:
        assert array.asked == []  # its producer would have broken the capture


@pytest.mark.parametrize("source", ["interface-v3", "torch", "interface-v2", "interface-v0", "table-no-stream"])
@pytest.mark.parametrize("mode", MODES)
def test_the_legacy_stream_is_not_touched_while_a_blocking_stream_captures(source, mode):
    """Recording anything on legacy, even waiting for it, would break the capture (906)."""
    capturing = make_stream("blocking")
    loan = Loan(source, LEGACY, pending=False)
    array = loan.give()
    with Capture(capturing, mode):
        for order in (make_stream("non-blocking"), capturing, "block"):
            with pytest.raises(probe.StreamCaptureError, match=r"captur.*cai_order_none\(\)"):
                probe.acquire(array, order, {})
        assert calls_beyond(LOOKING | {"cudaStreamCreateWithFlags"}) == []


@pytest.mark.parametrize("source", ["dlpack", "dlpack-legacy"])
@pytest.mark.parametrize("order", ["adopt", "block"])
def test_a_dlpack_producer_is_not_told_legacy_while_a_blocking_stream_captures(source, order):
    array = Loan(source, pending=False).give()
    with Capture(make_stream("blocking")):
        with pytest.raises(probe.StreamCaptureError, match=r"captur.*cai_order_none\(\)"):
            probe.acquire(array, order, {})
    assert array.asked == []


@pytest.mark.parametrize("order, refuses", [("none", -1), (PER_THREAD, 2)], ids=["none", "per-thread"])
@pytest.mark.parametrize("mode", MODES)
def test_a_dlpack_producer_is_not_told_legacy_as_a_second_choice_either(order, refuses, mode):
    """Who refuses -1 (JAX) or 2 (torch) is asked with 1, which must not be said while that breaks a capture."""
    array = producers.refusing(refuses)(np.zeros(4, "f4"), stream=make_stream("non-blocking"))
    with Capture(make_stream("blocking"), mode):
        with pytest.raises(probe.StreamCaptureError, match="captur"):
            probe.acquire(array, order, {})
        assert [call["stream"] for call in array.asked] == [refuses]


@pytest.mark.parametrize("source", sources(KNOWN))
@pytest.mark.parametrize("kind", CAPTURING)
def test_the_host_cannot_wait_for_a_capturing_stream(source, kind):
    stream = make_stream(kind)
    array = Loan(source, stream, pending=False).give()
    with Capture(stream):
        with pytest.raises(probe.StreamCaptureError, match=r"'x'.*captur"):
            probe.acquire(array, "block", {})


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("kind", CAPTURING)
@pytest.mark.parametrize("mode", MODES)
def test_order_none_is_possible_in_every_capture(source, kind, mode):
    stream = make_stream(kind)
    loan = Loan(source, stream, pending=False)
    array = loan.give()
    with Capture(stream, mode):
        view = probe.acquire(array, "none", {})
        seen = loan.read_later(stream)
        view.release()
        assert calls_beyond(LOOKING | LENDER | CONSUMER) == []
        after = loan.now()
    assert seen == [after]
    assert after == (loans.POISON if source in sources(ASKED) + ["capsule"] else NEW)


ELSEWHERE = [pytest.param(mode, thread, id=f"{name}-{'another' if thread else 'this'}-thread")
             for mode, name in ((emulated.GLOBAL, "global"), (emulated.THREAD_LOCAL, "thread-local"),
                                (emulated.RELAXED, "relaxed")) for thread in (False, True)]


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
@pytest.mark.parametrize("mode, other_thread", ELSEWHERE)
def test_a_capture_elsewhere_is_never_broken(source, order, mode, other_thread):
    """Somebody captures on a stream that has nothing to do with the array; the order is made all the same."""
    producer, consumer = make_stream("non-blocking"), make_stream("non-blocking")
    loan = Loan(source, producer)
    held = [loan.give()]

    def use():
        view = probe.acquire(held[0], consumer if order == "wait" else order, {})
        if order == "block":
            shown.append(loan.now())
        elif order != "none":
            shown.append(loan.read_later(view.describe()["stream"]))
        view.release()

    shown = []
    with Capture(make_stream("non-blocking"), mode):
        if other_thread:
            on_another_thread(use)
        else:
            use()
    held.clear()
    settle(lambda: loan.given_back == 1)
    emulated.run_all()
    if loan.tells != READY and order != "none":
        assert shown in ([NEW], [[NEW]])


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
@pytest.mark.parametrize("mode, other_thread", ELSEWHERE)
def test_a_capture_on_a_blocking_stream_elsewhere_is_never_broken(source, order, mode, other_thread):
    """While a blocking stream captures, legacy cannot be used: what needs it is refused, and the capture is intact."""
    producer, consumer = make_stream("non-blocking"), make_stream("non-blocking")
    loan = Loan(source, producer, pending=False)
    array = loan.give()

    def use():
        probe.acquire(array, consumer if order == "wait" else order, {}).release()

    needs_legacy = loan.tells in (SILENT, ASKED) and order != "none" and (loan.tells, order) != (ASKED, "wait")
    needs_legacy &= (loan.tells, order) != (SILENT, "adopt")
    with Capture(make_stream("blocking"), mode):
        with pytest.raises(probe.StreamCaptureError) if needs_legacy else contextlib.nullcontext():
            if other_thread:
                on_another_thread(use)
            else:
                use()


@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
@pytest.mark.parametrize("mode, other_thread", ELSEWHERE)
@pytest.mark.parametrize("kind", ["non-blocking", "blocking"])
def test_a_capture_elsewhere_survives_pinned_memory(order, mode, other_thread, kind):
    loan = Loan("interface-v3", make_stream("non-blocking"), kind="pinned", pending=False)
    consumer = make_stream("non-blocking")
    array = loan.give()

    def use():
        probe.acquire(array, consumer if order == "wait" else order, PINNED).release()

    with Capture(make_stream(kind), mode):
        if other_thread:
            on_another_thread(use)
        else:
            use()


@pytest.mark.parametrize("kind", CAPTURING)
def test_pinned_memory_can_be_used_in_a_capture(kind):
    stream = make_stream(kind)
    loan = Loan("interface-v3", stream, kind="pinned", pending=False)
    array = loan.give()
    with Capture(stream):
        view = probe.acquire(array, "adopt", PINNED)
        loan.write_later(view.describe()["stream"])
        assert view.release() == "OK"
    assert loan.now() == USED


def test_pinned_memory_that_needs_no_order_can_be_used_in_a_capture():
    stream = make_stream("non-blocking")
    loan = Loan("interface-v3-no-stream", kind="pinned")
    array = loan.give()
    with Capture(stream):
        view = probe.acquire(array, stream, PINNED)
        loan.write_later(stream)
        view.release()
    assert loan.now() == USED


@pytest.mark.parametrize("source", sources(SILENT, ASKED))
def test_nothing_is_kept_under_a_capture(source):
    """Whoever replays a graph keeps its arrays himself."""
    stream = make_stream("non-blocking")
    loan = Loan(source, stream, pending=False)
    array = loan.give()
    view = probe.acquire(array, stream, {})
    del array
    with Capture(stream):
        assert view.release() == "OK"
    settle(lambda: loan.given_back == 1)


@pytest.mark.parametrize("source", sources(SILENT, ASKED))
def test_memory_is_kept_for_work_on_legacy_that_no_capture_holds(source):
    """It was enqueued before; that a blocking stream captures by the time of the release is somebody else's matter."""
    loan = Loan(source, LEGACY, pending=False)
    view = probe.acquire(loan.give(), "adopt", {})
    seen = loan.read_later(LEGACY)
    with Capture(make_stream("blocking")):
        view.release()
    loan.synchronize(LEGACY)
    settle(lambda: loan.given_back == 1)
    assert seen == [NEW]


@pytest.mark.parametrize("device", [0, 1])
def test_a_capture_on_one_device_does_not_concern_the_other(device):
    """Legacy is unusable while a blocking stream of its own device captures, and only then."""
    loan = Loan("interface-v3", LEGACY, device=1)
    array = loan.give()
    consumer = make_stream("non-blocking", 1)
    with Capture(make_stream("blocking", device), device=device):
        if device == 1:
            with pytest.raises(probe.StreamCaptureError):
                probe.acquire(array, consumer, {})
            return
        view = probe.acquire(array, consumer, {})
        seen = loan.read_later(consumer)
        view.release()
    loan.synchronize(consumer)
    assert seen == [NEW]


# ------------------------------------------------------------------------------------------- pitfall 54: nothing hidden


@pytest.mark.parametrize("require", ["C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS"])
@pytest.mark.parametrize("order", ["adopt", "block", "none", 1])
def test_pitfall_54_no_copy_is_made_for_a_layout(require, order):
    """A copy would have to be ordered, and would lose what is written to it."""
    array = producers.Interface(np.zeros((4, 4), "f4"), overrides={"shape": (2, 2), "strides": (32, 8)})
    emulated.clear_calls()
    with pytest.raises(probe.LayoutMismatchError):
        probe.acquire(array, order, {"require": getattr(probe, require)})
    assert emulated.call_names() == ["cudaPointerGetAttributes"]
    view = probe.acquire(array, order, {})
    assert view.describe()["pointer"] == array.pointer
    assert not view.describe()["flags"] & probe.COPIED


@pytest.mark.parametrize("source", sources(KNOWN, SILENT, ASKED))
@pytest.mark.parametrize("order, done", [("adopt", False), ("none", False), ("block", True)])
def test_pitfall_54_the_order_says_what_is_waited_for(source, order, done):
    loan = Loan(source, make_stream("non-blocking"))
    view = probe.acquire(loan.give(), order, {})
    assert loan.now() == (NEW if done else loans.OLD)
    view.release()


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
def test_pitfall_54_nothing_is_allocated_or_copied(source, order):
    loan = Loan(source, make_stream("non-blocking"))
    allocations = emulated.count_allocations()
    consumer = make_stream("non-blocking")
    view = probe.acquire(loan.give(), consumer if order == "wait" else order, {})
    assert view.describe()["pointer"] == loan.pointer
    assert emulated.count_allocations() == allocations
    assert not [name for name in emulated.call_names() if "Memcpy" in name or "Malloc" in name or "Memset" in name]
    view.release()
    assert not [name for name in emulated.call_names() if "Memcpy" in name or "Malloc" in name]


# ------------------------------------------------------------------------------------ pitfall 59: waiting without GIL


@pytest.fixture
def waits():
    """How often a call blocked the host, and how often its thread held the GIL: what faults.count_waits answers."""
    emulated.set_blocking_hook(faults.wait_hook())
    yield faults.count_waits
    emulated.set_blocking_hook(None)


def test_pitfall_59_the_check_sees_a_wait_that_holds_the_gil(waits):
    """PyDLL keeps the GIL, as a library that forgets to release it does; CDLL does not."""
    library = ctypes.PyDLL("libcai_emulator.so")
    stream = make_stream("non-blocking")
    emulated.synchronize(stream)
    assert waits() == (1, 0)
    library.emulator_cudaStreamSynchronize(ctypes.c_void_p(stream))
    assert waits() == (2, 1)


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
@pytest.mark.parametrize("kind", ["device", "pinned"])
def test_pitfall_59_no_wait_holds_the_gil(source, order, kind, waits):
    stream, consumer = make_stream("non-blocking"), make_stream("non-blocking")
    loan = Loan(source, stream, kind=kind, pending=kind == "device")
    emulated.set_blocking_hook(faults.wait_hook())
    view = probe.acquire(loan.give(), consumer if order == "wait" else order, ANY)
    loan.read_later(view.describe()["stream"])
    view.release()
    assert waits()[1] == 0


@pytest.mark.parametrize("order", ["block", "wait"])
def test_pitfall_59_a_producer_that_needs_the_gil_can_finish(order):
    """A host function in front of the awaited work takes the GIL, as Python callbacks on streams do. Where the library
    keeps the GIL this hangs for ever, hence the process of its own."""
    children.run("""
        import ctypes, sys, threading
        import numpy as np
        import emulated, probe, producers

        stream, consumer, done = emulated.create_stream(), emulated.create_stream(), []
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: done.append(threading.get_ident()))
        emulated.cuda("cudaLaunchHostFunc", ctypes.c_void_p(stream), function, None)
        array = producers.Interface(np.zeros(4, "f4"), stream=stream)
        probe.acquire(array, consumer if sys.argv[1] == "wait" else sys.argv[1], {}).release()
        emulated.synchronize(stream)
        assert len(done) == 1 and done[0] != threading.get_ident()
    """, order, timeout=30)


@pytest.mark.parametrize("order", ["adopt", "wait"])
def test_pitfall_59_other_threads_run_while_memory_is_given_back(order, waits):
    loan = Loan("interface-v2")
    view = probe.acquire(loan.give(), make_stream("non-blocking") if order == "wait" else order, {})
    loan.read_later(view.describe()["stream"])
    emulated.set_blocking_hook(faults.wait_hook())
    view.release()
    assert waits()[1] == 0


# ------------------------------------------------------------------------------------------- how: events, and no waits


def host_waits():
    """Streams that the host waited for, each checked to lie in a bracket of the relaxed capture mode."""
    found, names = [], [(call["name"], call["flags"], call["stream"]) for call in emulated.calls()]
    for index, (name, _, stream) in enumerate(names):
        if name == "cudaStreamSynchronize":
            assert names[index - 1][:2] == ("cudaThreadExchangeStreamCaptureMode", emulated.RELAXED)
            assert names[index + 1][0] == "cudaThreadExchangeStreamCaptureMode"
            found.append(stream)
    return found


def event_orders():
    """Pairs of streams that were ordered by an event: recorded on the first, waited for by the second."""
    recorded, found = {}, []
    for call in emulated.calls():
        if call["name"] == "cudaEventRecord":
            recorded[call["event"]] = call["stream"]
        elif call["name"] == "cudaStreamWaitEvent":
            found.append((recorded[call["event"]], call["stream"]))
    return found


def late_calls():
    """Streams on which something was put to be given back."""
    return [call["stream"] for call in emulated.calls("cudaLaunchHostFunc")]


# source: {order: (orders at the acquire, orders at the release, whether it is given back late)}
EVENTS = {
    KNOWN: {"wait": ([(P, C)], [(C, P)], False), "adopt": ([], [], False), "none": ([], [], False)},
    READY: {"wait": ([], [], False), "adopt": ([], [], False), "none": ([], [], False)},
    SILENT: {"wait": ([(L, C)], [(C, L)], True), "adopt": ([], [], True), "none": ([], [], False)},
    ASKED: {"wait": ([], [], True), "adopt": ([], [], True), "none": ([], [], False)},
}


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["wait", "adopt", "none"])
@pytest.mark.parametrize("device", [0, 1])
def test_pitfall_50_streams_wait_for_streams_and_the_host_for_nothing(source, order, device, waits):
    producer, consumer = streams(("non-blocking", "non-blocking"), device)
    named = {P: producer, C: consumer, L: LEGACY}
    before, after, late = EVENTS[loan_tells(source)][order]
    loan = Loan(source, producer, device=device)
    view = probe.acquire(loan.give(), consumer if order == "wait" else order, {})
    if loan.tells != ASKED:  # whose producer orders its work itself
        assert event_orders() == [(named[first], named[second]) for first, second in before]
    emulated.clear_calls()
    assert view.release() == "OK"
    orders = event_orders()
    if late:  # and a helper stream waits for the consumer's
        helper, = late_calls()
        assert orders.pop() == (consumer if order == "wait" else LEGACY, helper)
    assert orders == [(named[first], named[second]) for first, second in after]
    assert waits() == (0, 0)
    assert loan.given_back == (0 if late else 1)


def loan_tells(source):
    return next(tells for tells in (KNOWN, READY, SILENT, ASKED) if source in sources(tells))


@pytest.mark.parametrize("source", loans.ALL)
def test_the_host_waits_once_where_the_order_is_to_block(source, waits):
    producer = make_stream("non-blocking")
    loan = Loan(source, producer)
    view = probe.acquire(loan.give(), "block", {})
    expected = {KNOWN: [producer], READY: [], SILENT: [LEGACY], ASKED: [LEGACY]}[loan.tells]
    assert host_waits() == expected
    assert event_orders() == [] or loan.tells == ASKED  # whose producer orders its work before legacy
    view.release()
    assert waits() == (len(expected), 0)


@pytest.mark.parametrize("order", ["wait", "adopt", "block", "none"])
def test_the_host_waits_for_the_consumer_of_pinned_memory(order):
    producer, consumer = streams(("non-blocking", "non-blocking"))
    expected = {"wait": ([], [consumer]), "adopt": ([], [producer]), "block": ([producer], []), "none": ([], [])}
    loan = Loan("interface-v3", producer, kind="pinned")
    view = probe.acquire(loan.give(), consumer if order == "wait" else order, PINNED)
    assert host_waits() == expected[order][0]
    emulated.clear_calls()
    view.release()
    assert host_waits() == expected[order][1]


def test_pitfall_40_events_stand_in_for_the_per_thread_stream_that_a_producer_refuses():
    """Legacy is implicitly ordered before the thread's stream, which is not to be relied on."""
    array = producers.refusing(2)(np.zeros(4, "f4"))
    view = probe.acquire(array, PER_THREAD, {})
    assert [call["stream"] for call in array.asked] == [2, 1]
    assert event_orders() == [(LEGACY, PER_THREAD)]
    emulated.clear_calls()
    view.release()
    assert event_orders()[0] == (PER_THREAD, LEGACY)
    assert host_waits() == []


def test_events_are_kept_from_one_use_to_the_next(probe):
    producer, consumer = streams(("non-blocking", "non-blocking"))
    array = producers.Interface(np.zeros(4, "f4"), stream=producer)
    for _ in range(10):
        probe.acquire(array, consumer, {}).release()
    assert len(emulated.calls("cudaEventCreateWithFlags")) == 1
    assert len(emulated.calls("cudaEventRecord")) == len(emulated.calls("cudaStreamWaitEvent")) == 20
    assert emulated.calls("cudaEventDestroy") == []


@pytest.mark.parametrize("order", ["wait", "adopt"])
def test_the_capture_mode_of_the_thread_is_as_it_was(order):
    """Also where a helper stream had to be made."""
    loan = Loan("interface-v2", make_stream("non-blocking"))
    probe.acquire(loan.give(), make_stream("non-blocking") if order == "wait" else order, {}).release()
    mode = ctypes.c_int(emulated.THREAD_LOCAL)
    emulated.cuda("cudaThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    assert mode.value == emulated.GLOBAL
    emulated.cuda("cudaThreadExchangeStreamCaptureMode", ctypes.byref(mode))


@pytest.mark.parametrize("mode", [emulated.THREAD_LOCAL, emulated.RELAXED])
def test_a_capture_mode_that_somebody_chose_is_put_back(mode):
    before = ctypes.c_int(mode)
    emulated.cuda("cudaThreadExchangeStreamCaptureMode", ctypes.byref(before))
    probe.acquire(Loan("interface-v3", make_stream("non-blocking")).give(), "block", {}).release()
    emulated.fail("cudaStreamSynchronize", 1, 719)
    with pytest.raises(probe.CudaCallError):
        probe.acquire(Loan("interface-v3", make_stream("non-blocking")).give(), "block", {})
    emulated.cuda("cudaThreadExchangeStreamCaptureMode", ctypes.byref(before))
    assert before.value == mode


def join(origin, stream):
    """Let a stream wait for another: a fork of its capture, or the join of one."""
    event = ctypes.c_void_p()
    emulated.cuda("cudaEventCreateWithFlags", ctypes.byref(event), ctypes.c_uint(2))
    emulated.cuda("cudaEventRecord", event, ctypes.c_void_p(origin))
    emulated.cuda("cudaStreamWaitEvent", ctypes.c_void_p(stream), event, ctypes.c_uint(0))
    emulated.cuda("cudaEventDestroy", event)


@pytest.mark.parametrize("source", ["interface-v3", "torch", "table"])
@pytest.mark.parametrize("origin", ["producer", "consumer"])
@pytest.mark.parametrize("mode", MODES)
def test_two_streams_of_one_capture_are_ordered_in_its_graph(source, origin, mode):
    """pitfall 51: both directions become edges, without which the capture could not even end."""
    producer, consumer = streams(("non-blocking", "non-blocking"))
    loan = Loan(source, producer, pending=False)
    array = loan.give()
    emulated.write(loan.pointer, loans.OLD)
    first, second = (producer, consumer) if origin == "producer" else (consumer, producer)
    with Capture(first, mode):
        join(first, second)
        fill(producer, loan, NEW)
        view = probe.acquire(array, consumer, {})
        seen = loan.read_later(consumer)
        loan.write_later(consumer)
        assert view.release() == "OK"
        after = loan.read_later(producer)
        assert loan.now() == loans.OLD
        join(second, first)
    assert seen == [NEW]
    assert after == [USED]


def fill(stream, loan, pattern):
    loans.fill_later(stream, loan.pointer, pattern)


@pytest.mark.parametrize("call", ["cudaEventCreateWithFlags", "cudaEventRecord", "cudaStreamWaitEvent",
                                  "cudaStreamIsCapturing"])
@pytest.mark.parametrize("source", ["interface-v3", "torch", "table", "interface-v2"])
def test_pitfall_55_a_failing_order_raises_and_gives_everything_back(source, call, probe):
    loan = Loan(source, make_stream("non-blocking"))
    emulated.fail(call, 1, 719)
    with pytest.raises(probe.CudaCallError, match=f"'x'.*{call}") as raised:
        probe.acquire(loan.give(), make_stream("non-blocking"), {})
    assert (raised.value.code, raised.value.name) == (719, "cudaErrorLaunchFailure")
    del raised
    gc.collect()
    assert loan.given_back == 1
    assert emulated.get_device() == 0


@pytest.mark.parametrize("call", ["cudaEventRecord", "cudaStreamWaitEvent"])
def test_a_failing_order_at_release_is_a_status_and_the_host_waits(call):
    """The memory must not go back under the consumer's work because of it."""
    producer, consumer = streams(("non-blocking", "non-blocking"))
    loan = Loan("interface-v3", producer, pending=False)
    view = probe.acquire(loan.give(), consumer, {})
    seen = loan.read_later(consumer)
    emulated.fail(call, 1, 719)
    assert view.release() == "CUDA_CALL"
    assert host_waits() == [consumer]
    assert seen == [NEW]
    assert loan.given_back == 1
    assert view.release() == "OK"


# --------------------------------------------------------------------------------------------- how: given back late

KEPT = sources(SILENT, ASKED)


class Gone:
    """Whether a lent array has come back by now, which nothing but time may bring about."""

    def __init__(self, loan, before=0):
        self.loan, self.before = loan, before

    def __call__(self):
        deadline = time.monotonic() + 5
        while self.loan.given_back == self.before and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.loan.given_back > self.before


@pytest.mark.parametrize("source", KEPT)
@pytest.mark.parametrize("order", ["adopt", "wait"])
def test_pitfall_56_memory_comes_back_by_itself_soon_after_the_work_is_done(source, order, probe):
    """No call is made, neither of cai nor of CUDA: a loop that only sleeps sees it come back."""
    consumer = make_stream("non-blocking")
    loan = Loan(source, LEGACY, pending=False)
    view = probe.acquire(loan.give(), consumer if order == "wait" else order, {})
    seen = loan.read_later(view.describe()["stream"])
    assert view.release() == "OK"
    assert loan.given_back == 0
    emulated.set_background(20)
    try:
        assert Gone(loan)()
    finally:
        emulated.set_background(-1)
    assert seen == [NEW]


@pytest.mark.parametrize("source", KEPT)
def test_a_release_does_not_wait_for_the_work(source, waits):
    consumer = make_stream("non-blocking")
    loan = Loan(source, LEGACY, pending=False)
    view = probe.acquire(loan.give(), consumer, {})
    seen = loan.read_later(consumer)
    view.release()
    assert seen == []
    assert waits() == (0, 0)
    emulated.run_all()
    assert (seen, loan.given_back) == ([NEW], 1)


def test_what_is_given_back_late_does_not_need_the_gil():
    """pitfall 59: CUDA's thread only puts it into the queue. Where it took the GIL, this would hang for ever, since PyDLL
    keeps the GIL while it waits for that thread; hence the process of its own."""
    children.run("""
        import ctypes
        import numpy as np
        import emulated, probe, producers

        array = producers.Interface(np.zeros(4, "f4"), version=2)
        probe.acquire(array, "adopt", {}).release()
        assert emulated.count_pending() > 0
        library = ctypes.PyDLL("libcai_emulator.so")
        library.emulator_run_all.restype = ctypes.c_size_t
        library.emulator_run_all()
        assert emulated.count_pending() == 0
    """, timeout=30)


def test_the_number_that_is_given_back_late_is_bounded(probe):
    """Beyond it the host waits, and the memory comes back at once."""
    consumer = make_stream("non-blocking")
    lent = [Loan("dlpack", make_stream("non-blocking"), pending=False) for _ in range(70)]
    emulated.launch(consumer, lambda: None)
    for loan in lent[:64]:
        probe.acquire(loan.give(), consumer, {}).release()
    assert (pools.late(probe), host_waits()) == (64, [])
    probe.acquire(lent[64].give(), consumer, {}).release()
    assert host_waits() == [consumer]
    assert lent[64].given_back == 1
    emulated.run_all()
    assert [loan.given_back for loan in lent[:65]] == [1] * 65
    assert pools.late(probe) == 0
    emulated.clear_calls()
    for loan in lent[65:]:
        probe.acquire(loan.give(), consumer, {}).release()
    assert host_waits() == []


@pytest.mark.parametrize("source", KEPT)
@pytest.mark.parametrize("call", ["cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaEventRecord",
                                  "cudaStreamWaitEvent", "cudaLaunchHostFunc", "cudaThreadExchangeStreamCaptureMode"])
def test_the_host_waits_where_nothing_can_be_given_back_late(source, call, probe):
    loan = Loan(source, LEGACY, pending=False)
    view = probe.acquire(loan.give(), "adopt", {})
    seen = loan.read_later(LEGACY)
    emulated.fail(call, 1, 719)
    assert view.release() == "OK"
    assert emulated.count_failures() == 0
    assert host_waits() == [LEGACY]
    assert (seen, loan.given_back) == ([NEW], 1)
    assert pools.late(probe) == 0


def test_a_wait_in_place_of_giving_back_late_may_fail(probe):
    loan = Loan("interface-v2", pending=False)
    view = probe.acquire(loan.give(), "adopt", {})
    emulated.fail("cudaEventRecord", 1, 719)
    emulated.fail("cudaStreamSynchronize", 1, 719)
    assert view.release() == "CUDA_CALL"
    assert loan.given_back == 1
    assert view.release() == "OK"


@pytest.mark.parametrize("source", KEPT)
def test_what_is_given_back_late_outlives_its_module(source):
    module = checks.load("probe")
    loan = Loan(source, LEGACY, pending=False)
    view = module.acquire(loan.give(), "adopt", {})
    seen = loan.read_later(LEGACY)
    view.release()
    del view, module
    gc.collect()
    assert loan.given_back == 0
    emulated.run_all()
    assert (seen, loan.given_back) == ([NEW], 1)


@pytest.mark.parametrize("source", KEPT)
def test_memory_comes_back_on_a_thread_of_the_interpreter(source):
    """Deleters and destructors of Python objects run where Python code runs, not on a thread of CUDA's."""
    threads = []

    class Noted(producers.Interface):
        def __del__(self):
            threads.append(threading.get_ident())

    loan = Loan(source, LEGACY, pending=False)
    beside = Noted(np.zeros(4, "f4"), version=2)
    probe.acquire(beside, "adopt", {}).release()
    probe.acquire(loan.give(), "adopt", {}).release()
    del beside
    emulated.run_all()
    assert loan.given_back == 1
    assert threads == [threading.get_ident()]


@pytest.mark.parametrize("source", KEPT)
@pytest.mark.parametrize("on_thread", [False, True], ids=["here", "on-another-thread"])
def test_pitfall_56_a_kept_array_goes_back_late_without_a_wait(source, on_thread, arrays, waits):
    """Behind what it was told to be used on, whichever thread lets go of it."""
    stream = make_stream("non-blocking")
    loan = Loan(source, LEGACY, pending=False)
    handle = arrays.keep(loan.give(), "adopt")
    seen = loan.read_later(stream)
    arrays.used_on(handle, stream)
    if on_thread:
        arrays.release_on_thread(handle, True)
    else:
        arrays.release(handle)
    assert (waits(), seen, loan.given_back) == ((0, 0), [], 0)
    emulated.run_all()
    assert (seen, loan.given_back) == ([NEW], 1)


# ---------------------------------------------------------------------------------------------------- without CUDA


@pytest.mark.parametrize("order", ["block", 1])
def test_without_cuda_a_device_array_cannot_be_ordered(order):
    array = producers.Interface(np.zeros(4, "f4"), stream=LEGACY if order == "block" else PER_THREAD)
    with pytest.raises(probe_host.DeviceMismatchError, match="CAI_NO_CUDA"):
        probe_host.acquire(array, order, {"memory": probe_host.ON_CUDA})


def test_without_cuda_a_device_array_can_be_described():
    stream = make_stream("non-blocking")
    array = producers.Interface(np.zeros(4, "f4"), stream=stream)
    view = probe_host.acquire(array, "none", {"memory": probe_host.ON_CUDA})
    assert view.describe()["pointer"] == array.pointer
    assert view.describe()["stream"] == stream
    assert view.release() == "OK"


# ------------------------------------------------------------------------- memory that the host and a device share


@pytest.mark.parametrize("before", [None, "ON_HOST"], ids=["new", "was-read-by-its-buffer"])
@pytest.mark.parametrize("kind, type_", [("pinned", 3), ("managed", 13)])
def test_a_numpy_array_that_tells_a_stream_is_ordered_by_it(kind, type_, before):
    """As Numba's arrays in pinned and managed memory, whatever of their type was read before."""
    class Shared(np.ndarray):
        @property
        def __cuda_array_interface__(self):
            return {"shape": self.shape, "typestr": "<f4", "data": (self.ctypes.data, False), "version": 3,
                    "strides": None, "stream": self.stream}

    def make():
        pointer = emulated.allocate(16, kind)
        emulated.write(pointer, loans.OLD)
        array = np.frombuffer((ctypes.c_char * 16).from_address(pointer), "f4").view(Shared)
        array.stream = emulated.create_stream()
        return array

    if before is not None:
        probe.acquire(make(), "adopt", checks.fields(probe, {"memory": before})).release()
    array = make()
    emulated.launch_write(array.stream, array.ctypes.data, loans.NEW)
    view = probe.acquire(array, "block", checks.fields(probe, {"memory": "ANYWHERE"}))
    assert view.describe()["device"][0] == type_
    assert array.tobytes() == loans.NEW
    view.release()
    array.stream = emulated.create_stream()
    emulated.launch_write(array.stream, array.ctypes.data, loans.OLD)
    view = probe.acquire(array, "block", checks.fields(probe, {"memory": "ON_HOST"}))
    assert view.describe()["device"] == (1, 0)
    assert array.tobytes() == loans.OLD
    view.release()


@pytest.mark.parametrize("order", ["adopt", "block", LEGACY])
@pytest.mark.parametrize("plain", [True, False])
def test_the_host_waits_for_a_stream_that_works_on_its_memory(order, plain):
    """Which CUDA does not know, and devices reach all the same where they share the host's pages."""
    memory, stream = np.frombuffer(bytearray(loans.OLD), "f4"), emulated.create_stream()
    interface = {"shape": (4,), "typestr": "<f4", "data": (memory.ctypes.data, False), "version": 3, "stream": stream}
    if not plain:
        interface["something else"] = None
    emulated.launch_write(stream, memory.ctypes.data, loans.NEW)
    source = types.SimpleNamespace(__cuda_array_interface__=interface)
    view = probe.acquire(source, order, checks.fields(probe, {"memory": "ANYWHERE"}))
    assert view.describe()["device"] == (1, 0)
    assert memory.tobytes() == loans.NEW
    view.release()


@pytest.mark.parametrize("plain", [True, False])
def test_host_memory_whose_stream_captures_is_refused(plain, unchanged):
    memory, stream = np.zeros(4, "f4"), emulated.create_stream()
    interface = {"shape": (4,), "typestr": "<f4", "data": (memory.ctypes.data, False), "version": 3, "stream": stream}
    if not plain:
        interface["something else"] = None
    source = types.SimpleNamespace(__cuda_array_interface__=interface)
    emulated.begin_capture(stream)
    with unchanged(source, interface):
        with pytest.raises(probe.StreamCaptureError, match="argument 'x': .*captures a graph.*CUDA Array Interface"):
            probe.acquire(source, "adopt", {"name": "x", "memory": probe.ANYWHERE})
    emulated.end_capture(stream)


def test_every_cuda_call_of_reading_a_shared_buffer_may_fail(unchanged):
    """Where only the buffer of an array in pinned memory is wanted, the host waits for the device: once that works."""
    class Shared(np.ndarray):
        @property
        def __cuda_array_interface__(self):
            return {"shape": self.shape, "typestr": "<f4", "data": (self.ctypes.data, False), "version": 3,
                    "strides": None, "stream": LEGACY}

    pointer = emulated.allocate(16, "pinned")
    array = np.frombuffer((ctypes.c_char * 16).from_address(pointer), "f4").view(Shared)
    failed = 0
    for nth in range(1, 30):
        emulated.fail(None, nth, 46)
        with unchanged(array):
            view, refusal = checks.catch(probe.acquire, array, "block", {"name": "x", "memory": probe.ON_HOST})
            passed = emulated.count_failures() > 0
            emulated.clear_failures()
            if view is not None:
                view.release()
            else:
                assert refusal.type is probe.CudaCallError and refusal.message.startswith("argument 'x': ")
                failed += 1
                del refusal
        if passed:
            break
    assert passed and failed >= 1


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_subclass_of_numpys_that_cannot_be_asked_for_an_interface(error):
    """It is read by its buffer and not remembered, unless the exception ends everything."""
    asked = []

    class Meta(type):
        def __getattribute__(cls, name):
            if name == "__cuda_array_interface__":
                asked.append(name)
                raise error("own")
            return super().__getattribute__(name)

    class Odd(np.ndarray, metaclass=Meta):
        pass

    array = np.arange(4, dtype="f4").view(Odd)
    for n in (1, 2):
        view, refusal = checks.catch(probe.acquire, array, "adopt", {"memory": probe.ON_HOST})
        assert len(asked) == n
        if error is MemoryError:
            assert refusal.type is MemoryError
        else:
            assert view.describe()["protocol"] == probe.VIA_BUFFER
            view.release()
