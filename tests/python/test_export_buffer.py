"""Arrays out by the buffer protocol: every wish that a consumer can state, and memory that the GPU still writes."""

import array as array_module
import ctypes
import gc
import io
import threading

import numpy as np
import pytest

import checks
import children
import emulated
import faults
from outward import NEW, OLD, ON_HOST, SIX, fill, shown, wrapped

SIMPLE, WRITABLE, FORMAT, ND, STRIDES = 0, 1, 4, 8, 0x18
C, F, ANY = 0x38, 0x58, 0x98
INDIRECT = 0x118

pytestmark = pytest.mark.skipif(not hasattr(ctypes.pythonapi, "PyObject_GetBuffer"), reason="no buffers from C")


class Buffer(ctypes.Structure):
    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
                ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
                ("format", ctypes.c_char_p), ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
                ("strides", ctypes.POINTER(ctypes.c_ssize_t)), ("suboffsets", ctypes.c_void_p),
                ("internal", ctypes.c_void_p)]


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = [ctypes.POINTER(Buffer)]
_release.restype = None


def ask(array, flags):
    """What the buffer says, given back again."""
    buffer = Buffer()
    _get(array, ctypes.byref(buffer), flags)
    shape = tuple(buffer.shape[:buffer.ndim]) if buffer.shape else None
    strides = tuple(buffer.strides[:buffer.ndim]) if buffer.strides else None
    said = {"buf": buffer.buf, "len": buffer.len, "itemsize": buffer.itemsize, "readonly": buffer.readonly,
            "ndim": buffer.ndim, "format": buffer.format, "shape": shape, "strides": strides,
            "suboffsets": buffer.suboffsets}
    assert buffer.obj is array
    _release(ctypes.byref(buffer))
    return said


# ------------------------------------------------------------------------------------------------------ what is asked


def test_the_whole_buffer(arrays):
    array = shown(arrays, SIX)
    assert ask(array, STRIDES | FORMAT) == {
        "buf": SIX.ctypes.data, "len": 24, "itemsize": 4, "readonly": 0, "ndim": 2, "format": b"f", "shape": (2, 3),
        "strides": (12, 4), "suboffsets": None}


@pytest.mark.parametrize("flags", [SIMPLE, WRITABLE, FORMAT, ND, ND | FORMAT, STRIDES, C, ANY, INDIRECT])
def test_parts_that_were_not_asked_for_are_not_there(arrays, flags):
    said = ask(shown(arrays, SIX), flags)
    assert (said["format"] is not None) == bool(flags & FORMAT)
    assert said["shape"] == ((2, 3) if flags & ND else None)
    assert said["strides"] == ((12, 4) if flags & STRIDES == STRIDES else None)
    assert (said["len"], said["buf"]) == (24, SIX.ctypes.data)


LAYOUTS = {"c": SIX, "f": np.asfortranarray(SIX), "neither": np.zeros((4, 6), "f4")[::2, ::2],
           "both": np.zeros((1, 3), "f4"),
           "reversed": SIX[::-1], "0-d": np.zeros((), "f4"), "empty": np.zeros((0, 3), "f4")}


@pytest.mark.parametrize("flags", [SIMPLE, ND, STRIDES, C, F, ANY, INDIRECT])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_do_not_fit_are_refused(arrays, layout, flags):
    """Exactly as NumPy does."""
    source = LAYOUTS[layout]
    expected = checks.catch(ask, source, flags)[0]
    said, refusal = checks.catch(ask, shown(arrays, source), flags)
    if expected is None:
        assert refusal.type is BufferError and "contiguous" in refusal.message
        return
    assert refusal is None, refusal.message
    keys = ["len", "itemsize", "shape"] + (["ndim"] if flags & ND else [])
    assert [said[key] for key in keys] == [expected[key] for key in keys]
    if source.ndim == 0:
        assert (said["shape"], said["strides"]) == (None, None)  # NULL, as the protocol has it for single items
    if source.size > 0:
        assert said["buf"] == source.ctypes.data
        if said["strides"] is not None and layout != "both":
            assert said["strides"] == source.strides


def test_an_empty_buffer_has_an_address(arrays):
    """Consumers take NULL for an error."""
    said = ask(arrays.new((0,), "float32", arrays.HOST), STRIDES)
    assert said["buf"] and said["len"] == 0
    assert bytes(memoryview(arrays.new((2, 0), "float32", arrays.HOST))) == b""


@pytest.mark.parametrize("name, code", [
    ("bool", "?"), ("int8", "b"), ("uint8", "B"), ("int16", "h"), ("uint16", "H"), ("int32", "i"), ("uint32", "I"),
    ("int64", "lq"), ("uint64", "LQ"), ("float16", "e"), ("float32", "f"), ("float64", "d")])
def test_formats(arrays, name, code):
    array = arrays.new((3,), name, arrays.HOST)
    view = memoryview(array)
    assert view.format in tuple(code)
    assert (view.itemsize, view.shape) == (np.dtype(name).itemsize, (3,))
    assert np.asarray(view).dtype == np.dtype(name)


@pytest.mark.parametrize("name", ["complex64", "complex128"])
def test_complex_formats(arrays, name):
    assert np.asarray(memoryview(arrays.new((3,), name, arrays.HOST))).dtype == np.dtype(name)


def test_types_without_a_format_are_refused(arrays):
    with pytest.raises(BufferError, match="format"):
        memoryview(arrays.new((3,), "bfloat16", arrays.HOST))


def test_readonly(arrays):
    array = shown(arrays, SIX, readonly=True)
    assert ask(array, STRIDES)["readonly"] == 1
    with pytest.raises(BufferError, match="read-only"):
        ask(array, STRIDES | WRITABLE)
    with pytest.raises((BufferError, TypeError)):
        io.BytesIO(b"123").readinto(array)
    view = memoryview(array)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0, 0] = 1


def test_writable(arrays):
    source = np.zeros(6, "u1")
    array = shown(arrays, source)
    assert ask(array, STRIDES | WRITABLE)["readonly"] == 0
    assert io.BytesIO(b"abcdef").readinto(array) == 6
    assert source.tobytes() == b"abcdef"


def test_device_memory_is_refused(arrays):
    for kind in ("DEVICE", "NO_POOL"):
        with pytest.raises(BufferError, match="CUDA device"):
            memoryview(arrays.new((3,), "float32", getattr(arrays, kind)))


@pytest.mark.parametrize("kind", ON_HOST)
def test_values(arrays, kind):
    array = fill(arrays.new((2, 3), "float32", getattr(arrays, kind)))
    view = memoryview(array)
    assert view.tolist() == SIX.tolist()
    assert view.obj is array
    assert np.asarray(view).ctypes.data == array.ptr
    view[1, 2] = 77
    assert emulated.read(array.ptr + 20, 4) == np.float32(77).tobytes()
    assert array_module.array("B", bytes(view))[:4].tobytes() == b"\0\0\0\0"


# ------------------------------------------------------------------------------------------------------------ lifetime


def test_a_buffer_keeps_the_array(arrays):
    handle = wrapped(arrays, SIX, owner=5)
    array = arrays.give(handle)
    arrays.release(handle)
    one, other = memoryview(array), memoryview(array)
    del array
    one.release()
    gc.collect()
    assert arrays.deleted() == []
    assert other.tolist() == SIX.tolist()
    other.release()
    del other, one
    gc.collect()
    assert arrays.deleted() == [5]


def test_a_refused_buffer_keeps_nothing(arrays):
    handle = wrapped(arrays, SIX, owner=6, readonly=True)
    array = arrays.give(handle)
    arrays.release(handle)
    for flags in (WRITABLE, F):
        assert checks.catch(ask, array, flags)[1].type is BufferError
    del array
    assert arrays.deleted() == [6]


def test_several_buffers_do_not_share(arrays):
    array = shown(arrays, SIX)
    views = [memoryview(array) for _ in range(5)]
    for view in views[::2]:
        view.release()
    assert [view.shape for view in views[1::2]] == [(2, 3)] * 2


# --------------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("kind", ["MANAGED", "PINNED"])
def test_pending_work_is_waited_for(arrays, kind):
    stream = emulated.create_stream()
    array = fill(arrays.new((4,), "float32", getattr(arrays, kind), 0, stream), np.frombuffer(OLD, "f4"))
    emulated.launch_write(stream, array.ptr, NEW)
    assert emulated.read(array.ptr, 16) == OLD
    assert bytes(memoryview(array)) == NEW


@pytest.mark.parametrize("kind", ["MANAGED", "PINNED"])
@pytest.mark.parametrize("what", [memoryview, lambda array: array.__array_interface__,
                                  lambda array: array.__dlpack__(dl_device=(1, 0))],
                         ids=["buffer", "array_interface", "dlpack"])
def test_pitfall_59_the_wait_is_without_the_gil(arrays, kind, what):
    """Kernels that are Python functions run on another thread meanwhile."""
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", getattr(arrays, kind), 0, stream)
    fill_later(stream, array.ptr)
    emulated.set_blocking_hook(faults.wait_hook())
    what(array)
    emulated.set_blocking_hook(None)
    waits, with_gil = faults.count_waits()
    assert waits > 0 and with_gil == 0
    assert emulated.read(array.ptr, 16) == NEW


def fill_later(stream, pointer):
    """Work that runs no Python code."""
    emulated.cuda("cudaMemsetAsync", ctypes.c_void_p(pointer), ctypes.c_int(NEW[0]), ctypes.c_size_t(16),
                  ctypes.c_void_p(stream))


def test_host_memory_waits_for_nothing(arrays):
    array = arrays.new((4,), "float32", arrays.HOST)
    emulated.clear_calls()
    memoryview(array), array.__array_interface__, array.__dlpack__()
    assert emulated.call_names() == []


@pytest.mark.parametrize("kind", ["MANAGED", "PINNED"])
def test_arrays_whose_stream_captures(arrays, kind):
    """What cannot be waited for is refused, and the capture stays intact."""
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", getattr(arrays, kind), 0, stream)
    emulated.begin_capture(stream, emulated.GLOBAL)
    with pytest.raises(arrays.StreamCaptureError):
        memoryview(array)
    emulated.end_capture(stream)
    assert memoryview(array).nbytes == 16


def test_a_wait_that_fails(arrays):
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.MANAGED, 0, stream)
    memoryview(array)
    for nth in range(1, 30):
        emulated.clear_calls()
        emulated.fail(None, nth, 999)
        view, refusal = checks.catch(memoryview, array)
        came = emulated.count_failures() == 0
        emulated.clear_failures()
        checks.exchange_capture_mode(emulated.GLOBAL)
        emulated.set_device(0)
        assert view is not None or (refusal.type, refusal.code) == (arrays.CudaCallError, 999)
        if view is not None:
            view.release()
        if not came:
            break
    assert 1 < nth < 29


# ------------------------------------------------------------------------------------------------------------- without CUDA


def test_without_cuda():
    """The same for the build that knows no CUDA, which asks for none."""
    children.run("""
        import pickle
        import sys
        import numpy as np
        import arrays_host as arrays
        array = arrays.new((2, 3), "float32", arrays.HOST)
        view = np.asarray(memoryview(array))
        view[...] = [[0, 1, 2], [3, 4, 5]]
        assert np.from_dlpack(array).tolist() == view.tolist() == np.array(array).tolist()
        assert array.__array_interface__["data"] == (array.ptr, False) == (view.ctypes.data, False)
        assert (array.device, array.stream, array.__dlpack_device__()) == ("cpu", None, (1, 0))
        assert not hasattr(array, "__cuda_array_interface__")
        assert arrays.table_lend(array) == (array.ptr, (1, 0), (2, 3), (3, 1))
        try:
            arrays.new((2, 3), "float32", arrays.DEVICE)
        except arrays.DeviceMismatchError as error:
            assert "CAI_NO_CUDA" in str(error)
        else:
            raise AssertionError
        copy = np.from_dlpack(array, copy=True)
        view[...] = 0
        assert copy[1, 2] == 5
        assert "emulated" not in sys.modules
    """)


def test_many_threads_ask_at_once(arrays):
    handle = wrapped(arrays, SIX, owner=9)
    array = arrays.give(handle)
    arrays.release(handle)

    def work(array):
        for _ in range(300):
            memoryview(array).release()

    threads = [threading.Thread(target=work, args=(array,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del array, threads, thread
    gc.collect()
    assert arrays.deleted() == [9]
