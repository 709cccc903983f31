"""What is held, for how long, and how it is given back: once, in whatever state, on whatever thread."""

import array
import contextlib
import ctypes
import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest

import checks
import children
import dlpack
import emulated
import loans
import probe
import producers
import tables
from loans import Loan, make_stream

ANY = {"memory": probe.ANYWHERE}
HOST = {"memory": probe.ON_HOST}


class Expected(Exception):
    pass


@pytest.fixture(autouse=True)
def torch():
    tables.set_stream(emulated.LEGACY)
    with loans.torch_imported():
        yield


# What can be borrowed again and again, by every protocol.
REUSABLE = {
    "interface": lambda: producers.Interface(np.zeros(4, "f4"), stream=emulated.LEGACY),
    "interface-v2": lambda: producers.Interface(np.zeros(4, "f4"), version=2),
    "dlpack": lambda: producers.DLPack(np.zeros(4, "f4"), tensor={"owner": None}),
    "dlpack-legacy": lambda: producers.DLPack(np.zeros(4, "f4"), legacy=True, tensor={"owner": None}),
    "tensor": lambda: loans.table_array(loans.Tensor),
    "table": lambda: loans.table_array(loans.Owning),
    "numpy": lambda: np.zeros((2, 3), "f4").T,
    "array": lambda: array.array("f", [1, 2, 3]),
    "bytearray": lambda: bytearray(12),
    "memoryview": lambda: memoryview(bytearray(12)),
}


@pytest.fixture(params=REUSABLE)
def borrowed(request):
    """One of each."""
    return REUSABLE[request.param]()


# By the first order everything is given back inside the release, by the second one late where no stream was told.
INSIDE_AND_LATE = ["none", "adopt"]


def give_back_what_is_late():
    """All of it, with what is released when that comes back."""
    while emulated.run_all():
        pass


def assert_given_back_once(loan, order):
    """By the release that was made before, or late if that order keeps it."""
    assert loan.given_back == (0 if loan.is_given_back_late(order) else 1)
    give_back_what_is_late()
    assert loan.given_back == 1


# ---------------------------------------------------------------------------------------------- what a view holds on to


@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
def test_reference_counts_are_unchanged(borrowed, order, unchanged):
    order = make_stream("non-blocking") if order == "wait" else order
    with unchanged(borrowed):
        for _ in range(3):
            view = probe.acquire(borrowed, order, ANY)
            view.release()
            probe.acquire(borrowed, order, ANY)
        del view


def test_reference_counts_are_unchanged_by_a_refusal(borrowed, unchanged):
    with unchanged(borrowed):
        for request in ({"dtype": "int64"}, {"ndim": 7}, {"shape": (99,)}, {"memory": probe.ON_PINNED},
                        {"require": probe.MASK_OK, "protocols": 1 << 20}):
            with pytest.raises(probe.CAIError):
                probe.acquire(borrowed, "adopt", {**ANY, **request})


def test_a_view_refers_to_its_object_until_release(borrowed):
    view = probe.acquire(borrowed, "adopt", ANY)
    assert view.object() is borrowed
    view.release()
    assert view.object() is None
    described = view.describe()
    assert (described["mask"], described["descr"], described["protocol"]) == (None, None, 0)


@pytest.mark.parametrize("source", [source for source in loans.ALL if source != "capsule"])
@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
def test_pitfall_57_the_object_lives_as_long_as_it_is_held(source, order):
    """The object that has the attribute owns the memory; the dict that it handed out does not."""
    loan = Loan(source, pending=False)
    given = loan.give()
    dies = weakref.ref(given)
    view = probe.acquire(given, make_stream("non-blocking") if order == "wait" else order, {})
    del given
    gc.collect()
    assert dies() is view.object()
    assert loan.given_back == 0
    assert loan.now() == loans.NEW
    view.release()
    if loan.is_given_back_late(order):
        assert dies() is not None
        assert loan.now() == loans.NEW
    assert_given_back_once(loan, order)
    assert dies() is None


def test_pitfall_57_the_dict_alone_is_no_array():
    given = producers.Interface(np.zeros(4, "f4"))
    with pytest.raises(probe.InterfaceNotImplementedError, match="dict"):
        probe.acquire(given.__cuda_array_interface__, "adopt", {})


def test_pitfall_57_the_dict_may_die_before_the_view():
    class Once:
        def __init__(self, interface):
            self.interface = interface

        @property
        def __cuda_array_interface__(self):
            interface, self.interface = self.interface, None
            return interface

    memory = producers.Memory(np.arange(4, dtype="f4"))
    view = probe.acquire(Once({"shape": [2, 2], "typestr": "<f4", "data": [memory.pointer, False], "version": 3,
                               "strides": [8, 4]}), "adopt", {})
    gc.collect()
    described = view.describe()
    assert (described["pointer"], described["shape"], described["strides"]) == (memory.pointer, (2, 2), (2, 1))


@pytest.mark.parametrize("give_up", ["release", "dealloc"])
def test_a_buffer_is_locked_as_long_as_it_is_held(give_up):
    data = bytearray(8)
    view = probe.acquire(data, "adopt", HOST)
    with pytest.raises(BufferError):
        data.append(1)
    if give_up == "release":
        view.release()
    del view
    data.append(1)
    assert len(data) == 9


@pytest.mark.parametrize("field, value", [("mask", object()), ("descr", [("a", "<f4"), ("b", "<f4")])])
def test_mask_and_descr_live_as_long_as_the_view(field, value, unchanged):
    given = producers.Interface(np.zeros(4, "V8"), overrides={field: value})
    with unchanged(given, value):
        view = probe.acquire(given, "adopt", {"require": probe.MASK_OK | probe.UNUSUAL_DTYPE_OK})
        assert view.describe()[field] is value
        view.release()


def test_the_views_shape_is_its_own():
    """A producer may reuse the arrays in its struct as soon as it is asked again."""
    memory = producers.Memory(np.zeros(6, "f4"))
    managed = dlpack.Managed(memory.pointer, (2, 3), device=(dlpack.CUDA, 0), strides=(3, 1))
    view = probe.acquire(managed.capsule(), "adopt", {})
    managed._shape[0], managed._strides[0] = 77, 88
    assert (view.describe()["shape"], view.describe()["strides"]) == ((2, 3), (3, 1))


@pytest.mark.parametrize("serves", ["__dlpack__", "interface"])
def test_what_was_needed_on_the_way_is_let_go_after_the_acquire(serves):
    """Neither a failure that another protocol made up for, with its frames, nor a dict that was put aside lives on."""
    class Dict(dict):
        """A dict that can be referred to weakly."""

    class Failing(producers.DLPack):
        @property
        def __cuda_array_interface__(self):
            failure = Expected("not this way")
            dies.append(weakref.ref(failure))
            raise failure

    class Aside(producers.Interface):
        @property
        def __cuda_array_interface__(self):
            interface = Dict(super().__cuda_array_interface__)
            dies.append(weakref.ref(interface))
            return interface

    dies = []
    given = Failing(np.zeros(4, "f4")) if serves == "__dlpack__" else Aside(np.zeros(4, "f4"), version=2)
    view = probe.acquire(given, "adopt", {})
    gc.collect()
    assert [ref() for ref in dies] == [None]
    view.release()


# --------------------------------------------------------------------------------------------- giving back: how often


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("end", ["release", "twice", "dealloc", "release-then-dealloc", "cycle"])
def test_everything_is_given_back_once(source, end):
    loan = Loan(source, pending=False)
    view = probe.acquire(loan.give(), "adopt", {})
    assert loan.given_back == 0
    if end == "cycle":
        cycle = [view]
        cycle.append(cycle)
        del cycle
    elif end != "dealloc":
        assert view.release() == "OK"
    if end == "twice":
        emulated.clear_calls()
        assert view.release() == "OK"
        assert emulated.call_names() == []
    del view
    gc.collect()
    assert_given_back_once(loan, "adopt")


def test_a_released_view_can_be_described():
    view = probe.acquire(np.zeros(3), "adopt", HOST)
    view.release()
    assert view.describe()["protocol"] == 0
    assert view.describe()["stream"] in (0, None)


@pytest.mark.parametrize("source", loans.ALL)
def test_a_view_is_released_while_the_thread_of_its_acquire_is_gone(source):
    loan, held = Loan(source, make_stream("non-blocking"), pending=False), []
    thread = threading.Thread(target=lambda given: held.append(probe.acquire(given, "adopt", {})), args=(loan.give(),))
    thread.start()
    thread.join()
    del thread
    assert loan.given_back == 0
    assert held[0].release() == "OK"
    assert_given_back_once(loan, "adopt")


# ------------------------------------------------------------------------------ giving back: with an exception pending


def no_exception_is_set():
    """Whether the thread state of the caller is free of a pending exception."""
    occurred = ctypes.pythonapi.PyErr_Occurred
    occurred.restype = ctypes.c_void_p
    return occurred() is None


@pytest.mark.parametrize("source", loans.ALL)
@pytest.mark.parametrize("order", ["adopt", "block", "none", "wait"])
def test_pitfall_37_a_pending_exception_survives_the_release(source, order):
    loan, pending = Loan(source, pending=False), Expected("pending")
    view = probe.acquire(loan.give(), make_stream("non-blocking") if order == "wait" else order, {})
    with pytest.raises(Expected) as raised:
        view.release_raising(pending)
    assert raised.value is pending
    assert (pending.__cause__, pending.__context__) == (None, None)
    assert_given_back_once(loan, order)


@pytest.mark.parametrize("protocol", ["dlpack", "object"])
@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_37_whoever_is_given_back_to_sees_no_exception(protocol, order):
    seen = []
    if protocol == "dlpack":
        given = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0),
                               on_delete=lambda: seen.append(no_exception_is_set())).capsule()
    else:
        given = producers.Interface(np.zeros(4, "f4"), version=2)
        weakref.finalize(given, lambda: seen.append(no_exception_is_set()))
    view = probe.acquire(given, order, {})
    del given
    with pytest.raises(Expected):
        view.release_raising(Expected())
    gc.collect()
    assert seen == ([] if order == "adopt" else [True])
    give_back_what_is_late()
    assert seen == [True]


class unraisable:
    """A context in which exceptions that nobody can raise are collected."""

    def __enter__(self):
        self._before, sys.unraisablehook = sys.unraisablehook, lambda report: self.found.append(report.exc_type)
        self.found = []
        return self.found

    def __exit__(self, *exception):
        sys.unraisablehook = self._before


def failing_managed(**kwargs):
    """A managed tensor whose deleter leaves an exception set: PyErr_NoMemory, called as one."""
    managed = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0), **kwargs)
    managed._struct.deleter = ctypes.cast(ctypes.pythonapi.PyErr_NoMemory, ctypes.c_void_p)
    return managed


@pytest.mark.parametrize("version", [None, (1, 3)])
@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_37_a_deleter_that_raises_is_reported_and_raises_nothing(version, order):
    view = probe.acquire(failing_managed(version=version).capsule(), order, {})
    with unraisable() as found:
        assert view.release() == "OK"
        give_back_what_is_late()
    assert found == [MemoryError]


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_37_a_deleter_that_raises_does_not_replace_the_pending_exception(order):
    view, pending = probe.acquire(failing_managed().capsule(), order, {}), Expected()
    with unraisable() as found:
        with pytest.raises(Expected) as raised:
            view.release_raising(pending)
        give_back_what_is_late()
    assert raised.value is pending
    assert (pending.__cause__, pending.__context__) == (None, None)
    assert found == [MemoryError]


def test_pitfall_37_who_is_given_back_to_late_does_not_see_what_another_deleter_left():
    """The queue is emptied in one go, between one exception and the next."""
    seen = []

    def note():
        seen.append(no_exception_is_set())

    def managed():
        return dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0), on_delete=note)

    with unraisable() as found:
        for given in (managed(), failing_managed(), managed(), failing_managed(), managed()):
            probe.acquire(given.capsule(), "adopt", {}).release()
        give_back_what_is_late()
    assert seen == [True] * 3
    assert found == [MemoryError] * 2


@pytest.mark.parametrize("request_", [{"dtype": "int64"}, {"ndim": 3}, {"require": probe.WRITABLE}], ids=str)
def test_pitfall_37_a_deleter_that_raises_does_not_replace_the_refusal(request_):
    """The deleter runs on the way out of an acquire that fails, while the refusal is set."""
    with unraisable() as found:
        with pytest.raises((probe.DtypeMismatchError, probe.InvalidShapeError, probe.ReadOnlyAccessError)):
            probe.acquire(failing_managed(flags=dlpack.READ_ONLY).capsule(), "adopt", request_)
    assert found == [MemoryError]


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_37_a_finaliser_that_raises_is_reported_and_raises_nothing(order):
    class Raising(producers.Interface):
        def __del__(self):
            raise Expected

    view, pending = probe.acquire(Raising(np.zeros(4, "f4"), version=2), order, {}), KeyError()
    with unraisable() as found:
        with pytest.raises(KeyError) as raised:
            view.release_raising(pending)
        give_back_what_is_late()
    assert raised.value is pending
    assert found == [Expected]


# ------------------------------------------------------------------------- giving back: to somebody who calls cai again


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_a_deleter_may_release_the_same_view(order):
    managed = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0), on_delete=lambda: view.release())
    view = probe.acquire(managed.capsule(), order, {})
    assert view.release() == "OK"
    give_back_what_is_late()
    assert managed.deletions == 1


@pytest.mark.parametrize("end", ["release", "dealloc"])
@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_a_deleter_may_release_other_views(end, order):
    others = [dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0)) for _ in range(3)]
    views = [probe.acquire(other.capsule(), order, {}) for other in others]

    def on_delete():
        if end == "release":
            assert [view.release() for view in views] == ["OK"] * 3
        else:
            views.clear()

    managed = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0), on_delete=on_delete)
    probe.acquire(managed.capsule(), order, {}).release()
    give_back_what_is_late()
    assert [other.deletions for other in others] == [1, 1, 1]
    assert managed.deletions == 1


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_a_deleter_may_acquire(order, unchanged):
    host, device, seen = np.zeros(3), producers.Interface(np.zeros(4, "f4")), []

    def on_delete():
        for given in (host, device):
            seen.append(probe.acquire(given, "adopt", ANY).describe()["size"])
        with pytest.raises(probe.InterfaceNotImplementedError):
            probe.acquire(object(), "adopt", ANY)

    managed = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0), on_delete=on_delete)
    with unchanged(host, device):
        probe.acquire(managed.capsule(), order, {}).release()
        assert seen == ([] if order == "adopt" else [3, 4])
    assert seen == [3, 4]


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_a_finaliser_may_release_the_view_that_held_its_object(order):
    class Releasing(producers.Interface):
        def __del__(self):
            statuses.append(view.release())

    statuses = []
    view = probe.acquire(Releasing(np.zeros(4, "f4"), version=2), order, {})
    assert view.release() == "OK"
    give_back_what_is_late()
    assert statuses == ["OK"]


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_a_chain_of_views_that_hold_each_other(order):
    """pitfall 58: each object holds the view of the next; letting go of the first lets go of all."""
    given_back = []

    class Link(producers.Interface):
        def __del__(self):
            given_back.append(self.number)

    view = None
    for number in range(50):
        link = Link(np.zeros(1, "f4"), version=2)
        link.number, link.view = number, view
        view = probe.acquire(link, order, {})
    del link
    assert given_back == []
    del view
    give_back_what_is_late()
    assert given_back == list(reversed(range(50)))


def test_garbage_collection_during_an_acquire():
    """Every place that runs Python code may collect: the view that is being filled must be intact."""
    class Collecting(producers.Both):
        @property
        def __cuda_array_interface__(self):
            gc.collect()
            raise RuntimeError

        def __dlpack__(self, **keywords):
            gc.collect()
            return super().__dlpack__(**keywords)

    given = Collecting(np.zeros(4, "f4"))
    view = probe.acquire(given, "adopt", {})
    gc.collect()
    assert view.describe()["pointer"] == given.pointer
    view.release()
    give_back_what_is_late()
    assert given.deletions == [1]


# ------------------------------------------------------------------------------------------------------------- threads


def on_threads(function, n=8):
    """Run function(number) on n threads at once, switching often; the first exception of any of them is raised."""
    barrier, raised = threading.Barrier(n), []

    def run(number):
        try:
            barrier.wait()
            function(number)
        except BaseException as exception:
            raised.append(exception)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(number,)) for number in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if raised:
        raise raised[0]


@pytest.mark.parametrize("order", ["adopt", "block", "wait"])
def test_pitfall_60_threads_borrow_the_same_arrays(order, unchanged):
    arrays = [make() for name, make in REUSABLE.items()]
    order = make_stream("non-blocking") if order == "wait" else order
    pointers = [probe.acquire(given, order, ANY).describe()["pointer"] for given in arrays]
    give_back_what_is_late()

    def borrow(number):
        for turn in range(20):
            views = [probe.acquire(given, order, ANY) for given in arrays]
            assert [view.describe()["pointer"] for view in views] == pointers
            for view in views[turn % 2:]:
                view.release()

    with unchanged(*arrays):
        on_threads(borrow)
    for given in arrays:
        if isinstance(given, producers.DLPack):
            assert set(given.deletions) == {1}
        if isinstance(given, tables.Array):
            assert given.counts()["owned"] == given.counts()["deleted"]


def test_pitfall_60_threads_call_with_the_same_arrays(unchanged):
    arrays = [make() for name, make in REUSABLE.items() if name not in ("numpy",)]
    requests = tuple({"name": "x", **ANY} for _ in arrays)

    def use(number):
        for _ in range(20):
            description = probe.call(tuple(arrays), requests, "adopt", None)
            assert description["stream"] == emulated.LEGACY
            assert emulated.get_device() == 0

    with unchanged(*arrays):
        on_threads(use)


def test_pitfall_60_a_capsule_is_consumed_once_however_many_threads_try():
    for _ in range(30):
        managed = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0))
        capsule, won, lost = managed.capsule(), [], []

        def take(number, capsule=capsule, won=won, lost=lost):
            try:
                won.append(probe.acquire(capsule, "none", {}))
            except probe.InvalidCapsuleError:
                lost.append(number)

        on_threads(take, 4)
        assert (len(won), len(lost)) == (1, 3)
        won[0].release()
        assert managed.deletions == 1


def test_pitfall_60_a_view_is_released_once_however_many_threads_try():
    for _ in range(30):
        managed = dlpack.Managed(emulated.allocate(16), (4,), device=(dlpack.CUDA, 0))
        view = probe.acquire(managed.capsule(), "none", {})
        on_threads(lambda number, view=view: view.release(), 4)
        assert managed.deletions == 1


# ---------------------------------------------------------------------------------------------------- the type cache

CACHED = 96  # as many types as a state remembers at most; nothing may depend on the number


@pytest.fixture(params=["probe", "probe_limited"] if sys.version_info >= (3, 11) else ["probe"])
def fresh(request):
    """A module whose type cache is empty."""
    return checks.load(request.param)


class Chameleon:
    """An object of one type that speaks what its instances are told to."""


def chameleon(kind, object_type=Chameleon):
    """An instance that speaks one protocol, and the memory it is in."""
    given = object_type()
    given.source = {"interface-v3": lambda: producers.Interface(np.zeros(4, "f4"), stream=emulated.PER_THREAD),
                    "interface-v2": lambda: producers.Interface(np.zeros(4, "f4"), version=2),
                    "dlpack": lambda: producers.DLPack(np.zeros(4, "f4")),
                    "both": lambda: producers.Both(np.zeros(4, "f4"), stream=emulated.PER_THREAD),
                    "none": lambda: None}[kind]()
    if kind in ("interface-v3", "interface-v2", "both"):
        given.__cuda_array_interface__ = given.source.__cuda_array_interface__
    if kind in ("dlpack", "both"):
        given.__dlpack__ = given.source.__dlpack__
        given.__dlpack_device__ = given.source.__dlpack_device__
    return given


SPOKEN = {"interface-v3": "VIA_CUDA_ARRAY_INTERFACE", "interface-v2": "VIA_CUDA_ARRAY_INTERFACE",
          "dlpack": "VIA_DLPACK"}


def check_chameleon(module, given, kind, order="adopt"):
    if kind == "none":
        with pytest.raises(module.InterfaceNotImplementedError):
            module.acquire(given, order, {})
        return
    view = module.acquire(given, order, {})
    described = view.describe()
    assert described["pointer"] == given.source.pointer
    if kind in SPOKEN:
        assert described["protocol"] == getattr(module, SPOKEN[kind])
    view.release()


@pytest.mark.parametrize("first, second", list(itertools.permutations(["interface-v3", "interface-v2", "dlpack", "both",
                                                                       "none"], 2)))
@pytest.mark.parametrize("order", ["adopt", "none", "block"])
def test_the_type_cache_never_refuses(first, second, order, fresh):
    """Two objects of one type may differ: whatever the first one spoke, the second one is read by what it speaks."""
    one, two = chameleon(first), chameleon(second)
    for given, kind in ((one, first), (two, second), (one, first), (two, second)):
        check_chameleon(fresh, given, kind, order)


@pytest.mark.parametrize("first, second", [("interface-v3", "dlpack"), ("dlpack", "interface-v3"),
                                           ("interface-v2", "dlpack"), ("dlpack", "interface-v2")])
def test_the_type_cache_never_refuses_an_argument(first, second, fresh):
    given = [chameleon(kind) for kind in (first, second, first, second)]
    for _ in range(3):
        views = fresh.call(tuple(given), ({},) * 4, "adopt", None)["views"]
        assert [view["pointer"] for view in views] == [one.source.pointer for one in given]
        given.reverse()


@pytest.mark.parametrize("first", ["interface", "buffer"])
def test_the_type_cache_never_refuses_host_memory(first, fresh):
    """Objects of one type, all of them buffers, of which one is an array on the GPU as well."""
    class Dual(bytearray):
        pass

    on_gpu, on_host = Dual(16), Dual(16)
    source = producers.Interface(np.zeros(4, "f4"))
    on_gpu.__cuda_array_interface__ = source.__cuda_array_interface__
    steps = [(on_gpu, {}, fresh.VIA_CUDA_ARRAY_INTERFACE), (on_host, {"memory": fresh.ON_HOST}, fresh.VIA_BUFFER),
             (on_host, {"memory": fresh.ANYWHERE}, fresh.VIA_BUFFER)]
    for given, request, protocol in (steps if first == "interface" else steps[::-1]) * 2:
        assert fresh.acquire(given, "adopt", request).describe()["protocol"] == protocol
    with pytest.raises(fresh.DeviceMismatchError):
        fresh.acquire(on_host, "adopt", {})


def test_a_type_is_remembered_once(fresh):
    """However many arguments of it were looked at before the first one was done."""
    for kind in ("interface-v3", "dlpack"):
        object_type = type("Many", (Chameleon,), {})
        given = tuple(chameleon(kind, object_type) for _ in range(16))
        before = sys.getrefcount(object_type)
        for _ in range(3):
            fresh.call(given, ({},) * 16, "adopt", None)
            gc.collect()
            assert sys.getrefcount(object_type) == before + 1


def test_the_type_cache_does_not_change_what_is_spoken(fresh):
    """The first, the second and the third object of each type come by the same protocol."""
    for name, make in REUSABLE.items():
        given = [make() for _ in range(3)]
        views = [fresh.acquire(one, "adopt", ANY) for one in given]
        assert len({view.describe()["protocol"] for view in views}) == 1, name


def test_a_wish_for_one_protocol_says_nothing_of_the_type(fresh):
    given = producers.Both(np.zeros(4, "f4"), stream=emulated.PER_THREAD)
    for protocols in (fresh.VIA_DLPACK, fresh.VIA_CUDA_ARRAY_INTERFACE, fresh.VIA_DLPACK):
        assert fresh.acquire(given, "adopt", {"protocols": protocols}).describe()["protocol"] == protocols
    with pytest.raises(fresh.InterfaceNotImplementedError):
        fresh.acquire(given, "adopt", {"protocols": fresh.VIA_EXCHANGE})
    assert fresh.acquire(given, "adopt", {}).describe()["flags"] & fresh.HAS_STREAM


def test_more_types_than_the_cache_holds(fresh):
    """A full cache remembers no more types; all of them work, and the ones that it does not hold die."""
    made = []
    for number in range(3 * CACHED):
        object_type = type(f"Type{number}", (Chameleon,), {})
        kind = ("interface-v3", "dlpack", "interface-v2")[number % 3]
        made.append((object_type, kind))
    for object_type, kind in made * 2:
        check_chameleon(fresh, chameleon(kind, object_type), kind)
    for index in (0, 1, 2 * CACHED, 3 * CACHED - 1):  # remembered or not, a type may speak something else
        object_type, kind = made[index]
        other = "dlpack" if kind != "dlpack" else "interface-v3"
        check_chameleon(fresh, chameleon(other, object_type), other)
    dies = [weakref.ref(object_type) for object_type, _ in made]
    made.clear()
    del object_type
    give_back_what_is_late()
    gc.collect()
    assert sum(ref() is not None for ref in dies) <= 128


def test_a_table_is_found_however_many_types_there_are(fresh):
    for number in range(2 * CACHED):
        given = loans.table_array(type(f"Table{number}", (loans.Owning,), {}))
        for _ in range(2):
            assert fresh.acquire(given, "adopt", {}).describe()["protocol"] == fresh.VIA_EXCHANGE
            assert given.counts()["owned"] == given.counts()["deleted"]


def test_types_that_die_are_not_confused_with_those_that_come_after(fresh):
    """pitfall 60: an address is no name; a new type at the address of a dead one is another type."""
    kinds = ["interface-v3", "dlpack", "interface-v2", "table"]
    addresses = set()
    for number in range(4 * CACHED):
        kind = kinds[number % len(kinds)]
        base = loans.Owning if kind == "table" else Chameleon
        object_type = type("Short", (base,), {})
        addresses.add(id(object_type))
        if kind == "table":
            given = loans.table_array(object_type)
            assert fresh.acquire(given, "adopt", {}).describe()["protocol"] == fresh.VIA_EXCHANGE
        else:
            given = chameleon(kind, object_type)
            check_chameleon(fresh, given, kind)
        del given, object_type
        gc.collect()
    assert len(addresses) < 4 * CACHED  # some came again: otherwise nothing was tested


def test_a_type_whose_protocol_changes_at_run_time(fresh):
    object_type = type("Changing", (), {})
    given = object_type()
    interface, capsules = producers.Interface(np.zeros(4, "f4")), producers.DLPack(np.zeros(4, "f4"))
    steps = [
        (None, None),
        ("__cuda_array_interface__", interface.pointer),
        ("__dlpack__", capsules.pointer),
        (None, None),
        ("__dlpack__", capsules.pointer),
        ("__cuda_array_interface__", interface.pointer),
    ]
    for name, pointer in steps * 2:
        for old in ("__cuda_array_interface__", "__dlpack__", "__dlpack_device__"):
            if old in vars(object_type):
                delattr(object_type, old)
        if name == "__cuda_array_interface__":
            object_type.__cuda_array_interface__ = property(lambda self: interface.__cuda_array_interface__)
        elif name == "__dlpack__":
            object_type.__dlpack__ = lambda self, **keywords: capsules.__dlpack__(**keywords)
            object_type.__dlpack_device__ = lambda self: capsules.__dlpack_device__()
        for _ in range(2):
            if name is None:
                with pytest.raises(fresh.InterfaceNotImplementedError):
                    fresh.acquire(given, "adopt", {})
            else:
                assert fresh.acquire(given, "adopt", {}).describe()["pointer"] == pointer


def test_an_object_whose_type_is_replaced(fresh):
    class One:
        __cuda_array_interface__ = property(lambda self: interface.__cuda_array_interface__)

    class Two:
        __dlpack__ = property(lambda self: capsules.__dlpack__)
        __dlpack_device__ = property(lambda self: capsules.__dlpack_device__)

    interface, capsules = producers.Interface(np.zeros(4, "f4")), producers.DLPack(np.zeros(4, "f4"))
    given = One()
    for object_type, pointer in [(One, interface.pointer), (Two, capsules.pointer)] * 3:
        given.__class__ = object_type
        assert fresh.acquire(given, "adopt", {}).describe()["pointer"] == pointer


def test_a_table_that_a_type_gets_later_does_not_hide_what_it_spoke_before(fresh):
    """That a type has no table is the one thing that is remembered against it."""
    class Late(tables.Array):
        @property
        def __cuda_array_interface__(self):
            return interface.__cuda_array_interface__

    interface = producers.Interface(np.zeros(4, "f4"))
    given = loans.table_array(Late)
    assert fresh.acquire(given, "adopt", {}).describe()["pointer"] == interface.pointer
    Late.__dlpack_c_exchange_api__ = tables.make_table()
    assert fresh.acquire(given, "adopt", {}).describe()["pointer"] in (interface.pointer, given.pointer)


def test_a_hint_that_raises_now_is_passed_over(fresh):
    class Moody(producers.Both):
        mood = "interface"

        @property
        def __cuda_array_interface__(self):
            if self.mood != "interface":
                raise RuntimeError("not today")
            return super().__cuda_array_interface__

        def __dlpack__(self, **keywords):
            if self.mood != "dlpack":
                raise BufferError("not today")
            return super().__dlpack__(**keywords)

    given = Moody(np.zeros(4, "f4"), stream=emulated.PER_THREAD)
    spoken = {"interface": fresh.VIA_CUDA_ARRAY_INTERFACE, "dlpack": fresh.VIA_DLPACK}
    for mood in ["dlpack", "interface", "dlpack", "none", "interface", "none", "dlpack"]:
        given.mood = mood
        if mood == "none":
            with pytest.raises(fresh.InterfaceNotImplementedError, match="not today"):
                fresh.acquire(given, "adopt", {})
        else:
            assert fresh.acquire(given, "adopt", {}).describe()["protocol"] == spoken[mood]


def test_the_cache_may_fill_while_an_object_is_being_read(fresh):
    """What is known of a type is read again after anything that may run Python code."""
    class Filling(producers.Interface):
        depth = 0

        @property
        def __cuda_array_interface__(self):
            Filling.depth += 1
            if Filling.depth == 1:
                fresh.acquire(other, "adopt", {}).release()
                for number in range(2 * CACHED):
                    given = chameleon("dlpack", type(f"Filler{number}", (Chameleon,), {}))
                    fresh.acquire(given, "adopt", {}).release()
            return super().__cuda_array_interface__

    given, other = Filling(np.zeros(4, "f4")), Filling(np.zeros(4, "f4"))
    assert fresh.acquire(given, "adopt", {}).describe()["pointer"] == given.pointer
    assert fresh.acquire(other, "adopt", {}).describe()["pointer"] == other.pointer


def test_pitfall_60_threads_fill_the_cache_with_the_same_types(fresh):
    """Entries are published once and whole, whoever comes first."""
    kinds = ["interface-v3", "dlpack", "interface-v2", "table"]
    made = []
    for number in range(CACHED + 40):
        kind = kinds[number % len(kinds)]
        made.append((type(f"Shared{number}", (loans.Owning if kind == "table" else Chameleon,), {}), kind))
    counts = [sys.getrefcount(object_type) for object_type, _ in made]

    def use(number):
        for step in range(len(made)):
            object_type, kind = made[(step * 7 + number) % len(made)]
            if kind == "table":
                given = loans.table_array(object_type)
                assert fresh.acquire(given, "adopt", {}).describe()["pointer"] == given.pointer
            else:
                check_chameleon(fresh, chameleon(kind, object_type), kind)

    on_threads(use, 4)
    give_back_what_is_late()
    gc.collect()
    grown = [sys.getrefcount(object_type) - count for (object_type, _), count in zip(made, counts)]
    assert set(grown) <= {0, 1}  # held by the cache, once, or not
    assert sum(grown) >= 1


def test_builds_of_the_library_in_one_process_know_nothing_of_each_other():
    first, second = checks.load("probe"), checks.load("probe")
    object_type = type("Ours", (Chameleon,), {})
    before = sys.getrefcount(object_type)
    check_chameleon(first, chameleon("interface-v3", object_type), "interface-v3")
    check_chameleon(second, chameleon("dlpack", object_type), "dlpack")
    check_chameleon(first, chameleon("dlpack", object_type), "dlpack")
    check_chameleon(second, chameleon("interface-v3", object_type), "interface-v3")
    give_back_what_is_late()
    gc.collect()
    assert sys.getrefcount(object_type) == before + 2
    del first, second
    gc.collect()
    assert sys.getrefcount(object_type) == before


# ---------------------------------------------------------------------------------------------------- nothing grows


def growth(function, times=100):
    """By how many blocks of memory each call lets the process grow: in the best of some rounds; a leak is in all."""
    counts = []
    for _ in range(5):
        for _ in range(times):
            function()
        emulated.run_all()  # what is given back late is
        dlpack._alive.clear()  # which keeps hand-made capsules alive, as nothing else does
        gc.collect()
        counts.append(sys.getallocatedblocks())
    return min(after - before for before, after in zip(counts, counts[1:])) / times


def held():
    """What the emulator holds beside what pools keep for the next use."""
    emulated.drain_pools()
    return emulated.count_allocations(), emulated.count_streams(), emulated.count_events()


SLACK = 0.5  # blocks for each call, of which a leak has at least one


def test_growth_is_seen():
    kept = []
    assert growth(lambda: kept.append(object())) >= 1
    assert growth(lambda: object()) < SLACK


def test_borrowing_leaks_nothing(borrowed):
    def use():
        probe.acquire(borrowed, "adopt", ANY).release()
        probe.acquire(borrowed, "none", ANY)
        if isinstance(borrowed, producers.DLPack):
            borrowed.asked.clear()
            borrowed.made.clear()

    before = held()
    assert growth(use) < SLACK
    assert held() == before


def test_waiting_leaks_nothing():
    stream = make_stream("non-blocking")
    given = [producers.Interface(np.zeros(4, "f4"), stream=stream), loans.table_array(loans.Tensor)]
    requests = ({"name": "a"}, {"name": "b"})
    before = held()

    def use():
        for one in given:
            probe.acquire(one, emulated.PER_THREAD, {}).release()
            probe.acquire(one, "block", {}).release()
        probe.call(tuple(given), requests, "adopt", None)
        emulated.clear_calls()

    assert growth(use) < SLACK
    assert held() == before


@pytest.mark.parametrize("request_", [{"dtype": "int64"}, {"ndim": 7}, {"memory": probe.ON_PINNED},
                                      {"protocols": 1 << 20}], ids=str)
def test_refusing_leaks_nothing(borrowed, request_):
    def use():
        with contextlib.suppress(probe.CAIError):
            probe.acquire(borrowed, "adopt", {**ANY, **request_})
        with contextlib.suppress(probe.CAIError):
            probe.call((borrowed, borrowed), ({**ANY}, {**ANY, **request_}), "adopt", None)
        if isinstance(borrowed, producers.DLPack):
            borrowed.asked.clear()
            borrowed.made.clear()

    assert growth(use) < SLACK


def test_failing_producers_leak_nothing():
    class Raising:
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("no interface")

        def __dlpack__(self, **keywords):
            raise BufferError("no capsule")

        def __dlpack_device__(self):
            return (dlpack.CUDA, 0)

    given = [Raising(), object(), loans.table_array(loans.Owning, fail_silently=True),
             producers.Interface(np.zeros(4, "f4"), overrides={"shape": "four"}),
             producers.Interface(np.zeros(4, "f4"), overrides={"stream": -1}),
             producers.Interface(np.zeros(4, "f4"), overrides={"typestr": ">f4"})]

    def use():
        for one in given:
            with contextlib.suppress(probe.CAIError):
                probe.acquire(one, "adopt", {})

    assert growth(use) < SLACK


def test_cuda_errors_leak_nothing():
    given = producers.Interface(np.zeros(4, "f4"), stream=emulated.LEGACY)

    def use():
        emulated.fail("cudaStreamSynchronize", 1, 719)
        with contextlib.suppress(probe.CudaCallError):
            probe.acquire(given, "block", {})
        emulated.fail("cudaPointerGetAttributes", 1, 719)
        with contextlib.suppress(probe.CudaCallError):
            probe.acquire(given, "adopt", {})
        emulated.clear_calls()

    assert growth(use) < SLACK


def test_modules_leak_nothing():
    def use():
        module = checks.load("probe")
        module.acquire(np.zeros(3), "adopt", HOST).release()
        with contextlib.suppress(module.CAIError):
            module.acquire(object(), "adopt", HOST)

    assert growth(use) < 10  # of the hundreds that a module consists of


# ------------------------------------------------------------------------------------------------- the end of Python


@pytest.mark.parametrize("where", ["global", "cycle", "module", "thread", "exception"])
@pytest.mark.parametrize("given", ["numpy", "interface", "table"])
def test_views_that_live_until_the_end(where, given):
    """Python tears down in an order of its own; whatever it releases late must do no harm."""
    children.run("""
        import sys, threading
        import numpy as np
        import loans, probe, producers

        where, given = sys.argv[1:]
        make = {"numpy": lambda: np.zeros(3), "interface": lambda: producers.Interface(np.zeros(4, "f4"), version=2),
                "table": lambda: loans.table_array(loans.Owning)}[given]
        view = probe.acquire(make(), "adopt", {"memory": probe.ANYWHERE})
        if where == "cycle":
            cycle = [view]
            cycle.append(cycle)
            del view, cycle
        elif where == "module":
            probe.kept = view
            del view
        elif where == "thread":
            local = threading.local()
            local.view = view
            del view
        elif where == "exception":
            try:
                probe.acquire(object(), "adopt", {})
            except probe.CAIError as exception:
                exception.view = view
                sys.last_value = exception
        print("done")
    """, where, given)
