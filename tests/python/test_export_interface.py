"""Arrays out by the CUDA Array Interface: what the dict says, and what its reader may rely on."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import emulated
import probe as probe_module
from outward import NEW, OLD, SIX, fill, seen_on, shown, wrapped

ON_GPU = ("DEVICE", "NO_POOL", "MANAGED", "PINNED")
FLOAT = np.float32


def on_device(arrays, shape, strides, device=(2, 0), readonly=False, owner=None, dtype="float32", nbytes=1024):
    """A handle of an array in emulated device memory, without a stream."""
    pointer = emulated.allocate(nbytes)
    return arrays.wrap(pointer, shape, strides, dtype, device, arrays.READONLY if readonly else 0, owner), pointer


def interface_of(arrays, *args, **kwargs):
    handle, pointer = on_device(arrays, *args, **kwargs)
    array = arrays.give(handle)
    return array.__cuda_array_interface__, pointer, array, handle


# --------------------------------------------------------------------------------------------------- form of the dict


def test_the_whole_dict(arrays):
    dict_, pointer, _, _ = interface_of(arrays, (2, 3), None)
    assert dict_ == {"shape": (2, 3), "typestr": "<f4", "data": (pointer, False), "strides": None, "version": 3}
    assert type(dict_) is dict
    assert [type(dict_[key]) for key in ("shape", "typestr", "data", "version")] == [tuple, str, tuple, int]
    assert [type(item) for item in dict_["data"]] == [int, bool]


@pytest.mark.parametrize("name, typestr", [
    ("bool", "|b1"), ("int8", "|i1"), ("uint8", "|u1"), ("int16", "<i2"), ("int32", "<i4"), ("int64", "<i8"),
    ("uint16", "<u2"), ("uint32", "<u4"), ("uint64", "<u8"), ("float16", "<f2"), ("float32", "<f4"),
    ("float64", "<f8"), ("complex64", "<c8"), ("complex128", "<c16")])
def test_typestr(arrays, name, typestr):
    array = arrays.new((2,), name, arrays.DEVICE)
    assert array.__cuda_array_interface__["typestr"] == typestr == np.dtype(name).str


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
def test_types_without_a_typestr_have_no_interface(arrays, name):
    """So that consumers, which look for the attribute, go on to DLPack; nothing comes out as another type."""
    array = arrays.new((2,), name, arrays.DEVICE)
    assert not hasattr(array, "__cuda_array_interface__")
    with pytest.raises(AttributeError, match=name) as refusal:
        array.__cuda_array_interface__
    assert type(refusal.value.__context__) is arrays.UnknownDtypeError


def test_host_memory_has_no_interface(arrays):
    array = arrays.new((2,), "float32", arrays.HOST)
    assert not hasattr(array, "__cuda_array_interface__")
    with pytest.raises(AttributeError, match="host memory") as refusal:
        array.__cuda_array_interface__
    assert type(refusal.value.__context__) is arrays.DeviceMismatchError


@pytest.mark.parametrize("kind", ON_GPU)
def test_every_kind_of_memory_of_the_gpu(arrays, kind):
    array = arrays.new((2, 3), "float32", getattr(arrays, kind))
    assert array.__cuda_array_interface__["data"] == (array.ptr, False)


@pytest.mark.parametrize("readonly", [False, True])
def test_readonly_is_said(arrays, readonly):
    assert interface_of(arrays, (4,), None, readonly=readonly)[0]["data"][1] is readonly


def test_pitfall_21_a_fresh_dict_each_time(arrays):
    dict_, pointer, array, _ = interface_of(arrays, (2, 3), (1, 2))
    expected = dict(dict_)
    dict_["strides"] = dict_["stream"] = 5
    dict_["data"] = (0, True)
    del dict_["shape"]
    again = array.__cuda_array_interface__
    assert again == expected and again is not array.__cuda_array_interface__


@pytest.mark.parametrize("shape, strides, shown_strides", [
    ((2, 3), None, None), ((2, 3), (3, 1), None), ((2, 3), (1, 2), (4, 8)), ((3,), (2,), (8,)), ((3,), (1,), None),
    ((), (), None), ((1,), (77,), None), ((1, 3), (99, 1), None), ((2, 1, 3), (3, 55, 1), None),
    ((1, 1), (8, 9), None), ((3, 1), (1, 40), None), ((1, 3), (1, 2), (4, 8)), ((3, 2), (0, 1), (0, 4)),
    ((0, 3), (7, 9), None), ((2, 0), None, None)])
def test_pitfall_21_strides(arrays, shape, strides, shown_strides):
    """None where the array is C-contiguous, whatever the strides of extents of 1 and of empty arrays are; bytes else."""
    dict_ = interface_of(arrays, shape, strides)[0]
    assert dict_["strides"] == shown_strides
    assert dict_["shape"] == shape
    assert dict_["strides"] is None or type(dict_["strides"]) is tuple


def test_pitfall_21_negative_strides_point_to_the_first_element(arrays):
    pointer = emulated.allocate(16)
    handle = arrays.wrap(pointer + 12, (4,), (-1,), "float32", (2, 0), 0, None)
    dict_ = arrays.give(handle).__cuda_array_interface__
    assert (dict_["strides"], dict_["data"]) == ((-4,), (pointer + 12, False))


@pytest.mark.parametrize("readonly", [False, True])
def test_pitfall_21_data_of_empty_arrays(arrays, readonly):
    """0, although the memory that was wrapped has an address."""
    dict_ = interface_of(arrays, (2, 0, 3), None, readonly=readonly)[0]
    assert dict_["data"] == (0, readonly)
    assert dict_["shape"] == (2, 0, 3)
    assert "stream" not in dict_ or dict_["stream"] is None


@pytest.mark.parametrize("kind", ON_GPU)
def test_pitfall_21_new_empty_arrays(arrays, kind):
    dict_ = arrays.new((0,), "float32", getattr(arrays, kind)).__cuda_array_interface__
    assert dict_["data"] == (0, False)
    assert dict_.get("stream") is None


def test_big_extents_and_addresses(arrays):
    pointer = 0xFFFF_F000_0000_0000
    handle = arrays.wrap(pointer, (1 << 40, 3), (0, 0), "uint8", (2, 0), 0, None)
    dict_ = arrays.give(handle).__cuda_array_interface__
    assert (dict_["shape"], dict_["strides"], dict_["data"]) == ((1 << 40, 3), (0, 0), (pointer, False))


# ------------------------------------------------------------------------------------------------------------ stream


def test_pitfall_18_no_stream_without_pending_work(arrays):
    dict_, _, array, _ = interface_of(arrays, (4,), None)
    assert dict_.get("stream") is None
    assert array.stream is None


@pytest.mark.parametrize("stream, said", [(0, 1), (1, 1), (2, 2)])
def test_pitfall_18_the_default_streams(arrays, stream, said):
    """Never 0, which the specification forbids."""
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    assert array.__cuda_array_interface__["stream"] == said
    assert type(array.__cuda_array_interface__["stream"]) is int


def test_pitfall_18_another_thread_is_told_legacy_for_a_per_thread_stream(arrays):
    """Whose own one is another stream."""
    array, seen = arrays.new((4,), "float32", arrays.DEVICE, 0, 2), []
    assert array.stream.handle == array.__cuda_array_interface__["stream"] == 2
    thread = threading.Thread(target=lambda: seen.extend([array.stream.handle, array.__cuda_array_interface__["stream"]]))
    thread.start()
    thread.join()
    assert seen == [1, 1]


def test_pitfall_18_a_stream_of_the_authors(arrays):
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    assert array.__cuda_array_interface__["stream"] == stream
    assert array.stream.handle == stream


@pytest.mark.parametrize("consumer_kind", [emulated.BLOCKING, emulated.NON_BLOCKING])
def test_pitfall_18_the_stream_covers_the_pending_work(arrays, consumer_kind):
    """A consumer that waits for the stream sees what was pending, and one that does not, does not."""
    stream, consumer = emulated.create_stream(), emulated.create_stream(consumer_kind)
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 0, stream), np.frombuffer(OLD, FLOAT))
    emulated.launch_write(stream, array.ptr, NEW)
    dict_ = array.__cuda_array_interface__
    too_early = seen_on(consumer, array.ptr)
    emulated.synchronize(consumer)
    assert too_early == [OLD]
    emulated.synchronize(dict_["stream"])
    in_time = seen_on(consumer, array.ptr)
    emulated.synchronize(consumer)
    assert in_time == [NEW]


def test_pitfall_18_asking_waits_for_nothing(arrays):
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    emulated.launch_write(stream, array.ptr, NEW)
    emulated.clear_calls()
    array.__cuda_array_interface__
    assert emulated.count_pending() > 0
    assert [name for name in emulated.call_names() if "Synchronize" in name or "Event" in name] == []
    emulated.synchronize(stream)


@pytest.mark.parametrize("wrap", [False, True])
def test_pitfall_19_the_joined_stream(arrays, wrap):
    """Work on several streams is joined, so that the one that is said covers it all."""
    streams = [emulated.create_stream() for _ in range(3)]
    handle = on_device(arrays, (4,), None)[0] if wrap else arrays.new_handle((4,), "float32", arrays.DEVICE, 0, streams[0])
    array = arrays.give(handle)
    done = []
    for stream in streams:
        emulated.launch(stream, lambda stream=stream: done.append(stream))
        assert arrays.used_on(handle, stream) == "OK"
    said = array.__cuda_array_interface__["stream"]
    assert said in streams
    emulated.synchronize(said)
    assert sorted(done) == sorted(streams)


def test_pitfall_19_one_that_captures_cannot_be_joined(arrays):
    """Refused, and the capture is intact."""
    mine, other = emulated.create_stream(), emulated.create_stream()
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE, 0, mine)
    emulated.begin_capture(other)
    assert arrays.used_on(handle, other) == "STREAM_CAPTURE"
    emulated.end_capture(other)


def test_interfaces_inside_a_capture(arrays):
    """Reading the attribute of an array whose stream captures tells the stream and breaks nothing."""
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    emulated.begin_capture(stream, emulated.GLOBAL)
    assert array.__cuda_array_interface__["stream"] == stream
    emulated.end_capture(stream)


@pytest.mark.parametrize("wrap", [False, True])
def test_pitfall_20_the_owner_of_the_stream_lives_as_long_as_the_array(arrays, wrap):
    mine, other = emulated.create_stream(), emulated.create_stream()
    handle = (on_device(arrays, (4,), None, owner=5)[0] if wrap else
              arrays.new_handle((4,), "float32", arrays.DEVICE, 0, mine))
    memory = [5] if wrap else []
    array = arrays.give(handle)
    assert arrays.set_stream(handle, other, 9) == "OK"
    assert array.__cuda_array_interface__["stream"] == other == array.stream.handle
    arrays.release(handle)
    gc.collect()
    assert arrays.deleted() == []
    del array
    assert arrays.deleted() == [*memory, 9]


def test_pitfall_20_another_stream_releases_the_first(arrays):
    first, second = emulated.create_stream(), emulated.create_stream()
    handle = on_device(arrays, (4,), None)[0]
    assert arrays.set_stream(handle, first, 1) == "OK"
    emulated.launch(first, lambda: done.append("first"))
    done = []
    assert arrays.set_stream(handle, second, 2) == "OK"
    assert arrays.deleted() == [1]
    emulated.synchronize(second)
    assert done == ["first"]
    assert arrays.set_stream(handle, 0, -1) == "OK"
    assert arrays.give(handle).__cuda_array_interface__["stream"] == 1
    arrays.release(handle)
    assert arrays.deleted() == [1, 2]


def test_pitfall_20_a_stream_that_cannot_be_given(arrays):
    """Refused with the owner untouched: another's array, and one whose stream captures."""
    stream, other = emulated.create_stream(), emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    kept = arrays.keep(array)
    assert arrays.set_stream(kept, other, 3) == "OBJECT_OWNERSHIP"
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE, 0, stream)
    emulated.begin_capture(stream)
    assert arrays.set_stream(handle, other, 3) == "STREAM_CAPTURE"
    emulated.end_capture(stream)
    assert arrays.describe(handle)["stream"] == stream
    assert arrays.deleted() == []


def test_pitfall_20_the_stream_object_keeps_the_array(arrays):
    """A Stream taken from an array stays valid: it keeps the array, which keeps the stream's owner."""
    handle = on_device(arrays, (4,), None)[0]
    arrays.set_stream(handle, emulated.create_stream(), 4)
    array = arrays.give(handle)
    arrays.release(handle)
    stream = array.stream
    del array
    assert arrays.deleted() == []
    del stream
    gc.collect()
    assert arrays.deleted() == [4]


# ------------------------------------------------------------------------------------------------------------- owner


def test_pitfall_22_the_bearer_owns(arrays):
    """The dict keeps nothing; whoever bears the attribute does."""
    dict_, _, array, handle = interface_of(arrays, (4,), None, owner=11)
    arrays.release(handle)
    assert arrays.deleted() == []
    reference = weakref.ref(array)
    del array
    assert reference() is None and arrays.deleted() == [11]
    assert dict_["shape"] == (4,)


def test_pitfall_22_a_consumer_that_keeps_the_bearer(arrays):
    """A consumer that borrows by the interface keeps the object, and so the memory."""
    handle, pointer = on_device(arrays, (4,), None, owner=12)
    array = arrays.give(handle)
    arrays.release(handle)
    view = probe_module.acquire(array, "adopt", {"protocols": probe_module.VIA_CUDA_ARRAY_INTERFACE})
    assert (view.describe()["pointer"], view.describe()["shape"]) == (pointer, (4,))
    del array
    assert arrays.deleted() == []
    assert view.release() == "OK"
    del view
    gc.collect()
    assert arrays.deleted() == [12]


@pytest.mark.parametrize("strides", [None, (1, 2)])
@pytest.mark.parametrize("readonly", [False, True])
def test_what_comes_back_is_what_went_out(arrays, strides, readonly):
    """Out by the interface, in by the interface."""
    dict_, pointer, array, _ = interface_of(arrays, (2, 3), strides, readonly=readonly)
    view = probe_module.acquire(array, "none", {"protocols": probe_module.VIA_CUDA_ARRAY_INTERFACE})
    seen = view.describe()
    assert (seen["pointer"], seen["shape"], seen["strides"], seen["dtype"]) == (
        pointer, (2, 3), strides or (3, 1), "float32")
    assert bool(seen["flags"] & probe_module.READONLY) is readonly
    view.release()


def test_reference_counts(arrays):
    array = arrays.new((2, 3), "float32", arrays.DEVICE)
    array.__cuda_array_interface__
    before = sys.getrefcount(array), sys.getrefcount("stream"), sys.getrefcount(None)
    kept = [array.__cuda_array_interface__ for _ in range(100)]
    del kept
    after = sys.getrefcount(array), sys.getrefcount("stream"), sys.getrefcount(None)
    assert all(abs(a - b) < 20 for a, b in zip(after, before))


# ---------------------------------------------------------------------------------------------- __array_interface__


@pytest.mark.parametrize("kind", ["HOST", "MANAGED", "PINNED"])
def test_array_interface_of_memory_that_the_host_reaches(arrays, kind):
    array = fill(arrays.new((2, 3), "float32", getattr(arrays, kind)))
    assert array.__array_interface__ == {"shape": (2, 3), "typestr": "<f4", "data": (array.ptr, False), "strides": None,
                                         "version": 3}


@pytest.mark.parametrize("readonly", [False, True])
def test_array_interface_of_wrapped_memory(arrays, readonly):
    source = np.arange(12, dtype="i4").reshape(3, 4)[::-1, ::2]
    array = shown(arrays, source, readonly=readonly)
    assert array.__array_interface__ == {"shape": (3, 2), "typestr": "<i4", "data": (source.ctypes.data, readonly),
                                         "strides": (-16, 8), "version": 3}


def test_array_interface_of_device_memory_is_absent(arrays):
    array = arrays.new((2, 3), "float32", arrays.DEVICE)
    assert not hasattr(array, "__array_interface__")
    with pytest.raises(AttributeError) as refusal:
        array.__array_interface__
    assert type(refusal.value.__context__) is arrays.DeviceMismatchError


@pytest.mark.parametrize("kind", ["MANAGED", "PINNED"])
def test_array_interface_waits_for_pending_work(arrays, kind):
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", getattr(arrays, kind), 0, stream)
    emulated.write(array.ptr, OLD)
    emulated.launch_write(stream, array.ptr, NEW)
    assert emulated.read(array.ptr, 16) == OLD
    array.__array_interface__
    assert emulated.read(array.ptr, 16) == NEW


def test_array_interface_while_the_stream_captures(arrays):
    """What the host cannot wait for is refused, and the capture is intact. RuntimeErrors are no missing attributes."""
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.MANAGED, 0, stream)
    emulated.begin_capture(stream)
    with pytest.raises(arrays.StreamCaptureError):
        array.__array_interface__
    emulated.end_capture(stream)


def test_array_interface_keeps_nothing(arrays):
    handle = wrapped(arrays, SIX, owner=13)
    array = arrays.give(handle)
    arrays.release(handle)
    dict_ = array.__array_interface__
    del array
    assert arrays.deleted() == [13] and dict_["shape"] == (2, 3)
