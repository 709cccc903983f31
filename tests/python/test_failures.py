"""Every step fails once: the nth allocation, the nth attribute look-up, the nth CUDA call, until the operation passes.

Whatever fails, there is no crash, nothing leaks, the exception is one that the caller can expect, and no view is half
built: reference counts, managed tensors, buffers, emulated memory, streams, events and the device are as before.
"""

import ctypes
import gc
import sys
import types

import numpy as np
import pytest

import checks
import dlpack
import emulated
import faults
import producers
import tables
from dlpack import CUDA, MANAGED
from producers import Both, DLPack, Interface, Memory

pytestmark = pytest.mark.filterwarnings("error")

SIX = np.arange(6, dtype="f4").reshape(2, 3)
NAME = "__dlpack_c_exchange_api__"
UNKNOWN = 999  # cudaErrorUnknown
MANY = 3000  # an operation with more steps than that never ends
TORCH = {"requires_grad": False, "is_conj": lambda self: False, "is_neg": lambda self: False}


@pytest.fixture(autouse=True)
def torch_slot(monkeypatch):
    """Producers may stand in for torch; afterwards it is itself again."""
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch"))
    tables.set_stream(0)
    yield
    tables.set_stream(0)


class Owner(list):
    """Something to be held, and counted."""


# --------------------------------------------------------------------------------------------------------- producers
#
# A deleter in Python allocates, so that it could itself be what fails. These are C all the way down: NumPy's capsules
# over emulated memory, and tables.c. That a deleter ran, and ran once, is seen in the reference count of its owner.

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def emulated_array(kind="device", device=0):
    """A NumPy array over emulated memory."""
    return np.ctypeslib.as_array((ctypes.c_float * 6).from_address(Memory(SIX, kind, device).pointer)).reshape(2, 3)


def numpys_capsule(array, versioned, device=(CUDA, 0)):
    """NumPy's own capsule, which says that the array lies on that device."""
    capsule = array.__dlpack__(max_version=(1, 3)) if versioned else array.__dlpack__()
    name, offset = (b"dltensor_versioned", 40) if versioned else (b"dltensor", 8)
    (ctypes.c_int32 * 2).from_address(_get_pointer(capsule, name) + offset)[:] = device
    return capsule


class Plain:
    """An object with attributes, all of which are given."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Ready:
    """Hands out capsules that were made before."""

    def __init__(self, array, versioned=True, device=(CUDA, 0), **attributes):
        self.capsules = [numpys_capsule(array, versioned, device)]
        self.device = device
        self.__dict__.update(attributes)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None):
        return self.capsules.pop()


class Bytes(bytearray):
    """A bytearray with attributes."""


def interface_of(memory, **fields):
    return {"shape": (2, 3), "typestr": "<f4", "data": (memory.pointer, False), "version": 3, "strides": None,
            "stream": None, **fields}


def tensor_type(**attributes):
    return type("Tensor", (tables.Array,), {NAME: tables.make_table(), **attributes})


class Refusing:
    """Has DLPack, and refuses whatever it is asked for."""

    def __dlpack_device__(self):
        return (CUDA, 0)

    def __dlpack__(self, *, stream=None, max_version=None):
        raise BufferError("no")


MAKERS = {}


def maker(function):
    """A function that makes: the object to acquire, the request, and what is held by the object."""
    MAKERS[function.__name__] = function
    return function


@maker
def interface():
    fields = interface_of(Memory(SIX))
    return Plain(__cuda_array_interface__=fields), {}, [fields]


@maker
def interface_of_lists():
    memory = Memory(SIX)
    fields = interface_of(memory, shape=[np.int64(2), 3], strides=[12, 4], data=[memory.pointer, 0], mask=Owner(),
                          stream=np.uint64(1), version=2)
    return (Plain(__cuda_array_interface__=fields), {"require": "MASK_OK"},
            [fields[key] for key in ("shape", "strides", "data", "mask")])


@maker
def interface_of_records():
    fields = interface_of(Memory(SIX), typestr="|V4", descr=Owner([("a", "<f4")]))
    return Plain(__cuda_array_interface__=fields), {"require": "UNUSUAL_DTYPE_OK"}, [fields["descr"]]


@maker
def versioned():
    array = emulated_array()
    return Ready(array), {"require": "WRITABLE"}, [array]


@maker
def legacy():
    array = emulated_array()
    return Ready(array, False), {}, [array]


@maker
def managed():
    array = emulated_array("managed")
    return Ready(array, device=(MANAGED, 0)), {}, [array]


@maker
def versioned_on_another_device():
    array = emulated_array(device=1)
    return Ready(array, device=(CUDA, 1)), {}, [array]


@maker
def capsule():
    array = emulated_array()
    return numpys_capsule(array, True), {}, [array]


@maker
def legacy_capsule():
    array = emulated_array()
    return numpys_capsule(array, False), {}, [array]


@maker
def interface_after_a_legacy_capsule():
    """Writable memory is asked for: the capsule does not say whether it is, the interface does."""
    array = emulated_array()
    fields = interface_of(Memory(SIX), version=2)
    return Ready(array, False, __cuda_array_interface__=fields), {"require": "WRITABLE"}, [array, fields]


@maker
def table():
    return tensor_type()(Memory(SIX).pointer, (2, 3), dlpack.FLOAT32, (CUDA, 0)), {"require": "WRITABLE"}, []


@maker
def table_that_lends():
    kind = tensor_type(**TORCH)
    sys.modules["torch"] = types.SimpleNamespace(Tensor=kind)
    return kind(Memory(SIX).pointer, (2,), dlpack.COMPLEX64, (CUDA, 0)), {"require": "WRITABLE"}, []


@maker
def capsule_after_a_table():
    array = emulated_array()
    capsules = [numpys_capsule(array, True)]
    kind = tensor_type(__dlpack_device__=lambda self: (CUDA, 0),
                       __dlpack__=lambda self, *, stream, max_version: self.capsules.pop())
    source = kind(0x1000, (2, 3), dlpack.FLOAT32, (CUDA, 0), fail_silently=True)
    source.capsules = capsules
    return source, {}, [array]


@maker
def buffer():
    return Bytes(24), {"memory": "ON_HOST", "require": "WRITABLE"}, []


@maker
def buffer_of_numpy():
    array = np.arange(6.0).reshape(2, 3).T
    return array, {"memory": "ON_HOST", "require": "WRITABLE"}, [array]


@maker
def buffer_with_a_mask():
    array = np.ma.array([1.0, 2.0], mask=[0, 1])
    return array, {"memory": "ON_HOST", "require": "MASK_OK"}, [array]


@maker
def refusing():
    return Refusing(), {}, []


@maker
def no_array():
    return Plain(), {}, []


NO_ARRAYS = ("refusing", "no_array")


def attach(source):
    """Something that only the object holds; None where it takes no attribute."""
    owner = Owner()
    try:
        source.owner = owner
    except AttributeError:
        return None
    return owner


def build(make):
    source, request, watched = make()
    return source, request, [*watched, *filter(lambda item: item is not None, [attach(source)])]


class Outcome:
    """How an operation ended, without any reference to what took part."""

    def __init__(self, result):
        self.succeeded = not isinstance(result, BaseException)
        self.refusal = None if self.succeeded else checks.Refusal(result)
        self.type = None if self.succeeded else self.refusal.type
        self.value = None


def summary(described):
    """A view's description without what differs from one object to the next."""
    held = {key: described[key] is not None for key in ("mask", "descr")}
    return {**described, **held, "pointer": described["pointer"] != 0}


class Case:
    """Objects of one maker, and what they leave behind when nothing is done with them."""

    def __init__(self, make):
        self.make = make
        _, self.untouched = self.run(lambda source, request: None)

    def run(self, operation):
        """Do something with a new object: (the operation's result, what it left behind)."""
        source, request, watched = build(self.make)
        state = checks.cuda_state()
        result = operation(source, request)
        emulated.run_all()  # what is given back late is
        gc.collect()
        count = sys.getrefcount(source)
        if isinstance(source, bytearray):
            source.append(0)  # raises while somebody holds the buffer
        del source, request
        references, after = checks.measure(watched)
        return result, (count, references, after == state)


def failing(function, nth, *arguments):
    """Call with the nth allocation failing: (result or exception, number of allocations).

    The function is one in C. Python's frames allocate when an exception passes them, and Python 3.11 forgets the
    exception when that fails; this frame has what it needs by asking for it before.
    """
    sys._getframe()
    return faults.call_failing(function, nth, *arguments)


def until_it_passes(attempt):
    """Try with every number; an attempt answers whether its failure came about."""
    for nth in range(1, MANY):
        if not attempt(nth):
            return nth - 1
    raise AssertionError("the operation never passes")


# ------------------------------------------------------------------------------------------------------- allocations

@pytest.mark.parametrize("wish", [{}, {"ndim": 7}, {"dtype": "int8"}], ids=["as_it_is", "of_7_dimensions", "of_int8"])
@pytest.mark.parametrize("order", ["adopt", emulated.PER_THREAD])
@pytest.mark.parametrize("name", MAKERS)
def test_the_nth_allocation_of_an_acquire_fails(probe, name, order, wish):
    case = Case(MAKERS[name])

    def attempt(nth):
        module = checks.load(probe.__name__)  # nothing is known of the type

        def operation(source, request):
            request = checks.fields(module, {**request, **wish})
            result, allocations = failing(module.acquire, nth, source, order, request)
            outcome = Outcome(result)
            if outcome.succeeded:
                outcome.value = summary(result.describe()), result.release()
            return outcome, allocations

        (outcome, allocations), behind = case.run(operation)
        assert behind == case.untouched
        return outcome, allocations

    usual, _ = attempt(0)
    assert usual.succeeded == (not wish and name not in NO_ARRAYS)

    def one(nth):
        outcome, allocations = attempt(nth)
        if outcome.type is not MemoryError:
            assert (outcome.value, outcome.type and outcome.type.__name__) == (
                usual.value, usual.type and usual.type.__name__)
        return allocations >= nth

    until_it_passes(one)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in NO_ARRAYS])
@pytest.mark.parametrize("order", ["adopt", emulated.PER_THREAD])
def test_the_nth_allocation_of_a_release_fails(probe, name, order):
    case = Case(MAKERS[name])

    def attempt(nth):
        def operation(source, request):
            view = probe.acquire(source, order, checks.fields(probe, request))
            result, allocations = failing(view.release, nth)
            outcome = Outcome(result)
            assert outcome.type is MemoryError or result == "OK"
            assert view.object() is None
            return allocations

        allocations, behind = case.run(operation)
        assert behind == case.untouched
        return allocations >= nth

    until_it_passes(attempt)


def three_mixed():
    """The arguments of a call: a table, a CUDA Array Interface with a stream, DLPack; and what is held by them."""
    tables.set_stream(emulated.PER_THREAD)
    lent = tensor_type()(Memory(SIX).pointer, (2, 3), dlpack.FLOAT32, (CUDA, 0))
    fields = interface_of(Memory(SIX), stream=1)
    array = emulated_array()
    sources = (lent, Plain(__cuda_array_interface__=fields), Ready(array))
    return sources, {}, [fields, array]


@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.LEGACY])
@pytest.mark.parametrize("wish", [{}, {"ndim": 7}], ids=["accepted", "last_refused"])
def test_the_nth_allocation_of_a_call_fails(probe, order, wish):
    def make():
        sources, request, watched = three_mixed()
        return sources, request, [*watched, *map(attach, sources)]

    case = Case(make)

    def attempt(nth):
        module = checks.load(probe.__name__)

        def operation(sources, request):
            requests = ({"name": "a"}, {"name": "b"}, {"name": "c", **wish})
            result, allocations = failing(module.call, nth, sources, requests, order)
            outcome = Outcome(result)
            if outcome.succeeded:
                outcome.value = [summary(view) for view in result["views"]], result["stream"], result["device"]
            return outcome, allocations

        (outcome, allocations), behind = case.run(operation)
        assert behind == case.untouched
        return outcome, allocations

    usual, _ = attempt(0)
    assert usual.succeeded == (not wish)

    def one(nth):
        outcome, allocations = attempt(nth)
        if outcome.type is not MemoryError:
            assert (outcome.value, outcome.type and outcome.type.__name__) == (
                usual.value, usual.type and usual.type.__name__)
        return allocations >= nth

    until_it_passes(one)


# ------------------------------------------------------------------------------------------------- attribute look-ups


class Trap:
    """Raises at the nth look-up of an attribute while it is set."""

    def __init__(self):
        self.nth, self.looks, self.exception = None, 0, None

    def look(self):
        if self.nth is None:
            return
        self.looks += 1
        if self.looks == self.nth:
            raise self.exception("own")


def trapped(base, trap, **attributes):
    """A type whose objects ask the trap at every look-up; where the type itself is asked, for the table alone."""

    class Meta(type(base)):
        def __getattribute__(cls, name):
            if name == NAME and trap.exception in (MemoryError, KeyboardInterrupt, AttributeError):
                trap.look()
            return super().__getattribute__(name)

    def look(self, name):
        trap.look()
        return base.__getattribute__(self, name)

    return Meta(base.__name__, (base,), {"__getattribute__": look, **attributes})


def trapped_sources(trap):
    """(name, producer) of each protocol and of several together."""
    memory = Memory(SIX)
    at = (memory.pointer, (2, 3), dlpack.FLOAT32, (CUDA, 0))
    lending = trapped(tables.Array, trap, **{NAME: tables.make_table(), **TORCH})
    lazy = lending(memory.pointer, (2,), dlpack.COMPLEX64, (CUDA, 0))
    lazy.memory = memory
    return {
        "interface": lambda: trapped(Interface, trap)(SIX),
        "interface_without_order": lambda: trapped(Interface, trap)(SIX, version=2),
        "versioned": lambda: trapped(DLPack, trap)(SIX),
        "legacy": lambda: trapped(DLPack, trap)(SIX, legacy=True),
        "on_another_device": lambda: trapped(DLPack, trap)(SIX, device=1),
        "refusing": lambda: trapped(producers.refusing(-1), trap)(SIX),
        "both": lambda: trapped(Both, trap)(SIX),
        "both_without_order": lambda: trapped(Both, trap)(SIX, version=2),
        "table": lambda: trapped(tables.Array, trap, **{NAME: tables.make_table()})(*at),
        "table_that_lends": lambda: lazy,
    }


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt, RuntimeError, AttributeError, TypeError])
@pytest.mark.parametrize("name", list(trapped_sources(Trap())))
@pytest.mark.parametrize("order", ["adopt", "none"])
def test_the_nth_look_up_raises(probe, name, order, exception):
    trap = Trap()
    source = trapped_sources(trap)[name]()
    if name == "table_that_lends":
        sys.modules["torch"] = types.SimpleNamespace(Tensor=type(source))
    trap.exception = exception

    def attempt(nth):
        module = checks.load(probe.__name__)
        request = checks.fields(module, {"require": "WRITABLE"} if name == "table_that_lends" else {})
        if hasattr(source, "made"):
            source.made.clear()
        before = checks.measure([source])
        trap.nth, trap.looks = nth, 0
        view, refusal = checks.catch(module.acquire, source, order, request)
        happened, trap.nth = trap.looks >= nth > 0, None
        if view is not None:
            assert view.describe()["size"] in (2, 6)
            assert view.release() == "OK"
        elif exception in (MemoryError, KeyboardInterrupt):
            assert (refusal.type, refusal.args) == (exception, ("own",))
        else:
            # A producer whose own look-up fails raises what it likes; nothing but AttributeError means "absent".
            assert refusal.type is module.InterfaceNotImplementedError
            assert exception is AttributeError or (exception, "own") in refusal.causes
        if happened and exception in (MemoryError, KeyboardInterrupt):
            assert view is None
        view = None
        made = list(getattr(source, "made", ()))
        assert checks.Checks(module).settle(lambda made=made: {item.deletions for item in made} <= {1})
        del made
        assert checks.Checks(module).settle(lambda: checks.measure([source]) == before)
        return happened

    attempt(0)
    assert until_it_passes(attempt) > 0 or name == "table"


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt, RuntimeError, AttributeError])
@pytest.mark.parametrize("order", ["adopt", "none", emulated.LEGACY])
def test_the_nth_look_up_of_a_call_raises(probe, order, exception):
    trap = Trap()
    trap.exception = exception
    lending = trapped(tables.Array, trap, **{NAME: tables.make_table(), **TORCH})
    sys.modules["torch"] = types.SimpleNamespace(Tensor=lending)
    sources = (lending(Memory(SIX).pointer, (2,), dlpack.COMPLEX64, (CUDA, 0)), trapped(Interface, trap)(SIX, stream=1),
               trapped(DLPack, trap)(SIX))

    def attempt(nth):
        module = checks.load(probe.__name__)
        requests = ({"name": "a", "require": module.WRITABLE}, {"name": "b"}, {"name": "c"})
        ran = []

        def body(description):
            trap.nth = None
            ran.append(len(description["views"]))
            return "result"

        sources[2].made.clear()
        before = checks.measure(sources)
        trap.nth, trap.looks = nth, 0
        result, refusal = checks.catch(module.call, sources, requests, order, body)
        happened, trap.nth = trap.looks >= nth > 0, None
        if refusal is None:
            assert (result, ran) == ("result", [3])
        else:
            assert ran == []  # nobody has seen a view
        if happened and exception in (MemoryError, KeyboardInterrupt):
            assert (refusal.type, refusal.args) == (exception, ("own",))
        elif refusal is not None:
            assert refusal.type is module.InterfaceNotImplementedError
            assert refusal.message.startswith(("argument 'a': ", "argument 'b': ", "argument 'c': "))
        made = list(sources[2].made)
        assert checks.Checks(module).settle(lambda made=made: {item.deletions for item in made} <= {1})
        del made
        assert checks.Checks(module).settle(lambda: checks.measure(sources) == before)
        return happened

    attempt(0)
    assert until_it_passes(attempt) > 3


# --------------------------------------------------------------------------------------------------------- CUDA calls


def cuda_sources():
    """Producers whose order needs CUDA calls, as functions of a stream."""

    def tabled(stream, **kwargs):
        tables.set_stream(stream)
        return tensor_type()(Memory(SIX, **kwargs).pointer, (2, 3), dlpack.FLOAT32, (CUDA, kwargs.get("device", 0)))

    return {
        "interface": lambda stream: Interface(SIX, stream=stream),
        "interface_on_another_device": lambda stream: Interface(SIX, stream=1, device=1),
        "interface_without_order": lambda stream: Interface(SIX, version=2),
        "interface_of_managed_memory": lambda stream: Interface(SIX, stream=stream, kind="managed"),
        "dlpack": lambda stream: DLPack(SIX),
        "dlpack_legacy": lambda stream: DLPack(SIX, legacy=True),
        "dlpack_refusing": lambda stream: producers.refusing(-1, 2)(SIX),
        "dlpack_on_another_device": lambda stream: DLPack(SIX, device=1),
        "dlpack_of_managed_memory": lambda stream: DLPack(SIX, kind="managed"),
        "both": lambda stream: Both(SIX, stream=stream),
        "table": tabled,
        "table_on_another_device": lambda stream: tabled(1, device=1),
    }


def failed_calls():
    """What failed; cudaGetLastError answers the failure before it and does not fail itself."""
    return [call["name"] for call in emulated.calls() if call["result"] != 0 and call["name"] != "cudaGetLastError"]


def check_cuda_failure(module, refusal, status=None):
    """A failed CUDA call is raised as such, or told by the release; the producer's own call is what it raised."""
    if refusal is None:
        assert status in (None, "OK", "CUDA_CALL")
    elif refusal.type is module.CudaCallError:
        assert (refusal.code, refusal.name) == (UNKNOWN, "cudaErrorUnknown")
    else:
        assert refusal.type is module.InterfaceNotImplementedError
        assert refusal.cause is emulated.CudaError


def restore_thread(failed):
    """Going back to a device or a capture mode can itself be what fails; whatever else does, they are as before."""
    if failed == ["cudaSetDevice"]:
        emulated.set_device(0)
    if failed == ["cudaThreadExchangeStreamCaptureMode"]:
        checks.exchange_capture_mode(emulated.GLOBAL)
    assert (emulated.get_device(), checks.capture_mode()) == (0, emulated.GLOBAL)


@pytest.mark.parametrize("name", list(cuda_sources()))
@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.LEGACY, emulated.PER_THREAD, "other"])
def test_the_nth_cuda_call_fails(probe, name, order):
    producer, consumer = emulated.create_stream(), emulated.create_stream()
    source = cuda_sources()[name](producer)
    if order == "other":
        order = consumer

    def attempt(nth):
        emulated.run_all()
        if hasattr(source, "made"):
            source.made.clear()
        before = checks.measure([source])
        emulated.clear_calls()
        if nth > 0:
            emulated.fail(None, nth, UNKNOWN)
        view, refusal = checks.catch(probe.acquire, source, order)
        status = None if view is None else view.release()
        happened = nth > 0 and emulated.count_failures() == 0
        emulated.clear_failures()
        failed = failed_calls()
        check_cuda_failure(probe, refusal, status)
        if not happened:
            assert (refusal, status, failed) == (None, "OK", [])
        if status is not None:
            assert view.object() is None
        view = None
        restore_thread(failed)
        made = list(getattr(source, "made", ()))
        assert checks.Checks(probe).settle(lambda made=made: {item.deletions for item in made} <= {1})
        del made
        assert checks.Checks(probe).settle(lambda: checks.measure([source]) == before)
        if isinstance(source, tables.Array):
            assert source.counts()["owned"] == source.counts()["deleted"]
        return happened

    attempt(0)
    until_it_passes(attempt)


@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.LEGACY, "other"])
@pytest.mark.parametrize("body", [None, ValueError], ids=["body_returns", "body_raises"])
def test_the_nth_cuda_call_of_a_call_fails(probe, order, body):
    device = 1
    streams = [emulated.create_stream(device=device) for _ in range(3)]
    tables.set_stream(streams[0])
    owned = tensor_type()(Memory(SIX, device=device).pointer, (2, 3), dlpack.FLOAT32, (CUDA, device))
    sources = (owned, Interface(SIX, stream=streams[1], device=device), DLPack(SIX, device=device))
    if order == "other":
        order = streams[2]

    def run(description):
        if body is not None:
            raise body("the author's own")
        return description["stream"]

    def attempt(nth):
        emulated.run_all()
        sources[2].made.clear()
        before = checks.measure(sources)
        emulated.clear_calls()
        if nth > 0:
            emulated.fail(None, nth, UNKNOWN)
        result, refusal = checks.catch(probe.call, sources, ({}, {}, {}), order, run)
        happened = nth > 0 and emulated.count_failures() == 0
        emulated.clear_failures()
        failed = failed_calls()
        if body is not None and refusal is not None and refusal.type is body:
            assert refusal.message == "the author's own"
        else:
            check_cuda_failure(probe, refusal)
            if not happened:
                assert body is None and refusal is None
        restore_thread(failed)
        made = list(sources[2].made)
        assert checks.Checks(probe).settle(lambda made=made: {item.deletions for item in made} <= {1})
        del made
        assert checks.Checks(probe).settle(lambda: checks.measure(sources) == before)
        assert owned.counts()["owned"] == owned.counts()["deleted"]
        return happened

    attempt(0)
    assert until_it_passes(attempt) > 0


# ---------------------------------------------------------------------------------------------------------- repetition


@pytest.mark.parametrize("order", ["adopt", "block", "none", "other"])
@pytest.mark.parametrize("wish", [{}, {"ndim": 7}, {"dtype": "int8"}, {"shape": (9,)}, {"memory": 4}],
                         ids=["as_it_is", "of_7_dimensions", "of_int8", "of_another_shape", "in_pinned_memory"])
@pytest.mark.parametrize("name", ["interface", "interface_of_lists", "interface_of_records", "table",
                                  "table_that_lends", "buffer", "buffer_of_numpy", "buffer_with_a_mask", "refusing",
                                  "no_array"])
def test_a_thousand_times_are_like_one(probe, name, order, wish):
    source, request, _ = MAKERS[name]()
    if order == "other":
        order = emulated.create_stream()
    request = checks.fields(probe, {**request, **wish})

    def some(times):
        for _ in range(times):
            view, _ = checks.catch(probe.acquire, source, order, request)
            if view is not None:
                view.release()
        gc.collect()
        return sys.getallocatedblocks()

    some(10)
    first = some(100)
    assert some(1000) - first < 100
