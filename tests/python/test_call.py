"""Several arguments as one call: the launch stream, the device, what arguments share, and one end for all of them."""

import ctypes
import gc
import itertools
import weakref

import numpy as np
import pytest

import author_view
import checks
import dlpack
import emulated
import loans
import probe
import probe_host
import producers
import tables
from emulated import LEGACY, PER_THREAD
from loans import ASKED, KNOWN, NEW, SILENT, Loan, make_stream, sources

HARMLESS = {"cudaPointerGetAttributes", "cudaGetDevice", "cudaSetDevice"}
LOOKING = HARMLESS | {"cudaStreamIsCapturing", "cudaGetLastError", "cudaStreamGetDevice", "cudaStreamGetId"}


@pytest.fixture(autouse=True)
def torch():
    with loans.torch_imported():
        yield


def named(*names, **fields):
    """Requests of those names, and the same fields for all."""
    return tuple({"name": name, **fields} for name in names)


def call(arguments, order="adopt", body=None, requests=None, **fields):
    """probe.call with arguments named a, b, c …"""
    requests = named(*"abcdefghijklmnop"[:len(arguments)], **fields) if requests is None else requests
    return probe.call(tuple(arguments), requests, order, body)


def interface(stream, n=4, **kwargs):
    return producers.Interface(np.zeros(n, "f4"), stream=stream, **kwargs)


def tensor(stream=None, **kwargs):
    """A lent tensor; all of them are on one stream, as torch's are."""
    if stream is not None:
        tables.set_stream(stream)
    return loans.table_array(loans.Tensor, **kwargs)


@pytest.fixture
def s():
    return make_stream("non-blocking")


@pytest.fixture
def t():
    return make_stream("non-blocking")


# ------------------------------------------------------------------------------------------------- the launch stream


def test_the_stream_of_order_wait_is_launched_on(s, t):
    assert call([interface(s), interface(t), tensor(s)], t)["stream"] == t
    assert call([interface(s)], 0)["stream"] == LEGACY
    assert call([interface(s)], PER_THREAD)["stream"] == PER_THREAD


@pytest.mark.parametrize("make", [interface, tensor])
@pytest.mark.parametrize("kind, expected", [("0", 1), ("legacy", 1), ("per-thread", 2), ("blocking", None),
                                            ("non-blocking", None)])
def test_the_only_known_stream_is_launched_on(make, kind, expected):
    stream = make_stream(kind)
    assert call([make(stream)])["stream"] == (stream if expected is None else expected)


def test_the_first_known_stream_is_launched_on(s, t):
    assert call([interface(s), interface(t)])["stream"] == s
    assert call([interface(t), interface(s)])["stream"] == t
    assert call([interface(s), tensor(t)])["stream"] == s
    assert call([tensor(t), interface(s)])["stream"] == t
    assert call([tensor(t), interface(s), producers.DLPack(np.zeros(4, "f4"))])["stream"] == t


UNTOLD = {
    "version-2": lambda: producers.Interface(np.zeros(4, "f4"), version=2),
    "no-stream": lambda: interface(None),
    "dlpack": lambda: producers.DLPack(np.zeros(4, "f4")),
    "table": lambda: loans.table_array(loans.OwningSilent),
    "empty": lambda: interface(make_stream("non-blocking"), 0),
    "empty-tensor": lambda: tensor(data=b"", shape=(0,)),
}


@pytest.mark.parametrize("untold", UNTOLD)
@pytest.mark.parametrize("first", [True, False])
def test_an_argument_without_a_stream_follows_one_that_has_one(untold, first, s):
    """Arrays without elements count last, whatever they tell."""
    other = UNTOLD[untold]()
    arguments = [other, interface(s)] if first else [interface(s), other]
    assert call(arguments)["stream"] == s
    if untold == "dlpack":
        assert [asked["stream"] for asked in other.asked] == [s]


def test_without_any_known_stream_legacy_is_launched_on():
    dlpacks = [producers.DLPack(np.zeros(4, "f4")) for _ in range(2)]
    arguments = [interface(None), producers.Interface(np.zeros(4, "f4"), version=2),
                 loans.table_array(loans.OwningSilent), *dlpacks]
    assert call(arguments)["stream"] == LEGACY
    assert [asked["stream"] for array in dlpacks for asked in array.asked] == [1, 1]


def test_arrays_without_elements_are_launched_on_their_own_stream_where_there_is_no_other(s, t):
    assert call([interface(s, 0), interface(t, 0)])["stream"] == s
    assert call([interface(None), interface(s, 0)])["stream"] == s


@pytest.mark.parametrize("order", ["adopt", "wait"])
def test_dlpack_arguments_come_after_all_others_and_are_told_the_launch_stream(order, s, t):
    """In whatever position: asking them earlier would be guessing."""
    for position in range(3):
        array = producers.DLPack(np.zeros(4, "f4"), stream=t)
        arguments = [interface(s), tensor(s)]
        arguments.insert(position, array)
        description = call(arguments, s if order == "wait" else order)
        assert description["stream"] == s
        assert [asked["stream"] for asked in array.asked] == [s]


# ------------------------------------------------------------------------------------------------------- captures


def test_the_capturing_stream_is_launched_on_and_another_one_is_refused(s, t):
    """A stream that does not capture beside one that does cannot be ordered: its argument is the one to be refused."""
    memory = emulated.allocate(4)
    inside, outsiders = interface(t), (interface(s), tensor(s))
    emulated.begin_capture(t)
    for outside, position in itertools.product(outsiders, (0, 1)):
        arguments = [outside, inside] if position == 0 else [inside, outside]
        emulated.clear_calls()
        with pytest.raises(probe.StreamCaptureError, match=f"argument '{'ab'[position]}'.*cai_order_none"):
            call(arguments)
        assert set(emulated.call_names()) <= LOOKING
    emulated.launch_write(t, memory, b"done")
    emulated.replay(emulated.end_capture(t), s)
    assert emulated.read(memory, 4) == b"done"


@pytest.mark.parametrize("others", [
    ["no-stream"], ["empty"], ["empty-tensor"], ["no-stream", "empty"]], ids="+".join)
@pytest.mark.parametrize("make", [interface, tensor])
@pytest.mark.parametrize("kind", ["non-blocking", "blocking", "per-thread"])
def test_a_call_in_a_capture_is_captured(others, make, kind):
    stream, seen = make_stream(kind), []
    arguments = [UNTOLD[other]() for other in others] + [make(stream)]
    emulated.begin_capture(stream)
    emulated.clear_calls()
    description = call(arguments,
                       body=lambda call: emulated.launch(call["stream"], lambda: seen.append(1)) or call)
    assert description["stream"] == stream
    assert "cudaStreamSynchronize" not in emulated.call_names()
    graph = emulated.end_capture(stream)
    assert seen == []
    emulated.replay(graph, stream)
    assert seen == [1]


@pytest.mark.parametrize("order", ["adopt", "wait"])
@pytest.mark.parametrize("position", [0, 1])
def test_a_dlpack_argument_is_refused_while_the_launch_stream_captures(order, position, s):
    """Its producer would break the capture, and is not asked. With order none it is."""
    array = producers.DLPack(np.zeros(4, "f4"), stream=make_stream("non-blocking"))
    arguments = [interface(s)]
    arguments.insert(position, array)
    emulated.begin_capture(s)
    with pytest.raises(probe.StreamCaptureError, match=f"'{'ab'[position]}'.*" r"cai_order_none\(\)"):
        call(arguments, s if order == "wait" else order)
    assert array.asked == []
    call(arguments, "none")
    assert [asked["stream"] for asked in array.asked] == [-1]
    emulated.replay(emulated.end_capture(s), s)


def test_arguments_of_one_stream_are_not_asked_for_a_capture(s):
    arguments = [interface(s), tensor(s), interface(s)]
    emulated.clear_calls()
    call(arguments)
    assert set(emulated.call_names()) <= HARMLESS


@pytest.mark.parametrize("order", ["adopt", "block", "wait"])
def test_no_argument_is_waited_for_when_another_one_is_refused(order, s, t):
    """All are seen to be possible before a stream is touched, so that nothing is half done."""
    arguments, seen = [interface(s), tensor(s), interface(t)], []
    emulated.launch(s, lambda: seen.append(1))
    emulated.begin_capture(t)
    with pytest.raises(probe.StreamCaptureError, match="'c'" if order != "adopt" else "'[ab]'"):
        call(arguments, LEGACY if order == "wait" else order)
    assert set(emulated.call_names()) & {"cudaStreamSynchronize", "cudaEventRecord", "cudaStreamWaitEvent"} == set()
    assert seen == []
    emulated.replay(emulated.end_capture(t), t)


@pytest.mark.parametrize("mode", [emulated.GLOBAL, emulated.THREAD_LOCAL], ids=["global", "thread-local"])
def test_a_call_never_breaks_a_capture_elsewhere(mode, s, t):
    capturing, seen = make_stream("non-blocking"), []
    lent = [Loan(source, s) for source in loans.ALL if source != "torch"]
    emulated.begin_capture(capturing, mode)
    emulated.launch(capturing, lambda: seen.append(1))
    call([loan.give() for loan in lent], t)
    graph = emulated.end_capture(capturing)
    emulated.replay(graph, capturing)
    assert seen == [1]
    emulated.run_all()
    assert [loan.given_back for loan in lent] == [1] * len(lent)


# ------------------------------------------------------------------------------------------------ ordering several


@pytest.mark.parametrize("order", ["adopt", "wait", "block"])
@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("pending", [True, False], ids=["before", "after"])
def test_every_argument_is_ordered_onto_the_launch_stream_and_back(order, device, pending):
    """One of every kind of producer, each on a stream of its own, with work pending there or none."""
    lent = [Loan(source, make_stream("non-blocking", device), device=device, pending=pending) for source in loans.ALL]
    consumer = make_stream("non-blocking", device)
    tables.set_stream(lent[loans.ALL.index("torch")].stream)
    # One number serves all tables, so that some do not tell where they work; and who needs no order gets none.
    unordered = {"table", "table-null-stream", "interface-v3-no-stream"}
    seen = {}

    def body(call):
        assert emulated.get_device() == device
        for source, loan in zip(loans.ALL, lent):
            seen[source] = loan.now() if order == "block" else loan.read_later(call["stream"])

    call([loan.give() for loan in lent], consumer if order == "wait" else order, body)
    with emulated.current_device(device):
        for stream in (consumer, LEGACY, *(loan.stream for loan in lent)):
            emulated.synchronize(stream)
    emulated.run_all()
    assert [loan.given_back for loan in lent] == [1] * len(lent)
    ordered = {source: value for source, value in seen.items() if source not in unordered}
    assert ordered == {source: NEW if order == "block" else [NEW] for source in ordered}


@pytest.mark.parametrize("first, second", [("interface-v3", "interface-v2"), ("interface-v3", "dlpack"),
                                           ("torch", "interface-v3"), ("interface-v3", "torch"),
                                           ("torch", "dlpack"), ("dlpack", "torch"), ("interface-v2", "dlpack"),
                                           ("table", "interface-v3"), ("capsule", "interface-v3")])
@pytest.mark.parametrize("pending", [True, False], ids=["before", "after"])
def test_two_arguments_on_two_streams(first, second, pending):
    lent = [Loan(source, make_stream("non-blocking"), pending=pending) for source in (first, second)]
    for loan, source in zip(lent, (first, second)):
        if source in ("torch", "table"):
            tables.set_stream(loan.stream)
    seen = []

    def body(call):
        seen.extend(loan.read_later(call["stream"]) for loan in lent)
        return call["stream"]

    stream = call([loan.give() for loan in lent], "adopt", body)
    if pending:
        emulated.synchronize(stream)
    for loan in lent:
        emulated.synchronize(loan.work_stream)
    emulated.synchronize(stream)
    assert seen == [[NEW], [NEW]]


def test_order_none_calls_nothing(s, t):
    lent = [Loan(source, s) for source in loans.ALL]
    arguments = [loan.give() for loan in lent]
    emulated.clear_calls()
    call(arguments, "none")
    assert set(emulated.call_names()) <= HARMLESS
    assert lent[0].now() == loans.OLD


def test_views_name_the_stream_of_their_order(s, t):
    arguments = [interface(s), interface(t), producers.Interface(np.zeros(4, "f4"), version=2), interface(None)]
    assert [view["stream"] for view in call(arguments, t)["views"]] == [t] * 4
    assert [view["stream"] for view in call(arguments)["views"][:3]] == [s, t, LEGACY]


@pytest.mark.parametrize("make", [tensor, lambda: loans.table_array(loans.Owning)], ids=["lent", "owned"])
def test_a_table_is_asked_for_its_stream_once_per_call_and_device(make, s):
    tables.set_stream(s)
    call([make() for _ in range(3)])
    assert tables.asked_for() == (1, dlpack.CUDA, 0)


# ------------------------------------------------------------------------------------------------------ the device


def on_device(device, kind="device", **kwargs):
    return producers.Interface(np.zeros(4, "f4"), device=device, kind=kind, **kwargs)


def inside(call):
    return call["device"], emulated.get_device()


CUDA_0, CUDA_1 = (probe.DEVICE_CUDA, 0), (probe.DEVICE_CUDA, 1)


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("order", ["adopt", "wait", "block", "none"])
def test_pitfall_55_the_arguments_device_is_current_in_the_call_and_restored(current, device, order):
    stream = make_stream("non-blocking", device)
    arguments = [on_device(device), loans.table_array(loans.OwningSilent, device=device),
                 producers.DLPack(np.zeros(4, "f4"), device=device)]
    with emulated.current_device(current):
        assert call(arguments, stream if order == "wait" else order, inside) == ((probe.DEVICE_CUDA, device), device)
        assert emulated.get_device() == current


@pytest.mark.parametrize("arguments, device", [
    (lambda: [on_device(1, "managed")], 1),
    (lambda: [on_device(0, "managed"), on_device(1, "managed")], 0),
    (lambda: [on_device(1, "managed"), on_device(0)], 0),
    (lambda: [on_device(0, "managed"), on_device(1)], 1),
    (lambda: [on_device(0, "pinned"), on_device(1)], 1),
    (lambda: [on_device(0, "pinned"), on_device(1, "managed")], 1),
    (lambda: [interface(None, 0), on_device(1)], 1),
    (lambda: [producers.DLPack(np.zeros(0, "f4")), on_device(1)], 1),
    (lambda: [on_device(1), producers.DLPack(np.zeros(0, "f4"))], 1),
    (lambda: [producers.DLPack(np.zeros(4, "f4"), kind="managed", device=1)], 1),
], ids=["managed", "managed-twice", "managed-and-cuda", "managed-and-cuda-1", "pinned-and-cuda", "pinned-and-managed",
        "empty-and-cuda", "empty-dlpack-and-cuda", "cuda-and-empty-dlpack", "managed-dlpack"])
def test_device_of_a_call(arguments, device):
    """CUDA arrays with elements, else a managed pointer; empty, managed and pinned arguments never conflict."""
    assert call(arguments(), "none", inside, memory=probe.ANYWHERE) == ((probe.DEVICE_CUDA, device), device)


@pytest.mark.parametrize("kind", ["pinned", "empty"])
@pytest.mark.parametrize("order", ["adopt", "wait"])
def test_device_of_a_call_is_the_streams_where_no_array_tells_it(kind, order):
    stream = make_stream("non-blocking", 1)
    array = interface(stream, 0) if kind == "empty" else on_device(0, "pinned", stream=stream)
    assert call([array], stream if order == "wait" else order, inside, memory=probe.ANYWHERE) == (CUDA_1, 1)


@pytest.mark.parametrize("kind", ["pinned", "empty"])
@pytest.mark.parametrize("current", [0, 1])
def test_device_of_a_call_is_the_current_one_where_nothing_tells_it(kind, current):
    array = interface(None, 0) if kind == "empty" else on_device(0, "pinned")
    with emulated.current_device(current):
        assert call([array], "adopt", inside, memory=probe.ANYWHERE) == ((probe.DEVICE_CUDA, current), current)


@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
@pytest.mark.parametrize("make", [on_device, lambda device: producers.DLPack(np.zeros(4, "f4"), device=device),
                                  lambda device: loans.table_array(loans.Owning, device=device)],
                         ids=["interface", "dlpack", "table"])
def test_arguments_on_two_devices_are_refused(order, make):
    arguments = [make(0), on_device(0, "managed"), make(1)]
    with pytest.raises(probe.DeviceMismatchError, match=r"'c'.*'a'") as raised:
        call(arguments, make_stream("non-blocking") if order == "wait" else order, memory=probe.ANYWHERE)
    assert "device 0" in str(raised.value) and "device 1" in str(raised.value)
    assert emulated.get_device() == 0


@pytest.mark.parametrize("name", [None, ""])
def test_arguments_on_two_devices_are_refused_without_names_too(name):
    with pytest.raises(probe.DeviceMismatchError, match="device 0.*device 1"):
        call([on_device(0), on_device(1)], "none", requests=named(name, name))


# -------------------------------------------------------------------------------------------------- host arguments

HOST = {"memory": probe.ON_HOST | probe.ON_CUDA}


@pytest.mark.parametrize("order", ["adopt", "block", "none", 1, 2])
@pytest.mark.parametrize("arguments", [
    [np.zeros(3)], [np.zeros(3), b"bytes", np.zeros((2, 2), "i4")], [np.zeros(0)], [np.zeros(())]],
    ids=["one", "three", "empty", "scalar"])
def test_host_arguments_make_no_cuda_call(order, arguments):
    emulated.clear_calls()
    description = call(arguments, order, **HOST)
    assert description["stream"] == 0
    assert description["device"] == (probe.DEVICE_CPU, 0)
    assert emulated.call_names() == []
    assert not emulated.has_context(0)


@pytest.mark.parametrize("order", ["adopt", "wait", "block"])
def test_host_arguments_beside_cuda_ones_are_not_ordered(order, s):
    loan = Loan("interface-v3", s)
    host = np.arange(3.0)
    description = call([host, loan.give()], s if order == "wait" else order, **HOST)
    assert description["stream"] == s
    assert description["device"] == CUDA_0
    assert [view["stream"] for view in description["views"]] == [0, s]
    assert description["views"][0]["pointer"] == host.ctypes.data


def test_without_cuda_host_arguments_work():
    description = probe_host.call((np.arange(3.0),), ({},), "adopt")
    assert description["stream"] == 0
    assert description["device"] == (probe_host.DEVICE_CPU, 0)


# ------------------------------------------------------------------------------------------- how many arguments


@pytest.mark.parametrize("order", ["adopt", "block", "none"])
def test_a_call_of_no_arguments_is_legal(order):
    assert call([], order, lambda call: "done") == "done"
    assert call([], order)["views"] == []


def test_a_call_of_no_arguments_launches_on_the_stream_that_was_named(s):
    assert call([], s)["stream"] == s


@pytest.mark.parametrize("given, wanted", [(0, 1), (1, 0), (1, 2), (2, 1), (3, 16), (16, 15)])
def test_the_wrong_number_of_arguments_is_a_type_error(given, wanted, unchanged):
    array = interface(None)
    emulated.clear_calls()
    with unchanged(array):
        with pytest.raises(TypeError, match=f"{wanted}.*{given}") as raised:
            call([array] * given, requests=named(*"abcdefghijklmnop"[:wanted]))
        assert raised.type is TypeError
        del raised
    assert array.fetches == 0
    assert emulated.call_names() == []


def test_sixteen_arguments(s, unchanged):
    """Of every kind of producer, on several streams, with shared extents."""
    makes = [lambda: interface(s), lambda: interface(None), lambda: tensor(),
             lambda: producers.DLPack(np.zeros(4, "f4")), lambda: loans.table_array(loans.Owning),
             lambda: producers.Interface(np.zeros(4, "f4"), version=2),
             lambda: np.zeros(4, "f4"), lambda: on_device(0, "managed")]
    tables.set_stream(make_stream("non-blocking"))
    arguments = [make() for make in makes * 2]
    with unchanged(*arguments):
        views = call(arguments, "adopt", lambda call: call["views"], memory=probe.ANYWHERE, dtype="float32",
                     shape=(probe.extent(0),))
        assert [view["shape"] for view in views] == [(4,)] * 16
        pointers = [array.ctypes.data if isinstance(array, np.ndarray) else array.pointer for array in arguments]
        assert [view["pointer"] for view in views] == pointers
        del views
        emulated.run_all()


# ----------------------------------------------------------------------------------------- what arguments share


def shaped(*shape, dtype="f4", **kwargs):
    return producers.Interface(np.zeros(shape, dtype), **kwargs)


@pytest.mark.parametrize("shapes, wishes, refused", [
    (((4,), (4,)), ((0,), (0,)), None),
    (((4,), (5,)), ((0,), (0,)), 1),
    (((4, 3), (3, 4)), ((0, 1), (1, 0)), None),
    (((4, 3), (4, 3)), ((0, 1), (1, 0)), 1),
    (((4, 4), (4,)), ((0, 0), (0,)), None),
    (((4, 3), (4,)), ((0, 0), (0,)), 0),
    (((2, 3), (3, 5), (2, 5)), ((0, 1), (1, 2), (0, 2)), None),
    (((2, 3), (3, 5), (2, 4)), ((0, 1), (1, 2), (0, 2)), 2),
    (((2, 3), (4, 5), (2, 5)), ((0, 1), (1, 2), (0, 2)), 1),
    (((0,), (0,)), ((0,), (0,)), None),
    (((0,), (1,)), ((0,), (0,)), 1),
], ids=str)
def test_shared_extents(shapes, wishes, refused):
    arguments = [shaped(*shape) for shape in shapes]
    requests = tuple({"name": "abc"[i], "ndim": len(wish), "shape": tuple(probe.extent(k) for k in wish)}
                     for i, wish in enumerate(wishes))
    if refused is None:
        assert [view["shape"] for view in call(arguments, requests=requests)["views"]] == list(shapes)
        return
    with pytest.raises(probe.InvalidShapeError, match=f"argument '{'abc'[refused]}'") as raised:
        call(arguments, requests=requests)
    assert str(shapes[refused])[1:-1].rstrip(",") in str(raised.value)


def test_extents_are_not_shared_between_calls():
    requests = named("a", shape=(probe.extent(0),))
    assert call([shaped(4)], requests=requests)["views"][0]["shape"] == (4,)
    assert call([shaped(5)], requests=requests)["views"][0]["shape"] == (5,)


@pytest.mark.parametrize("flag, first, second, error", [
    ("SAME_SHAPE", shaped, lambda: shaped(3, 4), None),
    ("SAME_SHAPE", lambda: shaped(3, 4), lambda: shaped(4, 3), "InvalidShapeError"),
    ("SAME_SHAPE", lambda: shaped(3, 4), lambda: shaped(12), "InvalidShapeError"),
    ("SAME_SHAPE", lambda: shaped(3), lambda: shaped(), "InvalidShapeError"),
    ("SAME_SHAPE", lambda: shaped(1), lambda: shaped(), "InvalidShapeError"),
    ("SAME_DTYPE", lambda: shaped(3), lambda: shaped(3, dtype="f8"), "DtypeMismatchError"),
    ("SAME_DTYPE", lambda: shaped(3, dtype="i4"), lambda: shaped(3, dtype="u4"), "DtypeMismatchError"),
    ("SAME_DEVICE", lambda: shaped(3), lambda: shaped(3, kind="managed"), None),
    ("SAME_DEVICE", lambda: shaped(3), lambda: np.zeros(3, "f4"), "DeviceMismatchError"),
    ("SAME_DEVICE", lambda: np.zeros(3, "f4"), lambda: shaped(3), "DeviceMismatchError"),
])
def test_what_must_be_the_same_as_of_argument_0(flag, first, second, error):
    requests = ({"name": "a", "memory": probe.ANYWHERE},
                {"name": "b", "memory": probe.ANYWHERE, "require": getattr(probe, flag)})
    arguments = [first() if first is not shaped else shaped(3, 4), second()]
    if error is None:
        if flag == "SAME_SHAPE":
            assert call(arguments, requests=requests)["views"][1]["shape"] == (3, 4)
        return
    with pytest.raises(getattr(probe, error), match="argument 'b'"):
        call(arguments, requests=requests)
    alike = [arguments[0], arguments[0]]
    assert len(call(alike, requests=requests)["views"]) == 2


@pytest.mark.parametrize("flag", ["SAME_SHAPE", "SAME_DTYPE", "SAME_DEVICE"])
def test_argument_0_is_the_same_as_itself(flag):
    assert call([shaped(3, 4)], require=getattr(probe, flag))["views"][0]["shape"] == (3, 4)


def test_the_third_argument_is_compared_with_the_first_and_not_with_the_second():
    requests = ({"name": "a"}, {"name": "b"}, {"name": "c", "require": probe.SAME_SHAPE | probe.SAME_DTYPE})
    assert len(call([shaped(3), shaped(4, dtype="i4"), shaped(3)], requests=requests)["views"]) == 3
    with pytest.raises(probe.InvalidShapeError, match="'c'"):
        call([shaped(3), shaped(4), shaped(4)], requests=requests)


# ----------------------------------------------------------------------------------------- the order of evaluation


class Moving:
    """Moves a lent tensor, as torch's resize_ and set_ do: to another block, and if asked for to another shape."""

    def __init__(self, array, shape=(4,), dtype=dlpack.FLOAT32, pointer=None):
        self.array, self.device = array, array.memory.device
        self.pointer = emulated.allocate(loans.NBYTES, device=self.device) if pointer is None else pointer
        self.shape, self.dtype = shape, dtype
        self.moves = 0

    def __call__(self):
        self.moves += 1
        self.array.__init__(self.pointer, self.shape, self.dtype, (dlpack.CUDA, self.device))


class InterfaceThatRuns(producers.Interface):
    run = staticmethod(lambda: None)

    @property
    def __cuda_array_interface__(self):
        self.run()
        return super().__cuda_array_interface__


class DLPackThatRuns(producers.DLPack):
    run = staticmethod(lambda: None)

    def __dlpack__(self, **keywords):
        self.run()
        return super().__dlpack__(**keywords)


@pytest.mark.parametrize("make", [
    lambda move, s: InterfaceThatRuns(np.zeros(4, "f4"), stream=s),
    lambda move, s: InterfaceThatRuns(np.zeros(4, "f4"), version=2),
    lambda move, s: DLPackThatRuns(np.zeros(4, "f4")),
    lambda move, s: loans.table_array(loans.Owning, during=move),
], ids=["interface", "interface-v2", "dlpack", "table"])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("order", ["adopt", "none", "wait"])
def test_lent_tensors_are_looked_at_after_everything_that_runs_python(make, position, order, s):
    """What is lent is valid until Python code runs, so that another argument must not run any afterwards."""
    lent = tensor(s)
    move = Moving(lent)
    other = make(move, s)
    if not isinstance(other, tables.Array):
        other.run = move
    arguments = [other, lent] if position == 1 else [lent, other]
    views = call(arguments, s if order == "wait" else order, lambda call: call["views"])
    assert move.moves >= 1
    assert views[position]["pointer"] == move.pointer


def blocking_hook(function):
    """Run a Python function whenever a call is about to block, as another thread can once the GIL is released."""
    def hook(name, context):
        function()

    hook = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)(hook)
    emulated.set_blocking_hook(ctypes.cast(hook, ctypes.c_void_p).value)
    return hook


@pytest.mark.parametrize("single", [True, False], ids=["acquire", "call"])
def test_lent_tensors_are_looked_at_again_after_a_wait(single, s):
    """The wait releases the GIL, and another thread may move the tensor meanwhile."""
    lent = tensor(s)
    move = Moving(lent)
    hook = blocking_hook(move)
    if single:
        description = probe.acquire(lent, "block", {"name": "a"}).describe()
    else:
        description = call([lent], "block", lambda call: call["views"])[0]
    emulated.set_blocking_hook(None)
    assert move.moves >= 1
    assert description["pointer"] == move.pointer
    assert description["stream"] == s
    del hook


def test_a_wait_for_one_argument_makes_all_lent_ones_be_looked_at_again(s, t):
    lent = tensor(s)
    move = Moving(lent)
    hook = blocking_hook(move)
    views = call([interface(t), lent], "block", lambda call: call["views"])
    emulated.set_blocking_hook(None)
    assert move.moves >= 1
    assert views[1]["pointer"] == move.pointer
    del hook


@pytest.mark.parametrize("change, error", [
    ({"shape": (2, 2)}, "InvalidShapeError"),
    ({"dtype": dlpack.INT32}, "DtypeMismatchError"),
    ({"shape": (3,)}, "InvalidShapeError"),
    ({"pointer": 0}, "IncompleteInterfaceError"),
], ids=["ndim", "dtype", "extent", "null"])
def test_what_changed_during_a_wait_is_checked_again(change, error, s, t, unchanged):
    lent, other = tensor(s), interface(t)
    with unchanged(lent, other):
        hook = blocking_hook(Moving(lent, **change))
        with pytest.raises(getattr(probe, error), match="'[ab]'"):
            call([lent, other], "block", dtype="float32", ndim=1, shape=(probe.extent(0),))
        emulated.set_blocking_hook(None)
        del hook
    assert emulated.get_device() == 0


def test_what_changed_in_a_single_tensor_during_a_wait_is_checked_again(s, unchanged):
    lent = tensor(s)
    with unchanged(lent):
        hook = blocking_hook(Moving(lent, shape=(2, 2)))
        with pytest.raises(probe.InvalidShapeError, match="'a'.*shape .2, 2"):
            probe.acquire(lent, "block", {"name": "a", "ndim": 1, "shape": (4,)})
        emulated.set_blocking_hook(None)
        del hook


def test_a_question_after_a_wait_may_move_a_tensor_that_was_looked_at(s):
    first, waits = tensor(s), []
    move = Moving(first)

    class Asked(loans.Tensor):
        @property
        def requires_grad(self):
            if waits:
                move()
            return False

    requests = {"name": "a"}, {"name": "b", "require": probe.WRITABLE}
    hook = blocking_hook(lambda: waits.append(True))
    views = call([first, loans.table_array(Asked)], "block", lambda call: call["views"], requests=requests)
    emulated.set_blocking_hook(None)
    assert move.moves >= 1
    assert views[0]["pointer"] == move.pointer
    del hook


@pytest.mark.parametrize("beside", [True, False], ids=["beside-another", "alone"])
def test_a_tensor_that_moves_to_another_device_during_a_wait(beside, s, t):
    """Arguments on two devices are refused; alone, the tensor says which device the call is for."""
    lent, other = tensor(s), interface(t)
    pointer = emulated.allocate(loans.NBYTES, device=1)
    hook = blocking_hook(lambda: lent.__init__(pointer, (4,), dlpack.FLOAT32, (dlpack.CUDA, 1)))
    if beside:
        with pytest.raises(probe.DeviceMismatchError):
            call([lent, other], "block")
    else:
        assert call([lent], "block", inside) == (CUDA_1, 1)
    emulated.set_blocking_hook(None)
    del hook


@pytest.mark.parametrize("single", [True, False], ids=["acquire", "call"])
def test_a_view_keeps_its_stream_when_the_producer_changes_its_own_during_a_wait(single, s):
    lent = tensor(s)
    hook = blocking_hook(lambda: tables.set_stream(make_stream("non-blocking")))
    if single:
        stream = probe.acquire(lent, "block", {}).describe()["stream"]
    else:
        stream = call([lent], "block", lambda call: call["views"][0]["stream"])
    emulated.set_blocking_hook(None)
    assert stream == s
    del hook


def test_a_tensor_is_asked_again_for_its_gradient_after_everything_that_runs_python(s):
    """requires_grad may be switched on meanwhile; it is looked at with the tensor."""
    lent = tensor(s)
    other = DLPackThatRuns(np.zeros(4, "f4"))
    other.run = lambda: setattr(lent, "requires_grad", True)
    with pytest.raises(probe.ReadOnlyAccessError, match="'a'.*gradient"):
        call([lent, other], requests=({"name": "a", "require": probe.WRITABLE}, {"name": "b"}))


def test_a_tensor_is_asked_again_for_its_gradient_after_an_argument_before_it(s):
    """Which was read at the first attempt, so that nothing else has to be looked at again."""
    lent, other = tensor(s), InterfaceThatRuns(np.zeros(4, "f4"), stream=s)
    for known in (tensor(s), other):
        probe.acquire(known, "adopt", {}).release()
    other.run = lambda: setattr(lent, "requires_grad", True)
    with pytest.raises(probe.ReadOnlyAccessError, match="'b'.*gradient"):
        call([other, lent], requests=({"name": "a"}, {"name": "b", "require": probe.WRITABLE}))


def test_a_tensor_is_asked_for_its_gradient_though_its_type_is_met_on_the_way(s):
    """By the argument before it, as by another thread."""
    fresh = checks.load("probe")
    lent, other = tensor(s), InterfaceThatRuns(np.zeros(4, "f4"), stream=s)
    lent.requires_grad = True
    other.run = lambda: fresh.acquire(tensor(s), "adopt", {}).release()
    with pytest.raises(fresh.ReadOnlyAccessError, match="'b'.*gradient"):
        fresh.call((other, lent), ({"name": "a"}, {"name": "b", "require": probe.WRITABLE}), "adopt", lambda call: None)


# --------------------------------------------------------------------- memory of no device, or of another, in a call


@pytest.mark.parametrize("kind", ["pinned", "managed"])
@pytest.mark.parametrize("order", ["adopt", LEGACY, PER_THREAD])
@pytest.mark.parametrize("tells", [LEGACY, None])
@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("first", [True, False])
def test_pitfall_53_a_number_means_the_calls_device_and_the_producers(kind, order, tells, current, first):
    """The kernel runs on device 1, the other array's work on device 0: each sees what the other has done."""
    on_device_1 = producers.Interface(np.zeros(4, "f4"), stream=LEGACY, device=1)
    shared = producers.Interface(np.frombuffer(loans.OLD, "f4"), stream=tells, kind=kind)
    seen, arguments = [], [on_device_1, shared] if first else [shared, on_device_1]
    emulated.launch_write(LEGACY, shared.pointer, loans.NEW)
    if tells is None:
        emulated.synchronize(LEGACY)

    def body(call):
        assert emulated.get_device() == 1 and call["device"] == CUDA_1
        emulated.launch(call["stream"], lambda: seen.append(emulated.read(shared.pointer, 16)))
        emulated.launch_write(call["stream"], shared.pointer, loans.USED)
        if kind == "managed":
            emulated.synchronize(call["stream"])

    with emulated.current_device(0 if kind == "pinned" and tells == LEGACY else current):
        call(arguments, order, body, memory=probe.ANYWHERE)
    assert seen == [loans.NEW]
    assert emulated.read(shared.pointer, 16) == loans.USED


# ----------------------------------------------------------------------------------------- the same object twice


@pytest.mark.parametrize("source", [source for source in loans.ALL if source != "capsule"])
@pytest.mark.parametrize("order", ["adopt", "wait", "block", "none"])
def test_the_same_object_as_several_arguments(source, order, s, t, unchanged):
    loan = Loan(source, s)
    array = loan.give()
    with unchanged(array):
        views = call([array] * 3, t if order == "wait" else order, lambda call: call["views"],
                     shape=(probe.extent(0),))
        assert [view["pointer"] for view in views] == [loan.pointer] * 3
        emulated.run_all()
    assert loan.given_back == (3 if loan.tells == ASKED else 0)
    if loan.tells == ASKED:
        assert array.deletions == [1, 1, 1]


def test_a_capsule_as_two_arguments_is_refused_the_second_time():
    managed = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0))
    capsule = managed.capsule()
    with pytest.raises(probe.InvalidCapsuleError, match="'b'.*consumed"):
        call([capsule, capsule])
    assert managed.deletions == 1


# -------------------------------------------------------------------------------------------- exceptions in the body


class Expected(Exception):
    pass


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["adopt", "wait", "block", "none"])
def test_an_exception_in_the_body_gives_everything_back(source, order, s, t):
    """pitfall 37: it comes out as it is, and what was enqueued before is ordered all the same."""
    loan = Loan(source, s, device=0)
    raised, seen = Expected("in the body"), []

    def body(call):
        if order in ("adopt", "wait"):
            seen.append(loan.read_later(call["stream"]))
        raise raised

    with pytest.raises(Expected) as caught:
        call([loan.give()], t if order == "wait" else order, body)
    assert caught.value is raised
    assert raised.__cause__ is None and raised.__context__ is None
    del caught
    raised.__traceback__ = None
    for stream in (s, t, LEGACY):
        emulated.synchronize(stream)
    emulated.run_all()
    gc.collect()
    assert loan.given_back == 1
    if loan.tells != loans.READY and order in ("adopt", "wait"):
        assert seen == [[NEW]]


@pytest.mark.parametrize("current", [0, 1])
def test_pitfall_55_an_exception_in_the_body_restores_the_device(current):
    def body(call):
        assert emulated.get_device() == 1
        raise Expected

    with emulated.current_device(current):
        with pytest.raises(Expected):
            call([on_device(1)], body=body)
        assert emulated.get_device() == current


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("failing", ["cudaEventRecord", "cudaStreamWaitEvent", "cudaStreamSynchronize",
                                     "cudaStreamIsCapturing", "changed"])
def test_pitfall_55_a_failure_in_the_beginning_restores_the_device(current, failing):
    """What is ordered is ordered with the device current; whatever goes wrong then, the old one comes back."""
    lent = tensor(make_stream("non-blocking", 1), device=1)
    hook = blocking_hook(Moving(lent, shape=(3,)) if failing == "changed" else lambda: None)
    if failing != "changed":
        emulated.fail(failing, 1, 719)
    with emulated.current_device(current):
        with pytest.raises(probe.InvalidShapeError if failing == "changed" else probe.CudaCallError):
            waits = failing in ("cudaStreamSynchronize", "changed")
            call([lent], "block" if waits else make_stream("non-blocking", 1), shape=(4,))
        assert emulated.get_device() == current
    emulated.set_blocking_hook(None)
    del hook


def test_a_body_that_makes_another_device_current_does_not_matter():
    def body(call):
        emulated.set_device(0)
        return "done"

    with emulated.current_device(0):
        assert call([on_device(1)], body=body) == "done"
        assert emulated.get_device() == 0


def test_a_call_within_a_call():
    outer, inner = on_device(0), on_device(1)

    def body(_):
        assert call([inner, outer], "none", lambda call: None, requests=({}, {"memory": probe.ANYWHERE})) is None

    with pytest.raises(probe.DeviceMismatchError):
        call([outer], body=body)
    assert call([outer], body=lambda _: call([inner], body=inside)) == (CUDA_1, 1)
    assert emulated.get_device() == 0


# --------------------------------------------------------------------------------------------- errors at the end


class Result:
    """A result that can be seen to be dropped."""


@pytest.mark.parametrize("source", sources(SILENT, ASKED) + ["interface-v3"])
@pytest.mark.parametrize("code, name", [(719, "cudaErrorLaunchFailure"), (700, "cudaErrorIllegalAddress")])
def test_a_cuda_error_at_the_end_drops_the_result_and_is_raised(source, code, name, s, t):
    loan = Loan(source, s, pending=False)
    order = t if source == "interface-v3" else "adopt"
    dropped = []

    def body(call):
        result = Result()
        weakref.finalize(result, dropped.append, 1)
        emulated.run_all()
        emulated.fail("cudaEventRecord", 1, code)
        if loan.tells != KNOWN:  # what cannot be given back late is waited for
            emulated.fail("cudaStreamSynchronize", 1, code)
        return result

    with pytest.raises(probe.CudaCallError, match=name) as raised:
        call([loan.give()], order, body)
    assert (raised.value.code, raised.value.name) == (code, name)
    assert isinstance(raised.value, RuntimeError)
    assert dropped == [1]
    del raised
    assert loan.given_back == 1
    assert emulated.count_failures() == 0


def test_an_error_at_the_end_keeps_nothing_back():
    """All arguments are given back, and the device restored, whichever of them fails to be ordered."""
    for failing in range(1, 5):
        stream = make_stream("non-blocking", 1)
        kinds = ("interface-v2", "dlpack", "capsule", "table-no-stream")
        lent = [Loan(source, stream, device=1) for source in kinds]

        def body(call):
            emulated.run_all()
            for nth in range(1, 5):
                emulated.fail("cudaEventRecord", nth, 719)
            emulated.fail("cudaStreamSynchronize", failing, 719)

        with pytest.raises(probe.CudaCallError):
            call([loan.give() for loan in lent], "adopt", body)
        assert [loan.given_back for loan in lent] == [1] * 4
        assert emulated.get_device() == 0
        emulated.clear_failures()


def test_an_exception_of_the_body_wins_over_an_error_at_the_end():
    loan = Loan("interface-v2", pending=False)
    raised = Expected("first")

    def body(call):
        emulated.fail("cudaEventRecord", 1, 719)
        emulated.fail("cudaStreamSynchronize", 1, 719)
        raise raised

    with pytest.raises(Expected) as caught:
        call([loan.give()], body=body)
    assert caught.value is raised
    assert emulated.count_failures() == 0
    del caught
    raised.__traceback__ = None
    gc.collect()
    assert loan.given_back == 1


def test_a_device_that_cannot_be_restored_is_an_error():
    def body(call):
        emulated.fail("cudaSetDevice", 1, 101)
        return "result"

    with pytest.raises(probe.CudaCallError, match="cudaSetDevice") as raised:
        call([on_device(1)], body=body)
    assert (raised.value.code, raised.value.name) == (101, "cudaErrorInvalidDevice")
    emulated.set_device(0)


def test_a_failed_call_is_taken_out_of_the_last_error(s, t):
    """The author checks his own launch by cudaGetLastError, which must not report cai's failures."""
    emulated.fail("cudaEventRecord", 1, 719)
    with pytest.raises(probe.CudaCallError):
        call([interface(s)], t)
    emulated.cuda("cudaPeekAtLastError")


# ------------------------------------------------------------------------------------- failures in the beginning

KINDS = ["interface-v3", "torch", "dlpack", "interface-v2", "table", "capsule", "dlpack-legacy",
         "interface-v3-no-stream"]


@pytest.mark.parametrize("failing", range(len(KINDS)))
@pytest.mark.parametrize("order", ["adopt", "wait", "block", "none"])
def test_everything_is_given_back_once_when_an_argument_is_refused(failing, order, s):
    """Arguments of all protocols, of which the k-th has the wrong data type."""
    lent = [Loan(source, s) for source in KINDS]
    requests = [{"name": name, "dtype": "float32"} for name in "abcdefgh"]
    requests[failing]["dtype"] = "int32"
    body = []
    with pytest.raises(probe.DtypeMismatchError, match=f"argument '{'abcdefgh'[failing]}'"):
        call([loan.give() for loan in lent], make_stream("non-blocking") if order == "wait" else order, body.append,
             requests=tuple(requests))
    gc.collect()
    assert body == []
    # A __dlpack__ that was never asked has nothing to give back.
    assert all(loan.given_back == 1 or (loan.tells == ASKED and loan.given_back == 0) for loan in lent)
    assert emulated.get_device() == 0


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("make", [
    lambda s: interface(s), lambda s: tensor(s), lambda s: producers.DLPack(np.zeros(4, "f4")),
    lambda s: loans.table_array(loans.Owning), lambda s: np.zeros(4, "f4")],
    ids=["interface", "tensor", "dlpack", "table", "numpy"])
@pytest.mark.parametrize("bad", [object(), None, 3], ids=["object", "None", "int"])
def test_references_are_unchanged_when_the_kth_argument_is_no_array(n, make, bad, s, unchanged):
    arrays = [make(s) for _ in range(n)]
    tables.set_stream(s)
    for position in range(n + 1):
        arguments = arrays[:position] + [bad] + arrays[position:]
        with unchanged(*arrays):
            with pytest.raises(probe.InterfaceNotImplementedError, match=f"'{'abcde'[position]}'"):
                call(arguments, memory=probe.ANYWHERE)
    for array in arrays:
        if isinstance(array, tables.Array):
            counts = array.counts()
            assert counts["owned"] == counts["deleted"]
        elif isinstance(array, producers.DLPack):
            assert array.deletions == [1] * len(array.asked)


@pytest.mark.parametrize("order", ["adopt", "wait", "block", "none"])
@pytest.mark.parametrize("device", [0, 1])
def test_every_cuda_call_may_fail(order, device):
    """Each call of a whole call fails in its turn: an exception, everything given back, the device as before."""
    kinds = ["interface-v3", "interface-v2", "table", "dlpack", "capsule"]
    for nth in itertools.count(1):
        emulated.reset()
        stream, consumer = make_stream("non-blocking", device), make_stream("non-blocking", device)
        lent = [Loan(source, stream, device=device, pending=False) for source in kinds]
        pinned = Loan("interface-v3", stream, kind="pinned", pending=False)
        lent.append(pinned)
        arguments = [loan.give() for loan in lent]
        emulated.fail(None, nth, 719)
        finished = False
        try:
            call(arguments, consumer if order == "wait" else order, memory=probe.ANYWHERE)
            finished = emulated.count_failures() == 1
        except (probe.CAIError, emulated.CudaError) as raised:
            assert "719" in str(raised)
        except RuntimeError:
            raise
        emulated.clear_failures()
        del arguments
        emulated.run_all()
        gc.collect()
        emulated.set_device(0)
        assert all(loan.given_back == 1 or (loan.tells == ASKED and loan.given_back == 0) for loan in lent), nth
        if finished:
            break
    assert nth > len(kinds)


# ----------------------------------------------------------------------------------------------- the author's view


def floats(values, **kwargs):
    return producers.Interface(np.asarray(values, "f4"), **kwargs)


def test_an_authors_function_computes_on_the_producers_stream(s):
    out, x, y = floats([0, 0, 0], stream=s), floats([1, 2, 3], stream=s), floats([10, 20, 30], stream=s)
    emulated.clear_calls()
    assert author_view.saxpy(out, x, y) is None
    assert "cudaStreamSynchronize" not in emulated.call_names()
    assert out.numpy().tolist() == [0, 0, 0]  # pending: nothing has waited
    emulated.synchronize(s)
    assert out.numpy().tolist() == [12, 24, 36]


@pytest.mark.parametrize("make", [
    lambda values: floats(values), lambda values: producers.DLPack(np.asarray(values, "f4")),
    lambda values: tensor(data=np.asarray(values, "f4").tobytes()),
    lambda values: loans.table_array(loans.Owning, data=np.asarray(values, "f4").tobytes()),
    lambda values: floats(values, kind="managed"), lambda values: floats(values, device=1),
], ids=["interface", "dlpack", "tensor", "table", "managed", "device-1"])
def test_an_authors_function_takes_every_kind_of_array(make):
    tables.set_stream(LEGACY)
    out, x, y = make([0, 0, 0]), make([1, 2, 3]), make([10, 20, 30])
    author_view.saxpy(out, x, y)
    emulated.run_all()
    memory = out.memory.pointer
    assert np.frombuffer(emulated.read(memory, 12), "f4").tolist() == [12, 24, 36]


def test_an_authors_function_is_replayed_in_a_capture(s):
    out, x, y = (floats([value] * 3, stream=s) for value in (0, 1, 5))
    emulated.begin_capture(s)
    author_view.saxpy(out, x, y)
    graph = emulated.end_capture(s)
    assert out.numpy().tolist() == [0, 0, 0]
    emulated.write(x.pointer, np.array([7, 8, 9], "f4").tobytes())
    emulated.replay(graph, s)
    assert out.numpy().tolist() == [19, 21, 23]


@pytest.mark.parametrize("arguments, error, words", [
    (lambda: (floats([0, 0]), floats([1, 2])), TypeError, "3.*2"),
    (lambda: (), TypeError, "3.*0"),
    (lambda: (floats([0] * 3), floats([0] * 3), floats([0] * 4)), ValueError, "'y'.*3"),
    (lambda: (floats([0] * 3), floats([[0]]), floats([0] * 3)), ValueError, "'x'.*1-d"),
    (lambda: (floats([0], readonly=True), floats([0]), floats([0])), BufferError, "'s'.*writable"),
    (lambda: (floats([0]), producers.Interface(np.zeros(1)), floats([0])), TypeError, "'x'.*float32.*float64"),
    (lambda: (np.zeros(1, "f4"), floats([0]), floats([0])), ValueError, "'s'"),
    (lambda: (floats([0]), floats([0]), object()), TypeError, "'y'.*array"),
    (lambda: (floats([0]), floats([0], device=1), floats([0])), ValueError, "'x'.*'s'.*1"),
], ids=["two", "none", "extent", "ndim", "read-only", "dtype", "host", "object", "device"])
def test_an_authors_function_that_registers_nothing_raises_builtin_exceptions(arguments, error, words):
    with pytest.raises(error, match=words) as raised:
        author_view.saxpy(*arguments())
    assert raised.type is error
