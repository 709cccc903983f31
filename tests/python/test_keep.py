"""Arrays that C keeps beyond the call, and gives back: the very object that came, at any time, from any thread."""

import array as array_module
import contextlib
import ctypes
import gc
import sys
import threading
import time
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
from outward import NEW, OLD, SIX, Capsule, fill, seen_on, shown, wrapped


@pytest.fixture(autouse=True)
def torch(request):
    """Tensor stands in for torch, where the test is not about torch itself, which can be imported only once."""
    tables.set_stream(emulated.LEGACY)
    with contextlib.nullcontext() if "like_torch" in request.node.name else loans.torch_imported():
        yield


SOURCES = {
    "interface": lambda: producers.Interface(SIX, stream=emulated.LEGACY),
    "interface-v2": lambda: producers.Interface(SIX, version=2),
    "interface-ready": lambda: producers.Interface(SIX, stream=None),
    "dlpack": lambda: producers.DLPack(SIX, tensor={"owner": None}),
    "dlpack-legacy": lambda: producers.DLPack(SIX, legacy=True, tensor={"owner": None}),
    "torch": lambda: loans.table_array(loans.Tensor, SIX.tobytes(), shape=(2, 3)),
    "table": lambda: loans.table_array(loans.Owning, SIX.tobytes(), shape=(2, 3)),
    "numpy": lambda: SIX.copy(),
    "transposed": lambda: np.asfortranarray(SIX),
    "array": lambda: array_module.array("f", range(6)),
    "bytearray": lambda: bytearray(SIX.tobytes()),
}


class Watched:
    """Objects without weak references are watched by their counts."""

    def __init__(self, source):
        self.source = source

    @property
    def count(self):
        return sys.getrefcount(self.source)


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]()


def flush(arrays):
    """A call of cai, which empties the queue of what unknown threads gave up; late returns have arrived."""
    emulated.run_all()
    arrays.new((), "int8", arrays.HOST)


# ------------------------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("order", ["adopt", "block", 1])
def test_the_very_object_comes_back(arrays, source, order):
    watched = Watched(source)
    checks.catch(arrays.keep, source, order)
    flush(arrays)
    before = watched.count
    handle = arrays.keep(source, order)
    assert arrays.give(handle) is source
    assert arrays.give(handle) is source
    during = watched.count
    assert during > before
    arrays.release(handle)
    flush(arrays)
    assert watched.count == before


def test_many_of_one_object(arrays, source):
    watched = Watched(source)
    arrays.release(arrays.keep(source))
    flush(arrays)
    before = watched.count
    handles = [arrays.keep(source) for _ in range(20)]
    assert all(arrays.give(handle) is source for handle in handles)
    for handle in handles:
        arrays.release(handle)
    flush(arrays)
    del handles, handle
    assert watched.count == before


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_one_is_kept_where_another_was(arrays, order):
    """Nothing of the arrays that were kept before is left, in whatever order they went."""
    for first in (5, 8):
        sources = [np.full(2, first + i, "f4") for i in range(3)] + [bytearray(8)]
        before = [sys.getrefcount(source) for source in sources]
        handles = [arrays.keep(source) for source in sources]
        assert [arrays.give(handle) is source for source, handle in zip(sources, handles)] == [True] * 4
        for i in order:
            arrays.release(handles[i])
        assert [sys.getrefcount(source) for source in sources] == before
        sources[3].append(1)  # a bytearray that is free again


def test_what_c_sees(arrays):
    source = producers.Interface(SIX, stream=2)
    about = arrays.describe(arrays.keep(source))
    assert (about["pointer"], about["shape"], about["device"], about["stream"], about["flags"]) == (
        source.pointer, (2, 3), (2, 0), 2, 0)
    frozen = np.arange(3, dtype="f4")
    frozen.flags.writeable = False
    about = arrays.describe(arrays.keep(frozen))
    assert (about["pointer"], about["device"], about["stream"], about["flags"]) == (
        frozen.ctypes.data, (1, 0), 0, arrays.READONLY)


@pytest.mark.parametrize("kind", ["device", "pinned"])
def test_an_array_may_outlive_the_stream_that_its_producer_told(arrays, kind):
    """CuPy's arrays do not keep the stream on which they were made: nothing asks it, or waits for it, any more."""
    stream = emulated.create_stream()
    handle = arrays.keep(producers.Interface(SIX, kind=kind, stream=stream), "adopt")
    emulated.destroy_stream(stream)
    arrays.release(handle)
    assert emulated.violations() == []


def test_a_keeper_may_outlive_the_stream_that_its_array_has_left(arrays):
    handle = arrays.wrap(emulated.allocate(16), (4,), None, "float32", (2, 0), 0, 3)
    stream, other = emulated.create_stream(), emulated.create_stream()
    keeper = arrays.keep(arrays.give(handle), stream)
    assert arrays.used_on(keeper, stream) == "OK"
    assert arrays.set_stream(handle, other, -1) == "OK"
    emulated.run_all()
    emulated.destroy_stream(stream)
    arrays.release(keeper)
    assert emulated.violations() == []
    arrays.release(handle)
    flush(arrays)


def test_the_caller_drops_the_object(arrays):
    """C's array keeps the object and its memory, and can still hand it out."""
    source = producers.Interface(SIX, stream=1)
    gone, pointer = weakref.ref(source), source.pointer
    handle = arrays.keep(source)
    del source
    gc.collect()
    assert gone() is not None and arrays.give(handle) is gone()
    assert emulated.read(pointer, 24) == SIX.tobytes()
    arrays.release(handle)
    flush(arrays)
    gc.collect()
    assert gone() is None


def test_a_bytearray_stays_locked_while_c_has_it(arrays):
    data = bytearray(8)
    handle = arrays.keep(data)
    with pytest.raises(BufferError):
        data.append(1)
    arrays.release(handle)
    flush(arrays)
    data.append(1)


def test_refused_objects_keep_nothing(arrays):
    frozen = np.arange(3, dtype="f4")
    frozen.flags.writeable = False
    for source in (object(), frozen, producers.Interface(SIX, overrides={"typestr": ">f4"}), "text"):
        before = sys.getrefcount(source)
        kept, refusal = checks.catch(arrays.keep, source, "adopt", arrays.WRITABLE)
        assert kept is None and issubclass(refusal.type, arrays.CAIError)
        assert sys.getrefcount(source) == before


def test_capsules_are_consumed_and_become_arrays(arrays):
    """A DLPack capsule is used up, so that it is no array to give back: an Array is made of the memory."""
    managed = dlpack.Managed(SIX.ctypes.data, (2, 3))
    capsule = managed.capsule()
    handle = arrays.keep(capsule)
    assert dlpack.capsule_name(capsule) == "used_dltensor_versioned"
    made = arrays.give(handle)
    assert type(made) is arrays.Array and made.ptr == SIX.ctypes.data
    arrays.release(handle)
    flush(arrays)
    assert managed.deletions == 0
    del made
    flush(arrays)
    gc.collect()
    assert managed.deletions == 1


def test_readonly_goes_out_again(arrays):
    frozen = SIX.copy()
    frozen.flags.writeable = False
    first = arrays.keep(frozen)
    second = arrays.from_capsule(arrays.to_capsule(first))
    assert arrays.describe(second)["flags"] & arrays.READONLY
    assert arrays.give(second) is frozen


# ------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("hold", [False, True])
def test_pitfall_44_released_on_a_foreign_thread(arrays, source, hold):
    """With the GIL held by another thread meanwhile, or not: the release never waits for it."""
    watched = Watched(source)
    arrays.release(arrays.keep(source))
    flush(arrays)
    before = watched.count
    handle = arrays.keep(source)
    assert arrays.release_on_thread(handle, hold) < 5
    flush(arrays)
    assert watched.count == before
    with pytest.raises(RuntimeError):
        arrays.give(handle)


@pytest.mark.parametrize("hold", [False, True])
def test_pitfall_44_arrays_of_cs_own_on_a_foreign_thread(arrays, hold):
    handle = wrapped(arrays, SIX, owner=3)
    assert arrays.release_on_thread(handle, hold) < 5
    assert arrays.deleted() == [3]


def test_pitfall_44_python_empties_the_queue_by_itself(arrays):
    """Without a further call of cai: a pending call of the interpreter does."""
    source = producers.Interface(SIX, stream=1)
    gone = weakref.ref(source)
    handle = arrays.keep(source)
    del source
    arrays.release_on_thread(handle, True)
    for _ in range(1000):
        time.sleep(0.001)  # Python 3.11 looks for what other threads ask for when it takes the GIL again
        if gone() is None:
            break
    gc.collect()
    assert gone() is None


def test_pitfall_44_many_threads_release(arrays):
    """Threads of C, of Python, and this one, all at once."""
    sources = [producers.Interface(SIX, stream=1) for _ in range(60)]
    gone = [weakref.ref(source) for source in sources]
    handles = [arrays.keep(source) for source in sources]
    del sources

    def work(part):
        for number, handle in enumerate(part):
            if number % 2:
                arrays.release_on_thread(handle, False)
            else:
                arrays.release(handle)

    threads = [threading.Thread(target=work, args=(handles[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flush(arrays)
    gc.collect()
    assert [reference() for reference in gone] == [None] * 60


def test_pitfall_44_with_an_exception_pending(arrays):
    """The last reference goes in a frame that an exception leaves."""

    class Raising(producers.Interface):
        def __del__(self):
            try:
                raise ValueError("late")
            except ValueError:
                ended.append(1)

    ended = []

    def run():
        handle = arrays.keep(Raising(SIX, stream=1))
        raise KeyError(type(handle))

    refusal = checks.catch(run)[1]
    assert refusal.type is KeyError and refusal.causes == []
    flush(arrays)
    gc.collect()
    assert ended == [1]


# -------------------------------------------------------------------------------------------------------- two extensions


@pytest.fixture
def second():
    return checks.load("arrays_second")


def test_the_other_extension_is_of_another_version(arrays, second):
    """Behind the part of an array that is frozen the two differ."""
    assert (arrays.cai_version, second.cai_version) == ("0.1.0", "0.2.0")
    assert second.own_size == arrays.own_size + 40


def test_an_array_of_another_extension_comes_back(arrays, second):
    """By its `_capsule`, and as the very object."""
    array = shown(arrays, SIX, owner=7)
    before = sys.getrefcount(array)
    handle = second.keep(array)
    assert second.give(handle) is array
    assert second.describe(handle)["pointer"] == SIX.ctypes.data
    second.release(handle)
    flush(second)
    assert sys.getrefcount(array) == before
    assert arrays.deleted() == []
    del array
    assert arrays.deleted() == [7]


def test_the_other_extension_keeps_it_alive(arrays, second):
    array = shown(arrays, SIX, owner=8)
    handle = second.keep(array)
    del array
    gc.collect()
    assert arrays.deleted() == []
    assert type(second.give(handle)) is arrays.Array
    second.release(handle)
    flush(second)
    assert arrays.deleted() == [8]


@pytest.mark.parametrize("order", ["capsule_first", "handle_first", "array_first"])
def test_capsules_between_extensions(arrays, second, order):
    """A reference each: freed once, after the last, in whatever order they go."""
    mine = wrapped(arrays, SIX, owner=9)
    capsule = arrays.to_capsule(mine)
    assert dlpack.capsule_name(capsule) == "cai_array_v1"
    theirs = second.from_capsule(capsule)
    again = second.from_capsule(capsule)  # read any number of times
    assert second.describe(theirs)["pointer"] == SIX.ctypes.data
    made = second.give(theirs)
    assert type(made) is second.Array
    steps = {"capsule_first": ["capsule", "mine", "theirs", "made"], "handle_first": ["theirs", "made", "mine", "capsule"],
             "array_first": ["made", "capsule", "theirs", "mine"]}[order]
    second.release(again)
    for step in steps:
        assert arrays.deleted() == []
        if step == "mine":
            arrays.release(mine)
        elif step == "theirs":
            second.release(theirs)
        elif step == "capsule":
            del capsule
        else:
            del made
            gc.collect()
    assert arrays.deleted() == [9] and second.deleted() == []


def test_an_object_that_goes_through_two_extensions(arrays, second):
    """Its makers know where it came from."""
    source = producers.Interface(SIX, stream=1)
    theirs = second.from_capsule(arrays.to_capsule(arrays.keep(source)))
    assert second.give(theirs) is source


def test_an_array_capsule_as_an_argument(arrays, second):
    mine = wrapped(arrays, SIX, owner=4)
    kept = second.keep(arrays.to_capsule(mine))
    assert second.describe(kept)["pointer"] == SIX.ctypes.data
    assert type(second.give(kept)) is second.Array
    arrays.release(mine)
    assert arrays.deleted() == []
    second.release(kept)
    gc.collect()
    flush(second)
    assert arrays.deleted() == [4]


@pytest.mark.parametrize("wrong", [None, 1, object(), "capsule"])
def test_capsules_that_are_none(arrays, wrong):
    if wrong == "capsule":
        wrong = dlpack.Managed(SIX.ctypes.data, (2, 3)).capsule()
    with pytest.raises(arrays.InvalidCapsuleError):
        arrays.from_capsule(wrong)


def test_a_kept_array_goes_back_without_waiting(arrays, second):
    """Its maker was told of the use, and waits when the memory goes."""
    stream, pointer = emulated.create_stream(), emulated.allocate(16)
    mine = arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 5)
    array = arrays.give(mine)
    handle = second.keep(array)
    loans.fill_later(stream, pointer, NEW)
    assert second.used_on(handle, stream) == "OK"
    second.release(handle)
    assert emulated.is_pending(stream)
    arrays.release(mine)
    del array
    assert arrays.deleted() == [5]
    assert emulated.read(pointer, 16) == NEW


def test_pinned_memory_of_another_device_is_waited_for_there(arrays):
    """Legacy is another stream on each device; pinned memory does not say which, but its array knows."""
    with emulated.current_device(1):
        array = arrays.new((4,), "float32", arrays.PINNED, 1, emulated.LEGACY)
        loans.fill_later(emulated.LEGACY, array.ptr, NEW)
    handle = arrays.keep(array, "block")
    assert emulated.read(array.ptr, 16) == NEW
    arrays.release(handle)


def test_per_thread_use_of_a_per_thread_array_on_another_thread(arrays, second):
    """Both are stream 2, and two streams: the work of the other thread is over for whoever goes on behind legacy."""
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 0, emulated.PER_THREAD), np.frombuffer(OLD, "f4"))
    emulated.synchronize(emulated.PER_THREAD)
    used, may_end = threading.Event(), threading.Event()
    told = []

    def use():
        handle = second.keep(array, emulated.PER_THREAD)
        loans.fill_later(emulated.PER_THREAD, array.ptr, NEW)
        told.append(second.used_on(handle, emulated.PER_THREAD))
        told.append(second.describe(handle)["stream"])
        second.release(handle)
        used.set()
        may_end.wait()

    thread = threading.Thread(target=use)
    thread.start()
    used.wait()
    emulated.synchronize(emulated.LEGACY)
    seen = emulated.read(array.ptr, 16)
    may_end.set()
    thread.join()
    assert told == ["OK", emulated.LEGACY]
    assert seen == NEW


def test_per_thread_views_of_a_per_thread_array_on_another_thread(arrays):
    """The array is told of the use, although its stream has the number of the consumer's."""
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 0, emulated.PER_THREAD), np.frombuffer(OLD, "f4"))
    emulated.synchronize(emulated.PER_THREAD)
    used, may_end = threading.Event(), threading.Event()

    def use():
        view = probe.acquire(array, emulated.PER_THREAD, {})
        loans.fill_later(emulated.PER_THREAD, array.ptr, NEW)
        view.release()
        used.set()
        may_end.wait()

    thread = threading.Thread(target=use)
    thread.start()
    used.wait()
    seen = seen_on(emulated.PER_THREAD, array.ptr)
    emulated.synchronize(emulated.PER_THREAD)
    may_end.set()
    thread.join()
    assert seen == [NEW]


def test_use_in_another_extension_is_told_to_the_maker(arrays, second):
    """What the second extension enqueued is over before the first one's memory goes, and is on the joined stream."""
    mine, theirs = emulated.create_stream(), emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, mine)
    handle = second.keep(array)
    done = []
    emulated.launch(theirs, lambda: done.append(1))
    assert second.used_on(handle, theirs) == "OK"
    assert array.__cuda_array_interface__["stream"] == mine
    emulated.synchronize(mine)
    assert done == [1]


def test_arrays_of_this_extension_come_back(arrays):
    array = arrays.new((4,), "float32", arrays.DEVICE)
    before = sys.getrefcount(array)
    handle = arrays.keep(array)
    assert arrays.give(handle) is array
    arrays.release(handle)
    flush(arrays)
    assert sys.getrefcount(array) == before


# ---------------------------------------------------------------------------------------------------------------- order


def test_kept_memory_comes_back_after_cs_work(arrays):
    """A producer that told no stream gets its memory back when the work on it is over."""
    consumer = emulated.create_stream()
    source = producers.Interface(np.frombuffer(OLD, "f4"), version=2)
    pointer, done = source.pointer, []
    weakref.finalize(source, lambda: done.append(emulated.read(pointer, 16))).atexit = False
    handle = arrays.keep(source, consumer)
    del source
    loans.fill_later(consumer, pointer, NEW)
    assert arrays.used_on(handle, consumer) == "OK"
    arrays.release(handle)
    flush(arrays)
    gc.collect()
    assert done == [NEW]


def test_kept_memory_of_a_known_stream_needs_no_wait(arrays):
    """The work is ordered on the producer's stream, and the host goes on."""
    stream, mine = emulated.create_stream(), emulated.create_stream()
    source = producers.Interface(np.frombuffer(OLD, "f4"), stream=stream)
    handle = arrays.keep(source)
    loans.fill_later(mine, source.pointer, NEW)
    assert arrays.used_on(handle, mine) == "OK"
    arrays.release(handle)
    assert emulated.count_pending() > 0
    seen = seen_on(stream, source.pointer)
    emulated.synchronize(stream)
    assert seen == [NEW]


# ------------------------------------------------------------------------------------------------- like another library


def test_like_numpy(arrays):
    array = wrapped(arrays, SIX, owner=5)
    made = arrays.give_like(array, np.zeros(1))
    assert type(made) is np.ndarray and made.ctypes.data == SIX.ctypes.data and made.shape == (2, 3)
    arrays.release(array)
    assert arrays.deleted() == []
    del made
    gc.collect()
    assert arrays.deleted() == [5]


def test_like_torch(arrays):
    torch = checks.need("torch")
    source = SIX.copy()
    made = arrays.give_like(wrapped(arrays, source, owner=6), torch.zeros(1))
    assert type(made) is torch.Tensor and made.data_ptr() == source.ctypes.data
    assert made.tolist() == source.tolist()


def test_like_jax(arrays):
    jax = checks.need("jax")
    made = arrays.give_like(wrapped(arrays, SIX.copy()), checks.need("jax.numpy").zeros(1))
    assert isinstance(made, jax.Array) and made.tolist() == SIX.tolist()


def test_like_itself(arrays):
    """An object of that type already is what was wanted."""
    source = SIX.copy()
    assert arrays.give_like(arrays.keep(source), np.zeros(3)) is source
    array = arrays.new((2,), "float32", arrays.HOST)
    assert type(arrays.give_like(arrays.new_handle((2,), "float32", arrays.HOST), array)) is arrays.Array


@pytest.mark.parametrize("like", [None, 1, "text", object()])
def test_like_what_is_no_array(arrays, like):
    handle = wrapped(arrays, SIX, owner=1)
    with pytest.raises(arrays.InterfaceNotImplementedError) as refusal:
        arrays.give_like(handle, like)
    assert isinstance(refusal.value, TypeError) and type(like).__name__ in str(refusal.value)
    arrays.release(handle)
    gc.collect()
    assert arrays.deleted() == [1]


def test_like_a_library_that_refuses(arrays):
    """Its own exception, and nothing is kept."""
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE)
    made, refusal = checks.catch(arrays.give_like, handle, np.zeros(1))
    assert made is None and refusal.type in (BufferError, ValueError, RuntimeError)
    before = emulated.count_allocations()
    arrays.release(handle)
    gc.collect()
    assert emulated.count_allocations() == before - 1


def test_like_an_array_namespace(arrays):
    """What the standard calls it comes first."""

    class Namespace:
        @staticmethod
        def from_dlpack(array):
            return "made", array

    class Like:
        def __array_namespace__(self):
            return Namespace

    handle = wrapped(arrays, SIX)
    made, array = arrays.give_like(handle, Like())
    assert made == "made" and type(array) is arrays.Array
    assert Capsule(array.__dlpack__()).data == SIX.ctypes.data


def test_values_that_were_filled(arrays):
    assert np.from_dlpack(fill(arrays.new((2, 3), "float32", arrays.HOST))).tolist() == SIX.tolist()


def test_padded_items_of_less_than_a_byte(arrays):
    """Each takes a byte, in a copy too, and nobody gets them who would not be told so."""
    source = np.arange(1, 17, dtype="u1")
    managed = dlpack.Managed(source.ctypes.data, (16,), (17, 4, 1), flags=dlpack.PADDED)
    array = arrays.give(arrays.keep(managed.capsule(), "adopt", 1 << 12))
    assert (array.size, array.nbytes) == (16, 16)
    copy = Capsule(array.__dlpack__(max_version=(1, 3), copy=True))
    assert copy.flags & dlpack.PADDED and copy.shape == (16,)
    assert ctypes.string_at(copy.data, 16) == source.tobytes()
    for keywords in ({}, {"copy": True}, {"max_version": (1, 0)}):
        with pytest.raises(arrays.UnknownDtypeError, match="padded"):
            array.__dlpack__(**keywords)
    with pytest.raises(arrays.UnknownDtypeError, match="padded"):
        arrays.table_lend(array)


def test_an_array_without_a_stream_is_on_its_first_users_in_a_capture_too(arrays):
    """After a first call without one, as graphs are made."""
    handle = arrays.wrap(emulated.allocate(16), (4,), None, "float32", (2, 0), 0, 3)
    stream, array = emulated.create_stream(), arrays.give(handle)
    probe.acquire(array, stream, {}).release()
    emulated.synchronize(stream)
    emulated.begin_capture(stream)
    probe.acquire(array, stream, {}).release()
    emulated.end_capture(stream)
    arrays.release(handle)


@pytest.mark.parametrize("blocking", [True, False])
def test_the_first_use_of_an_array_without_a_stream_is_over_when_it_is_freed(arrays, blocking):
    """Also while somebody captures, where the legacy stream could not wait for it."""
    pointer = emulated.allocate(16)
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 3)
    stream, other = emulated.create_stream(), emulated.create_stream(emulated.BLOCKING)
    if blocking:
        emulated.begin_capture(other)
    view = probe.acquire(arrays.give(handle), stream, {})
    emulated.launch_write(stream, pointer, NEW)
    view.release()
    arrays.release(handle)
    assert arrays.deleted() == [3]
    assert emulated.read(pointer, 16) == NEW
    if blocking:
        emulated.end_capture(other)


def test_pitfall_53_managed_memory_of_another_device_than_the_calls(arrays):
    """Without pending work: what the call does with it is over when it is given back."""
    pointer = emulated.allocate(16, "managed", device=1)
    handle = arrays.wrap(pointer, (4,), None, "float32", (13, 1), 0, 3)
    on_device_0 = producers.Interface(SIX, stream=emulated.LEGACY)

    def body(call):
        assert emulated.get_device() == 0
        emulated.launch_write(call["stream"], pointer, NEW)

    requests = tuple({"name": name, "memory": probe.ANYWHERE} for name in "ab")
    probe.call((on_device_0, arrays.give(handle)), requests, "adopt", body)
    arrays.release(handle)
    assert arrays.deleted() == [3]
    assert emulated.read(pointer, 16) == NEW


IN_ANOTHER = """
import ctypes, arrays_host
make = ctypes.pythonapi.PyCapsule_New
make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
name = b"arrays_host.handle"
arrays_host.release_on_thread(make(POINTER, name, None), True)
for _ in range(100):
    print(end="", flush=True)
"""


def test_pitfall_61_what_is_given_up_while_another_interpreter_runs_waits_for_its_own():
    """Before Python 3.12 it is that one which is asked to make the call."""
    children.run("""
        import ctypes, sys
        import arrays_host, children

        pythonapi = ctypes.pythonapi
        pythonapi.PyInterpreterState_Get.restype = ctypes.c_void_p
        pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
        pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        main, ended_in = pythonapi.PyInterpreterState_Get(), []

        class Owner(bytearray):
            def __del__(self):
                ended_in.append(pythonapi.PyInterpreterState_Get())

        handle = arrays_host.keep(Owner(16))
        pointer = pythonapi.PyCapsule_GetPointer(handle, b"arrays_host.handle")
        retain = ctypes.c_void_p.from_address(pointer + 8).value
        ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(retain)(pointer)
        arrays_host.release(handle)
        other = children.Interpreter()
        other.run(sys.argv[1].replace("POINTER", str(pointer)))
        other.destroy()
        arrays_host.keep(bytearray(1))
        assert ended_in == [main], (ended_in, main)
    """, IN_ANOTHER)
