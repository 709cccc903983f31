"""Arrays out by DLPack: what __dlpack__ answers to every wish, who owns the capsule, and what work is ordered."""

import ctypes
import gc
import itertools
import threading
import warnings
import weakref

import numpy as np
import pytest

import checks
import dlpack
import emulated
from dlpack import CPU, CUDA, CUDA_HOST, IS_COPIED, MANAGED, READ_ONLY
from outward import NEW, OLD, SIX, Capsule, fill, seen_on, shown, wrapped

WHERE = {"HOST": (CPU, 0), "DEVICE": (CUDA, 0), "NO_POOL": (CUDA, 0), "MANAGED": (MANAGED, 0), "PINNED": (CUDA_HOST, 0)}
FOUR_OLD = np.frombuffer(OLD, "f4")


def pending(arrays, kind="DEVICE", stream=None):
    """An array that holds OLD, with NEW being written on its stream, and that stream."""
    stream = emulated.create_stream() if stream is None else stream
    array = fill(arrays.new((4,), "float32", getattr(arrays, kind), 0, stream), FOUR_OLD)
    emulated.launch_write(stream, array.ptr, NEW)
    return array, stream


# -------------------------------------------------------------------------------------------------------- the struct


@pytest.mark.parametrize("kind", WHERE)
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_the_whole_struct(arrays, kind, version):
    array = arrays.new((2, 3), "float32", getattr(arrays, kind))
    seen = Capsule(array.__dlpack__(max_version=version))
    assert (seen.data, seen.device, seen.dtype, seen.shape, seen.strides, seen.byte_offset) == (
        array.ptr, WHERE[kind], (2, 32, 1), (2, 3), (3, 1), 0)
    assert seen.device == array.__dlpack_device__()
    assert seen.deleter
    assert (seen.versioned, seen.version, seen.flags) == ((False, None, None) if version is None else (True, (1, 3), 0))


@pytest.mark.parametrize("name, dtype", [
    ("bool", (6, 8, 1)), ("int8", (0, 8, 1)), ("uint16", (1, 16, 1)), ("float16", (2, 16, 1)), ("bfloat16", (4, 16, 1)),
    ("float64", (2, 64, 1)), ("complex64", (5, 64, 1)), ("complex128", (5, 128, 1))])
def test_types(arrays, name, dtype):
    assert Capsule(arrays.new((2,), name, arrays.HOST).__dlpack__()).dtype == dtype


def test_strides_are_elements(arrays):
    source = np.arange(24, dtype="i2").reshape(4, 6)[::-1, ::2]
    seen = Capsule(shown(arrays, source).__dlpack__(max_version=(1, 0)))
    assert (seen.data, seen.shape, seen.strides) == (source.ctypes.data, (4, 3), (-6, 2))


def test_strides_are_never_null(arrays):
    for shape in [(3,), (2, 0), (1, 1)]:
        seen = Capsule(arrays.new(shape, "float32", arrays.HOST).__dlpack__())
        assert len(seen.strides) == len(seen.shape) == len(shape)


def test_no_dimensions(arrays):
    seen = Capsule(arrays.new((), "float32", arrays.HOST).__dlpack__())
    assert (seen.shape, seen.strides) == ((), ())


@pytest.mark.parametrize("kind", WHERE)
def test_empty_arrays(arrays, kind):
    array = arrays.new((2, 0), "float32", getattr(arrays, kind))
    for wish in ({}, {"dl_device": (1, 0)}, {"copy": True}, {"dl_device": (1, 0), "copy": True}):
        seen = Capsule(array.__dlpack__(max_version=(1, 0), **wish))
        assert (seen.shape, seen.data) == ((2, 0), 0)
        assert seen.device == wish.get("dl_device", WHERE[kind])


def test_pitfall_46_every_capsule_has_a_struct_of_its_own(arrays):
    handle = wrapped(arrays, SIX, owner=1)
    array = arrays.give(handle)
    arrays.release(handle)
    kept = [Capsule(array.__dlpack__(max_version=version)) for version in (None, (1, 0), (1, 0), None)]
    assert len({seen.struct for seen in kept}) == 4
    dlpack._Legacy.from_address(kept[0].struct).tensor.shape[0] = 99
    assert Capsule(kept[3].capsule).shape == (2, 3) == array.shape
    del array
    for seen in kept:
        assert arrays.deleted() == []
        seen.consume()()
    assert arrays.deleted() == [1]


# -------------------------------------------------------------------------------------------------- every combination


# What each value of an argument says, or the exceptions that refuse it.
VERSIONS = {None: False, (0, 8): False, (1, 0): True, (1, 3): True, (2, 0): True, (1, 99): True}
DEVICES = (None, "own", (1, 0), (2, 1), (1, 1), (13, 0), (99, 0))
STREAMS = (None, -1, 0, 1, 2, -2, "handle")


@pytest.mark.parametrize("kind", ["HOST", "DEVICE", "MANAGED", "PINNED"])
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("copy", [None, False, True])
def test_pitfall_48_every_combination(arrays, kind, readonly, copy):
    """Of stream, max_version, dl_device and copy: the capsule, its flags and its memory, or the exception."""
    handle = stream = emulated.create_stream()
    maker = arrays.new_handle((2, 3), "float32", getattr(arrays, kind), 0, 0 if kind == "HOST" else stream)
    pointer = fill(arrays.give(maker)).ptr
    if readonly:
        about = arrays.describe(maker)
        array = arrays.give(arrays.wrap(pointer, (2, 3), None, "float32", about["device"], arrays.READONLY, None))
    else:
        array = arrays.give(maker)
    own = WHERE[kind]
    for value, version, wish in itertools.product(STREAMS, VERSIONS, DEVICES):
        device = own if wish in (None, "own") else wish
        target = own if device == own else (1, 0)
        number = handle if value == "handle" else value
        keywords = {"stream": number, "max_version": version, "dl_device": own if wish == "own" else wish, "copy": copy}
        on_gpu = target != (1, 0)
        moves = kind == "DEVICE" and target == (1, 0)
        if device not in (own, (1, 0)):
            expected = BufferError
        elif value in (0, -2) or (not on_gpu and value in (1, 2, "handle")):
            expected = ValueError
        elif copy is False and moves:
            expected = BufferError
        elif readonly and not VERSIONS[version] and not copy and not moves:
            expected = BufferError
        else:
            expected = None
        capsule, refusal = checks.catch(lambda: array.__dlpack__(**keywords))
        if expected is not None:
            assert capsule is None, keywords
            assert issubclass(refusal.type, expected), (keywords, refusal.type, refusal.message)
            continue
        assert refusal is None, (keywords, refusal.type, refusal.message)
        seen = Capsule(capsule)
        assert (seen.versioned, seen.device, seen.shape) == (VERSIONS[version], target, (2, 3)), keywords
        copied = bool(copy) or moves
        assert (seen.data != pointer) == copied, keywords
        if seen.versioned:
            assert seen.flags == (IS_COPIED if copied else READ_ONLY if readonly else 0), keywords
            assert seen.version == (1, 3)
        if on_gpu and copied:
            emulated.run_all()
        assert emulated.read(seen.data, 24) == SIX.tobytes(), keywords


@pytest.mark.parametrize("bad", [1, "1.0", [1, 0], (1,), (1, 0, 0), (1.5, 0), ("1", "0"), object()])
def test_pitfall_48_versions_that_are_none(arrays, bad):
    """NumPy says TypeError too."""
    array = arrays.new((2,), "float32", arrays.HOST)
    with pytest.raises(TypeError, match="max_version"):
        array.__dlpack__(max_version=bad)


@pytest.mark.parametrize("bad", [1, "cpu", [1, 0], (1,), (1, 0, 0), (None, 0)])
def test_pitfall_48_devices_that_are_none(arrays, bad):
    with pytest.raises(TypeError, match="dl_device"):
        arrays.new((2,), "float32", arrays.HOST).__dlpack__(dl_device=bad)


def test_pitfall_48_numbers_that_are_no_ints(arrays):
    """Enumerations, as array libraries pass them."""
    import enum

    class Device(enum.IntEnum):
        CUDA = 2

    array = arrays.new((2,), "float32", arrays.DEVICE)
    seen = Capsule(array.__dlpack__(dl_device=(Device.CUDA, np.int64(0)), max_version=(np.int32(1), 0), stream=np.int64(1)))
    assert (seen.device, seen.versioned) == ((2, 0), True)


@pytest.mark.parametrize("bad", ["1", 1.0, object(), 1 << 64, -5, b"1", True])
def test_streams_that_are_none(arrays, bad):
    with pytest.raises((ValueError, TypeError)):
        arrays.new((2,), "float32", arrays.DEVICE).__dlpack__(stream=bad)


def test_arguments_that_are_none(arrays):
    array = arrays.new((2,), "float32", arrays.HOST)
    with pytest.raises(TypeError, match="wrong"):
        array.__dlpack__(wrong=1)
    with pytest.raises(TypeError):
        array.__dlpack__(None, (1, 0))
    with pytest.raises(TypeError):
        array.__dlpack_device__(1)
    assert Capsule(array.__dlpack__(None)).device == (1, 0)


def test_legacy_capsules_of_readonly_arrays(arrays):
    """Refused, since they could not say it; the message names the way."""
    array = shown(arrays, SIX, readonly=True)
    with pytest.raises(arrays.ReadOnlyAccessError, match="max_version") as refusal:
        array.__dlpack__()
    assert isinstance(refusal.value, BufferError)
    seen = Capsule(array.__dlpack__(copy=True))
    assert not seen.versioned and emulated.read(seen.data, 24) == SIX.tobytes()


def test_copies_keep_layout_and_values(arrays):
    source = np.arange(24, dtype="f4").reshape(4, 6)[::-1, ::2]
    seen = Capsule(shown(arrays, source).__dlpack__(copy=True, max_version=(1, 0)))
    assert (seen.shape, seen.flags) == ((4, 3), IS_COPIED)
    block = np.array([[ctypes.c_float.from_address(seen.data + 4 * (i * seen.strides[0] + j * seen.strides[1])).value
                       for j in range(3)] for i in range(4)], "f4")
    assert (block == source).all()


def test_a_copy_is_independent(arrays):
    handle = wrapped(arrays, SIX.copy(), owner=4)
    array = arrays.give(handle)
    arrays.release(handle)
    seen = Capsule(array.__dlpack__(copy=True, max_version=(1, 0)))
    del array
    assert arrays.deleted() == [4]
    assert emulated.read(seen.data, 24) == SIX.tobytes()
    seen.consume()()


# ------------------------------------------------------------------------------------------------------- destructors


@pytest.fixture(params=[None, (1, 0)], ids=["legacy", "versioned"])
def version(request):
    return request.param


def only_capsule(arrays, version, owner=1):
    """The capsule of an array that nobody else holds."""
    handle = wrapped(arrays, SIX, owner=owner)
    array = arrays.give(handle)
    arrays.release(handle)
    return array.__dlpack__(max_version=version)


def test_pitfall_43_an_unconsumed_capsule(arrays, version):
    capsule = only_capsule(arrays, version)
    assert arrays.deleted() == []
    del capsule
    assert arrays.deleted() == [1]


@pytest.mark.parametrize("gil", [False, True])
@pytest.mark.parametrize("capsule_first", [False, True])
def test_pitfall_43_a_consumed_capsule(arrays, version, gil, capsule_first):
    """Its destructor does nothing any more; the deleter frees, once."""
    seen = Capsule(only_capsule(arrays, version))
    delete = seen.consume(gil)
    if capsule_first:
        del seen.capsule
        assert arrays.deleted() == []
        delete()
    else:
        delete()
        assert arrays.deleted() == [1]
        del seen.capsule
    assert arrays.deleted() == [1]


def test_pitfall_43_a_pending_exception_survives(arrays, version):
    """The capsule's last reference goes in the frame that an exception passes."""

    def fail():
        capsule = only_capsule(arrays, version)
        raise LookupError(str(type(capsule)))

    refusal = checks.catch(fail)[1]
    assert (refusal.type, refusal.causes) == (LookupError, [])
    assert arrays.deleted() == [1]


def test_pitfall_43_a_pending_exception_and_an_owner_that_raises(arrays, version):
    """The owner is a Python object whose end raises and catches."""

    class Owner:
        def __del__(self):
            ended.append(1)
            try:
                raise ValueError
            except ValueError:
                pass

    ended = []

    def fail():
        capsule = arrays.give(wrapped(arrays, SIX, owner=Owner())).__dlpack__(max_version=version)
        raise LookupError(str(type(capsule)))

    refusal = checks.catch(fail)[1]
    assert (refusal.type, refusal.causes) == (LookupError, [])
    gc.collect()
    arrays.new((), "int8", arrays.HOST)
    assert ended == [1]


def test_pitfall_43_a_capsule_in_a_cycle(arrays, version):
    cycle = [only_capsule(arrays, version)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert arrays.deleted() == [1]


def test_pitfall_44_the_deleter_on_a_foreign_thread(arrays):
    """While the GIL is held: it must not wait for it."""
    capsule = only_capsule(arrays, (1, 0), owner=6)
    arrays.delete_managed(capsule, True)
    assert arrays.deleted() == [6]

    class Owner:
        pass

    owner = Owner()
    gone = weakref.ref(owner)
    capsule = only_capsule(arrays, (1, 0), owner=owner)
    del owner
    arrays.delete_managed(capsule, True)
    arrays.new((), "int8", arrays.HOST)
    assert gone() is None


# -------------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("kind, consumer", [
    *itertools.product(["DEVICE", "MANAGED", "PINNED"], ["blocking", "non-blocking", "legacy", "per-thread"]),
    ("DEVICE", None)])
def test_pitfall_49_the_consumers_stream_sees_pending_work(arrays, kind, consumer):
    number = {"blocking": emulated.create_stream(emulated.BLOCKING), "non-blocking": emulated.create_stream(),
              "legacy": 1, "per-thread": 2, None: None}[consumer]
    array, stream = pending(arrays, kind)
    if number != 1 and number is not None:
        early = seen_on(number, array.ptr)
        emulated.synchronize(number)
        assert early == [OLD]  # nothing orders them by itself
    capsule = array.__dlpack__(stream=number, max_version=(1, 0))
    assert emulated.is_pending(stream) or emulated.count_pending() > 0  # the host has waited for nothing
    assert emulated.read(array.ptr, 16) == OLD
    seen = seen_on(number or 1, Capsule(capsule).data)
    emulated.synchronize(number or 1)
    assert seen == [NEW]
    emulated.synchronize(stream)


def test_pitfall_49_minus_one_orders_nothing(arrays):
    consumer = emulated.create_stream()
    array, stream = pending(arrays)
    emulated.clear_calls()
    capsule = array.__dlpack__(stream=-1)
    assert emulated.call_names() == []
    seen = seen_on(consumer, Capsule(capsule).data)
    emulated.synchronize(consumer)
    assert seen == [OLD]
    emulated.synchronize(stream)


@pytest.mark.parametrize("kind", ["PINNED", "MANAGED"])
@pytest.mark.parametrize("copy", [None, True])
def test_who_names_no_stream_may_read_host_memory_at_once(arrays, kind, copy):
    """As numpy.from_dlpack does."""
    array, _ = pending(arrays, kind)
    seen = Capsule(array.__dlpack__(max_version=(1, 0), copy=copy))
    assert ctypes.string_at(seen.data, len(NEW)) == NEW


def test_numpy_sees_pinned_memory_when_it_is_written(arrays):
    array, _ = pending(arrays, "PINNED")
    assert np.from_dlpack(array).tobytes() == NEW


@pytest.mark.parametrize("kind", ["PINNED", "MANAGED"])
def test_who_names_a_stream_orders_host_memory_by_it(arrays, kind):
    array, stream = pending(arrays, kind)
    kept = array.__dlpack__(stream=emulated.LEGACY, max_version=(1, 0))
    assert emulated.is_pending(stream) and emulated.read(array.ptr, len(OLD)) == OLD
    seen = seen_on(emulated.LEGACY, array.ptr)
    emulated.run_all()
    assert seen == [NEW]
    del kept


def test_pitfall_49_a_copy_for_minus_one_comes_after_what_is_copied(arrays):
    array, _ = pending(arrays)
    seen = Capsule(array.__dlpack__(stream=-1, copy=True, max_version=(1, 0)))
    emulated.synchronize(emulated.LEGACY)  # which the copy must not be on, unless it waits for the array's stream
    emulated.run_all()
    assert emulated.read(seen.data, len(NEW)) == NEW


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_the_arrays_own_stream_needs_no_order(arrays, version):
    array, stream = pending(arrays)
    emulated.clear_calls()
    capsule = array.__dlpack__(stream=stream, max_version=version)
    assert [name for name in emulated.call_names() if "Event" in name or "Synchronize" in name] == []
    seen = seen_on(stream, Capsule(capsule).data)
    emulated.synchronize(stream)
    assert seen == [NEW]


def test_streams_of_the_second_device(arrays):
    """1 is the legacy stream of the array's device, whatever device is current."""
    stream = emulated.create_stream(device=1)
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 1, stream), FOUR_OLD)
    with emulated.current_device(1):
        emulated.launch_write(stream, array.ptr, NEW)
    seen = Capsule(array.__dlpack__(stream=1, dl_device=(2, 1)))
    assert seen.device == (2, 1)
    with emulated.current_device(1):
        read = seen_on(1, seen.data)
        emulated.synchronize(1)
    assert read == [NEW]
    assert emulated.get_device() == 0


@pytest.mark.parametrize("kind", ["DEVICE", "MANAGED", "PINNED"])
def test_to_the_host_the_values_are_complete(arrays, kind):
    """With stream None, which is all that host memory has; the wait is without the GIL."""
    array, stream = pending(arrays, kind)
    with emulated.watch_blocking() as seen:
        capsule = Capsule(array.__dlpack__(dl_device=(1, 0), max_version=(1, 0)))
    assert seen != []
    assert emulated.read(capsule.data, 16) == NEW
    assert capsule.flags == (IS_COPIED if kind == "DEVICE" else 0)
    assert (capsule.data == array.ptr) == (kind != "DEVICE")
    assert not emulated.is_pending(stream)


@pytest.mark.parametrize("number", [None, 1, 2, "handle"])
def test_a_copy_runs_on_the_consumers_stream(arrays, number):
    """Ordered behind what is pending, and before what the consumer does next; the host waits for nothing."""
    number = emulated.create_stream() if number == "handle" else number
    array, stream = pending(arrays)
    capsule = Capsule(array.__dlpack__(stream=number, copy=True, max_version=(1, 0)))
    assert capsule.flags == IS_COPIED and capsule.data != array.ptr
    assert emulated.read(array.ptr, 16) == OLD
    seen = seen_on(number or 1, capsule.data)
    emulated.synchronize(number or 1)
    assert seen == [NEW]
    emulated.synchronize(stream)


def test_a_copy_is_not_overtaken_by_the_source(arrays):
    """Work on the array's stream after the export, and its freeing, come after the copy has read it."""
    consumer = emulated.create_stream()
    array, stream = pending(arrays)
    capsule = Capsule(array.__dlpack__(stream=consumer, copy=True))
    del array
    reused = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    emulated.launch_write(stream, reused.ptr, b"\x44" * 16)
    emulated.synchronize(stream)
    seen = seen_on(consumer, capsule.data)
    emulated.synchronize(consumer)
    assert seen == [NEW]


# ----------------------------------------------------------------------------------------------------------- captures


CAPTURED_WISHES = {
    "None": {}, "1": {"stream": 1}, "2": {"stream": 2}, "other": {"stream": "other"}, "host": {"dl_device": (1, 0)},
    "copy": {"copy": True}, "copy on other": {"copy": True, "stream": "other"}}


@pytest.mark.parametrize("wish", CAPTURED_WISHES)
@pytest.mark.parametrize("mode", [emulated.GLOBAL, emulated.THREAD_LOCAL, emulated.RELAXED])
def test_pitfall_51_an_array_whose_stream_captures(arrays, wish, mode):
    """Refused before anything is touched: the capture is intact, and ends well."""
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    keywords = dict(CAPTURED_WISHES[wish])
    if "stream" in keywords and keywords["stream"] == "other":
        keywords["stream"] = emulated.create_stream()
    emulated.begin_capture(stream, mode)
    with pytest.raises(arrays.StreamCaptureError):
        array.__dlpack__(**keywords)
    emulated.end_capture(stream)


@pytest.mark.parametrize("wish", [{"stream": -1}, {"stream": "own"}])
def test_pitfall_51_what_a_capture_allows(arrays, wish):
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    emulated.begin_capture(stream, emulated.GLOBAL)
    capsule = array.__dlpack__(stream=stream if wish["stream"] == "own" else -1)
    emulated.end_capture(stream)
    assert Capsule(capsule).data == array.ptr


@pytest.mark.parametrize("kind", [emulated.BLOCKING, emulated.NON_BLOCKING])
def test_pitfall_51_a_consumer_that_captures(arrays, kind):
    consumer = emulated.create_stream(kind)
    array, stream = pending(arrays)
    emulated.begin_capture(consumer, emulated.GLOBAL)
    with pytest.raises(arrays.StreamCaptureError):
        array.__dlpack__(stream=consumer)
    emulated.end_capture(consumer)
    emulated.synchronize(stream)


@pytest.mark.parametrize("wish", [{"stream": 1}, {"dl_device": (1, 0)}])
def test_pitfall_51_a_bystander_that_captures(arrays, wish):
    """A blocking stream that captures makes legacy unusable: refused or done without it, and its capture stays intact."""
    bystander = emulated.create_stream(emulated.BLOCKING)
    array, stream = pending(arrays)
    emulated.begin_capture(bystander, emulated.GLOBAL)
    capsule, refusal = checks.catch(lambda: array.__dlpack__(**wish))
    emulated.end_capture(bystander)
    assert refusal is None or refusal.type is arrays.StreamCaptureError
    assert refusal is not None or "dl_device" in wish


def test_arrays_without_pending_work_go_out_during_captures(arrays):
    stream = emulated.create_stream(emulated.BLOCKING)
    pointer = emulated.allocate(16)
    array = arrays.give(arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, None))
    emulated.begin_capture(stream, emulated.GLOBAL)
    assert Capsule(array.__dlpack__(stream=stream)).data == pointer
    assert Capsule(array.__dlpack__()).data == pointer
    emulated.end_capture(stream)


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("wish", [{"stream": 1}, {"dl_device": (1, 0)}, {"copy": True}, {"copy": True, "stream": 1}])
def test_failing_calls(arrays, wish):
    """Whatever CUDA call fails, it is raised, and nothing is left."""
    array, stream = pending(arrays)
    emulated.run_all()
    array.__dlpack__(max_version=(1, 0), **wish)
    before = checks.cuda_state()
    for nth in range(1, 100):
        emulated.clear_failures()
        emulated.clear_calls()
        emulated.fail(None, nth, 999)
        capsule, refusal = checks.catch(lambda: array.__dlpack__(max_version=(1, 0), **wish))
        came = emulated.count_failures() == 0
        emulated.clear_failures()
        if "cudaThreadExchangeStreamCaptureMode" in [call["name"] for call in emulated.calls() if call["result"] == 999]:
            checks.exchange_capture_mode(emulated.GLOBAL)  # going back to it can itself be what fails
        if capsule is not None:
            assert Capsule(capsule).shape == (4,)
        else:
            assert refusal.type is arrays.CudaCallError and refusal.code == 999
        del capsule
        if not came:
            break
        assert emulated.get_device() == 0
    else:
        raise AssertionError("never passes")
    assert nth > 2
    emulated.run_all()
    now = checks.cuda_state()
    now["events"] = min(now["events"], before["events"])  # the pool's own may be given up after a failure
    assert now == before


# --------------------------------------------------------------------------------------------------------- consumers


def numpy_from(array):
    return np.from_dlpack(array)


def memoryview_from(array):
    return np.asarray(memoryview(array))


def torch_from(array):
    torch = checks.need("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_dlpack(array)


def jax_from(array):
    return checks.need("jax.numpy").from_dlpack(array, copy=False)


def tvm_from(array):
    return checks.need("tvm_ffi").from_dlpack(array)


def cuda_core_from(array):
    view = checks.need("cuda.core.utils").StridedMemoryView
    return view.from_dlpack(array, -1)


def pyarrow_from(array):
    pyarrow = checks.need("pyarrow")
    return pyarrow.py_buffer(array)


def pointer_of(made):
    for get in (lambda: made.data_ptr(), lambda: made.unsafe_buffer_pointer(), lambda: made.ctypes.data,
                lambda: made.address, lambda: made.ptr, lambda: Capsule(made.__dlpack__()).data):
        try:
            return get()
        except AttributeError:
            pass
    raise AssertionError(type(made))


def values_of(made):
    if hasattr(made, "to_pybytes"):
        return np.frombuffer(made.to_pybytes(), "f4").reshape(2, 3)
    if type(made).__name__ == "StridedMemoryView":
        assert made.shape == (2, 3) and not made.is_device_accessible
        return np.ctypeslib.as_array((ctypes.c_float * 6).from_address(made.ptr)).reshape(2, 3).copy()
    return np.array(np.asarray(made) if hasattr(made, "__array__") else np.from_dlpack(made))


CONSUMERS = {"numpy": numpy_from, "memoryview": memoryview_from, "torch": torch_from, "jax": jax_from, "tvm_ffi": tvm_from,
             "cuda.core": cuda_core_from, "pyarrow": pyarrow_from}


@pytest.fixture(params=CONSUMERS)
def consumer(request):
    return CONSUMERS[request.param]


def aligned():
    block = np.zeros(64 + 24, "u1")
    start = -block.ctypes.data % 64
    source = block[start:start + 24].view("f4").reshape(2, 3)
    source[...] = SIX
    return source


@pytest.mark.parametrize("readonly", [False, True])
def test_every_library_shows_the_same_memory(arrays, consumer, readonly):
    """Values, and no copy."""
    if readonly and consumer is jax_from:
        pytest.skip("old JAX asks for a legacy capsule, which a read-only array has not: tested below")
    source = aligned()
    array = shown(arrays, source, readonly=readonly)
    made = consumer(array)
    assert pointer_of(made) == source.ctypes.data
    assert (values_of(made) == SIX).all()


@pytest.mark.parametrize("array_first", [False, True])
def test_every_library_keeps_the_memory_as_long_as_it_needs_it(arrays, consumer, array_first):
    """Freed exactly once, after the last of the two, in either order."""
    source = aligned()
    handle = wrapped(arrays, source, owner=21)
    array = arrays.give(handle)
    arrays.release(handle)
    made = consumer(array)
    gc.collect()
    if array_first:
        del array
        gc.collect()
        assert arrays.deleted() == []
        assert (values_of(made) == SIX).all()
        del made
    else:
        del made
        gc.collect()
        assert arrays.deleted() == []
        assert array.shape == (2, 3)
        del array
    gc.collect()
    assert arrays.deleted() == [21]


@pytest.mark.parametrize("consumer", ["numpy", "memoryview", "cuda.core", "pyarrow"])
def test_readonly_stays_readonly(arrays, consumer):
    made = CONSUMERS[consumer](shown(arrays, aligned(), readonly=True))
    if consumer == "cuda.core":
        assert made.readonly
    elif consumer == "pyarrow":
        assert not made.is_mutable
    else:
        with pytest.raises(ValueError, match="read-only"):
            made[0, 0] = 1


def test_writable_stays_writable(arrays):
    source = aligned()
    array = shown(arrays, source)
    np.from_dlpack(array)[0, 0] = 41
    assert source[0, 0] == 41
    torch_from(array)[0, 1] = 42
    assert source[0, 1] == 42


def test_a_readonly_array_for_a_legacy_consumer(arrays):
    """JAX up to 0.10 takes legacy capsules only: that is refused, in words. Newer ones ask for versioned capsules."""
    checks.need("jax")
    source = aligned()
    made, refusal = checks.catch(jax_from, shown(arrays, source, readonly=True))
    if made is None:
        assert "max_version" in refusal.message
    else:
        assert made.unsafe_buffer_pointer() == source.ctypes.data and (values_of(made) == SIX).all()


def test_many_threads_export_at_once(arrays):
    handle = wrapped(arrays, SIX, owner=8)
    array = arrays.give(handle)
    arrays.release(handle)

    def work(array):
        for turn in range(300):
            capsule = array.__dlpack__(max_version=(1, 0))
            if turn % 2:
                Capsule(capsule).consume()()
            del capsule

    threads = [threading.Thread(target=work, args=(array,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert arrays.deleted() == []
    del array, threads, thread
    gc.collect()
    assert arrays.deleted() == [8]
