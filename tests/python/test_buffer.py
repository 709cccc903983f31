"""Host arrays in by the buffer protocol: the standard library's, NumPy's, and buffers that make no sense."""

import array
import ctypes
import gc
import mmap
import multiprocessing.shared_memory
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

import buffers
import checks
import emulated
from dlpack import CPU, CUDA_HOST

pytestmark = pytest.mark.filterwarnings("error")

HOST = {"memory": "ON_HOST"}
ORDERS = ["adopt", "block", "none", emulated.PER_THREAD]

# The limited API has the buffer protocol since 3.11. The build without CUDA reads the same buffers.
PROBES = ["probe", "probe_host"] if sys.version_info < (3, 11) else ["probe", "probe_limited", "probe_host"]


@pytest.fixture(params=PROBES)
def probe(request):
    return checks.load(request.param)


# ------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("order", ORDERS)
def test_every_field_of_the_view(accepts, probe, order):
    source = array.array("f", [0, 1, 2])
    with accepts(source, order, **HOST) as view:
        described = dict(vars(view))
        del described["handle"]
        assert described == {
            "pointer": source.buffer_info()[0], "shape": (3,), "strides": (1,), "dtype": "float32", "device": (CPU, 0),
            "byte_offset": 0, "stream": 0, "flags": 0, "protocol": probe.VIA_BUFFER, "size": 3, "mask": None,
            "descr": None}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("source", [b"bytes", np.arange(3.0)])
def test_host_arrays_need_no_cuda_call(probe, order, source):
    emulated.clear_calls()
    view = probe.acquire(source, order, {"memory": probe.ON_HOST})
    assert view.release() == "OK"
    assert emulated.call_names() == []


def test_host_memory_has_to_be_asked_for(probe, refuses, accepts):
    source = bytearray(4)
    if probe.__name__ == "probe_host":
        with accepts(source) as view:
            assert view.size == 4
        return
    for memory in ("", "ON_CUDA", "ON_CUDA ON_MANAGED", "ON_PINNED"):
        assert "host" in refuses("DeviceMismatchError", source, memory=memory).message
    source.append(1)  # nothing holds it


def test_a_request_can_exclude_the_protocol(refuses):
    for protocols in ("VIA_DLPACK", "VIA_CUDA_ARRAY_INTERFACE", "VIA_EXCHANGE"):
        refuses("InterfaceNotImplementedError", bytearray(4), protocols=protocols, **HOST)


# ------------------------------------------------------------------------------------------------ the standard library


@pytest.mark.parametrize("code, dtype", [
    ("b", "int8"), ("B", "uint8"), ("h", "int16"), ("H", "uint16"), ("i", "int32"), ("I", "uint32"), ("l", "int64"),
    ("L", "uint64"), ("q", "int64"), ("Q", "uint64"), ("f", "float32"), ("d", "float64")])
def test_arrays_of_every_type_code(accepts, code, dtype):
    source = array.array(code, [1, 2, 3])
    with accepts(source, require="WRITABLE C_CONTIGUOUS", **HOST) as view:
        assert view.dtype == dtype
        assert checks.read(view).tolist() == [1, 2, 3]


def test_arrays_of_characters(refuses):
    refuses("UnknownDtypeError", array.array("w" if sys.version_info >= (3, 13) else "u", "text"), **HOST)


def test_bytes_are_read_only(accepts, refuses, probe):
    with accepts(b"abc", **HOST) as view:
        assert (view.dtype, view.shape, view.flags) == ("uint8", (3,), probe.READONLY)
        assert checks.read(view).tolist() == [97, 98, 99]
    refuses("ReadOnlyAccessError", b"abc", require="WRITABLE", **HOST)
    refuses("ReadOnlyAccessError", b"abc", require="WRITABLE TRUST_LEGACY", **HOST)


@pytest.mark.parametrize("source", [b"", bytearray(), array.array("f"), np.zeros((0, 3)), memoryview(b"")])
def test_empty_buffers(accepts, source):
    with accepts(source, **HOST) as view:
        assert (view.size, view.pointer) == (0, 0)


@pytest.mark.parametrize("make, grow", [(lambda: bytearray(b"abc"), lambda x: x.extend(b"d" * 100)),
                                        (lambda: array.array("i", [1, 2]), lambda x: x.extend([3] * 100))])
def test_resizable_memory_stays_locked_while_the_view_is_held(accepts, make, grow):
    source = make()
    with accepts(source, require="WRITABLE", **HOST):
        with pytest.raises(BufferError):
            grow(source)
    grow(source)


@pytest.mark.parametrize("error, request_", [
    ("InvalidShapeError", {"ndim": 3}), ("DtypeMismatchError", {"dtype": "int8"}),
    ("LayoutMismatchError", {"require": "NO_NEGATIVE_STRIDES"}), ("ReadOnlyAccessError", {"require": "WRITABLE"})])
def test_resizable_memory_is_unlocked_when_it_is_refused(refuses, error, request_):
    owner = bytearray(b"abcdef")
    source = memoryview(owner)[::-1].toreadonly()
    refuses(error, source, **HOST, **request_)
    source.release()
    owner.extend(b"g")


def test_resizable_memory_is_unlocked_when_the_view_is_forgotten(probe):
    source = bytearray(4)
    view = probe.acquire(source, "adopt", {"memory": probe.ON_HOST})
    del view
    gc.collect()
    source.extend(b"more")


def test_the_view_keeps_the_exporter_alive(probe):
    class Bytes(bytearray):
        pass

    source = Bytes(b"abc")
    gone = weakref.ref(source)
    view = probe.acquire(source, "adopt", {"memory": probe.ON_HOST})
    del source
    gc.collect()
    assert view.object() is gone()
    assert view.release() == "OK"
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("code, dtype", [
    ("b", "int8"), ("B", "uint8"), ("h", "int16"), ("H", "uint16"), ("i", "int32"), ("I", "uint32"), ("l", "int64"),
    ("L", "uint64"), ("q", "int64"), ("Q", "uint64"), ("n", "int64"), ("N", "uint64"), ("f", "float32"),
    ("d", "float64"), ("?", "bool")])
def test_memoryviews_of_every_format(accepts, code, dtype):
    with accepts(memoryview(bytearray(16)).cast(code), require="WRITABLE", **HOST) as view:
        assert view.dtype == dtype


@pytest.mark.parametrize("code", ["c", "P"])
def test_memoryviews_without_a_data_type(refuses, code):
    refuses("UnknownDtypeError", memoryview(bytearray(16)).cast(code), **HOST)


def memoryviews():
    flat = memoryview(array.array("i", range(24)))
    cube = flat.cast("B").cast("i", (2, 3, 4))
    return {"flat": flat, "cube": cube, "part": cube[1:], "sliced": flat[3:20:5], "reversed": flat[::-1],
            "steps_back": flat[20:2:-6], "scalar": flat[:1].cast("B").cast("i", ()), "empty": flat[5:5]}


@pytest.mark.parametrize("name", ["flat", "cube", "part", "sliced", "reversed", "steps_back", "scalar", "empty"])
def test_memoryviews_of_every_layout(accepts, probe, name):
    source = memoryviews()[name]
    with accepts(source, require="WRITABLE", **HOST) as view:
        assert view.shape == source.shape
        assert checks.read(view).tolist() == source.tolist()
    with accepts(source.toreadonly(), **HOST) as view:
        assert view.flags == probe.READONLY


def test_a_memoryview_that_was_released(refuses):
    source = memoryview(b"abc")
    source.release()
    refuses("InterfaceNotImplementedError", source, cause=ValueError, **HOST)


def test_a_memoryview_cannot_be_released_while_the_view_is_held(accepts):
    source = memoryview(bytearray(4))
    with accepts(source, **HOST):
        with pytest.raises(BufferError):
            source.release()
    source.release()


@pytest.mark.parametrize("kind, dtype", [
    (ctypes.c_byte, "int8"), (ctypes.c_ubyte, "uint8"), (ctypes.c_short, "int16"), (ctypes.c_ushort, "uint16"),
    (ctypes.c_int, "int32"), (ctypes.c_uint, "uint32"), (ctypes.c_long, "int64"), (ctypes.c_ulong, "uint64"),
    (ctypes.c_longlong, "int64"), (ctypes.c_ulonglong, "uint64"), (ctypes.c_size_t, "uint64"),
    (ctypes.c_float, "float32"), (ctypes.c_double, "float64"), (ctypes.c_bool, "bool"), (ctypes.c_int16, "int16")])
def test_ctypes_arrays(accepts, kind, dtype):
    source = ((kind * 3) * 2)((1, 0, 1), (0, 1, 0))
    with accepts(source, require="WRITABLE C_CONTIGUOUS", **HOST) as view:
        assert (view.dtype, view.shape) == (dtype, (2, 3))
        assert checks.read(view).tolist() == [[1, 0, 1], [0, 1, 0]]
    with accepts(kind(1), **HOST) as view:
        assert (view.shape, view.size) == ((), 1)


@pytest.mark.parametrize("kind", [ctypes.c_char, ctypes.c_wchar, ctypes.c_longdouble, ctypes.c_void_p, ctypes.py_object,
                                  ctypes.POINTER(ctypes.c_int), ctypes.CFUNCTYPE(None)])
def test_ctypes_arrays_without_a_data_type(refuses, kind):
    refuses("UnknownDtypeError", (kind * 2)(), **HOST)


def test_ctypes_arrays_of_foreign_byte_order(refuses):
    foreign = "__ctype_be__" if sys.byteorder == "little" else "__ctype_le__"
    refuses("EndiannessDetectionError", (getattr(ctypes.c_int, foreign) * 2)(), **HOST)


class Record(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_double)]


def test_ctypes_structures_are_bytes_without_a_meaning(accepts, refuses):
    source = (Record * 3)((1, 2.0))
    refuses("DtypeMismatchError", source, **HOST)
    with accepts(source, require="UNUSUAL_DTYPE_OK", **HOST) as view:
        assert (view.dtype, view.shape) == ("V16", (3,))
    with accepts(Record(), dtype="V16", **HOST) as view:
        assert view.shape == ()


def test_anonymous_memory_maps(accepts, refuses):
    with mmap.mmap(-1, 4096) as source:
        source[:4] = b"data"
        with accepts(source, require="WRITABLE", **HOST) as view:
            assert (view.dtype, view.shape) == ("uint8", (4096,))
            assert bytes(checks.read(view)[:4]) == b"data"
            with pytest.raises(BufferError):
                source.close()
    refuses("InterfaceNotImplementedError", source, cause=ValueError, **HOST)


def test_read_only_memory_maps(accepts, refuses, probe, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abcd" * 1024)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
        with accepts(source, **HOST) as view:
            assert view.flags == probe.READONLY
            assert bytes(checks.read(view)[:4]) == b"abcd"
        refuses("ReadOnlyAccessError", source, require="WRITABLE", **HOST)


def test_shared_memory(accepts):
    shared = multiprocessing.shared_memory.SharedMemory(create=True, size=64)
    try:
        with accepts(shared.buf.cast("f"), require="WRITABLE", **HOST) as view:
            assert (view.dtype, view.shape) == ("float32", (16,))
    finally:
        gc.collect()
        shared.close()
        shared.unlink()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes export buffers since Python 3.12")
def test_classes_that_export_a_buffer(accepts, refuses):
    class Exporter:
        def __init__(self, answer):
            self.answer, self.flags, self.released = answer, [], 0

        def __buffer__(self, flags):
            self.flags.append(flags)
            if isinstance(self.answer, type):
                raise self.answer("own")
            return memoryview(self.answer)

        def __release_buffer__(self, view):
            self.released += 1
            view.release()

    source = Exporter(bytearray(b"abc"))
    with accepts(source, **HOST) as view:
        assert checks.read(view).tolist() == [97, 98, 99]
        assert source.released == 0
    assert source.released == 1
    assert not source.flags[0] & buffers.PyBUF_WRITABLE
    refuses("InvalidShapeError", source, ndim=4, **HOST)
    assert source.released == 2
    for exception in (ValueError, BufferError, RuntimeError):
        refuses("InterfaceNotImplementedError", Exporter(exception), cause=exception, match="own", **HOST)
    for exception in (MemoryError, KeyboardInterrupt):
        refuses(exception.__name__, Exporter(exception), **HOST)


# -------------------------------------------------------------------------------------------------------------- NumPy


@pytest.mark.parametrize("dtype", ["?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d", "F", "D",
                                   ">u1", "=f4", "<i8", ">b1"])
@pytest.mark.parametrize("order", ORDERS)
def test_numpy_arrays_of_every_type(accepts, probe, dtype, order):
    source = np.arange(6).reshape(2, 3).astype(dtype)
    with accepts(source, order, require="WRITABLE", **HOST) as view:
        assert view.dtype == source.dtype.name
        assert (view.device, view.stream, view.flags) == ((CPU, 0), 0, 0)
        assert view.pointer == source.ctypes.data
        assert np.array_equal(checks.read(view), source)


def numpy_layouts():
    base = np.arange(24.0).reshape(2, 3, 4)
    fortran = np.asfortranarray(base)
    return {"c": base, "fortran": fortran, "transposed": base.transpose(1, 2, 0), "sliced": base[:, 1:, ::2],
            "reversed": base[::-1, :, ::-1], "scalar": np.array(7.0), "empty": base[:, :0], "one": base[:1, :1, :1],
            "new_axes": base[:, None, :, None], "offset": base.ravel()[5:], "number": np.float64(3),
            "diagonal": np.einsum("iijj->ij", np.arange(36.0).reshape(2, 2, 3, 3)), "matrix": base[0].view(np.recarray)}


@pytest.mark.parametrize("name", list(numpy_layouts()))
def test_numpy_arrays_of_every_layout(accepts, name):
    source = numpy_layouts()[name]
    with accepts(source, **HOST) as view:
        assert view.shape == source.shape
        assert np.array_equal(checks.read(view), source)
        for extent, stride, expected in zip(view.shape, view.strides, source.strides):
            assert stride == expected // 8 or extent < 2 or source.size == 0


@pytest.mark.parametrize("name, c, f", [("c", True, False), ("fortran", False, True), ("transposed", False, False),
                                        ("sliced", False, False), ("reversed", False, False), ("scalar", True, True),
                                        ("empty", True, True), ("one", True, True), ("new_axes", True, False),
                                        ("offset", True, True)])
def test_pitfall_32_contiguity(accepts, refuses, name, c, f):
    source = numpy_layouts()[name]
    assert source.flags.c_contiguous == c or name in ("one", "new_axes")
    for require, meets in (("C_CONTIGUOUS", c), ("F_CONTIGUOUS", f), ("CONTIGUOUS", c or f)):
        if meets:
            with accepts(source, require=require, **HOST):
                pass
        else:
            refuses("LayoutMismatchError", source, require=require, **HOST)


def test_numpy_arrays_that_are_read_only(accepts, refuses, probe):
    source = np.arange(3.0)
    source.flags.writeable = False
    with accepts(source, **HOST) as view:
        assert view.flags == probe.READONLY
    refuses("ReadOnlyAccessError", source, require="WRITABLE", **HOST)


def test_broadcast_arrays_are_asked_without_a_warning(accepts, refuses, probe):
    """NumPy warns whoever asks for a writable buffer of such an array; warnings are errors in this file."""
    for source in (np.broadcast_arrays(np.arange(3.0), np.zeros((2, 3)))[0], np.broadcast_to(np.arange(3.0), (2, 3))):
        with accepts(source, **HOST) as view:
            assert view.strides == (0, 1)
            assert np.array_equal(checks.read(view), source)
            assert view.flags == probe.READONLY
        refuses("ReadOnlyAccessError", source, require="WRITABLE", **HOST)
        refuses("LayoutMismatchError", source, require="NO_SELF_OVERLAP", **HOST)


def test_sliding_windows(accepts, refuses):
    source = np.lib.stride_tricks.sliding_window_view(np.arange(6.0), 3)
    with accepts(source, **HOST) as view:
        assert np.array_equal(checks.read(view), source)
    refuses("LayoutMismatchError", source, require="NO_SELF_OVERLAP", **HOST)


@pytest.mark.parametrize("offset, fits", [(0, True), (1, False), (4, False), (8, True)])
def test_alignment(accepts, refuses, offset, fits):
    block = np.zeros(64, "u1")
    start = -block.ctypes.data % 8 + offset
    source = block[start:start + 16].view("f8")
    if fits:
        with accepts(source, **HOST) as view:
            assert view.pointer % 8 == 0
        return
    refuses("LayoutMismatchError", source, match="aligned to 8 bytes", **HOST)
    with accepts(source, require="UNALIGNED_OK", **HOST) as view:
        assert view.pointer == source.ctypes.data


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">u8", ">c16", ">f2"])
def test_pitfall_08_foreign_byte_order(refuses, dtype):
    refuses("EndiannessDetectionError", np.zeros(3, dtype), **HOST)


@pytest.mark.parametrize("dtype", ["g", "G", "O", "U3", "S3"])
def test_types_without_a_data_type(refuses, dtype):
    refuses("UnknownDtypeError", np.zeros(3, dtype), **HOST)


@pytest.mark.parametrize("dtype", ["M8[s]", "m8[ns]", [("a", "M8[s]")]])
def test_types_that_numpy_does_not_export(refuses, dtype):
    """A reader of NumPy's own layout would say which type it is; the buffer protocol has only NumPy's refusal."""
    refusal = refuses(("UnknownDtypeError", "InterfaceNotImplementedError"), np.zeros(3, dtype), **HOST)
    if refusal.cause is not None:
        assert refusal.cause is ValueError


@pytest.mark.parametrize("dtype, name", [
    ([("a", "u1"), ("b", "<f8")], "V9"), (np.dtype([("a", "u1"), ("b", "<f8")], align=True), "V16"),
    ([("a", "<f4", (2, 3))], "V24"), ("V5", "V5"), ([("a", ">i4"), ("b", "S3")], "V7"),
    ([("a", [("b", "<i2")])], "V2")])
def test_pitfall_09_records_are_bytes_without_a_meaning(accepts, refuses, dtype, name):
    source = np.zeros((2, 3), dtype)
    refuses("DtypeMismatchError", source, **HOST)
    with accepts(source, require="UNUSUAL_DTYPE_OK WRITABLE", **HOST) as view:
        assert (view.dtype, view.shape, view.strides) == (name, (2, 3), (3, 1))


def test_pitfall_09_records_that_are_too_large(refuses):
    refuses("UnknownDtypeError", np.zeros(2, "V70000"), require="UNUSUAL_DTYPE_OK", **HOST)


def test_pitfall_03_fields_of_records(accepts, refuses):
    record = np.zeros(4, [("a", "<f4"), ("b", "<f4")])
    record["b"] = [1, 2, 3, 4]
    with accepts(record["b"], require="WRITABLE", **HOST) as view:
        assert view.strides == (2,)
        assert checks.read(view).tolist() == [1, 2, 3, 4]
    packed = np.zeros(4, [("a", "u1"), ("b", "<f4")])["b"]
    refusal = refuses("InvalidStridesError", packed, require="UNALIGNED_OK", **HOST)
    assert "5 bytes" in refusal.message


@pytest.mark.parametrize("make", [
    pytest.param(lambda mask: np.ma.array([1.0, 2.0, 3.0], mask=mask), id="masked_array"),
    pytest.param(lambda mask: type("Masked", (np.ma.MaskedArray,), {})([1.0, 2.0, 3.0], mask=mask), id="subclass"),
    pytest.param(lambda mask: np.ma.array(np.ma.array([0.0, 1.0, 2.0, 3.0]), mask=[0, *mask])[1:], id="part")])
def test_pitfall_06_masked_arrays(accepts, refuses, make):
    source = make([0, 1, 0])
    refusal = refuses("MaskedArrayError", source, **HOST)
    assert "mask" in refusal.message
    with accepts(source, require="MASK_OK", **HOST) as view:
        assert np.array_equal(view.mask, [False, True, False])
        assert view.pointer == source.ctypes.data


def test_pitfall_06_masked_arrays_without_a_mask(refuses, accepts):
    source = np.ma.array([1.0, 2.0])
    assert source.mask is np.ma.nomask
    refuses("MaskedArrayError", source, **HOST)
    with accepts(source, require="MASK_OK", **HOST) as view:
        assert not np.any(view.mask)
    with accepts(source.data, **HOST), accepts(source.filled(), **HOST):
        pass


@pytest.mark.parametrize("library, dtype", [("ml_dtypes", "bfloat16"), ("ml_dtypes", "float8_e4m3fn")])
def test_pitfall_07_types_that_numpy_learned_from_others(refuses, library, dtype):
    module = checks.need(library)
    refuses(("InterfaceNotImplementedError", "UnknownDtypeError"), np.zeros(3, getattr(module, dtype)), **HOST)


# ----------------------------------------------------------------------------------------------------- other libraries


def test_pyarrow_buffers(accepts, refuses, probe):
    pyarrow = checks.need("pyarrow")
    source = pyarrow.array([1, 2, 3], type=pyarrow.int64()).buffers()[1]
    with accepts(source, **HOST) as view:
        assert view.flags == (probe.READONLY if memoryview(source).readonly else 0)
        assert checks.read(view).view("i8")[:3].tolist() == [1, 2, 3]
    with accepts(pyarrow.py_buffer(b"abc"), **HOST) as view:
        assert view.flags == probe.READONLY
    refuses("ReadOnlyAccessError", pyarrow.py_buffer(b"abc"), require="WRITABLE", **HOST)
    with accepts(pyarrow.allocate_buffer(16), require="WRITABLE", **HOST) as view:
        assert view.shape == (16,)


def test_pyarrow_tensors(accepts):
    pyarrow = checks.need("pyarrow")
    values = np.arange(6, dtype="f4").reshape(2, 3)
    for part in (values, values.T):
        with accepts(pyarrow.Tensor.from_numpy(part), **HOST) as view:
            assert view.dtype == "float32"
            assert np.array_equal(checks.read(view), part)


def test_pyarrow_arrays_export_no_buffer_and_come_by_dlpack(accepts, probe):
    pyarrow = checks.need("pyarrow")
    with accepts(pyarrow.array([1, 2, 3], type=pyarrow.int32()), **HOST) as view:
        assert view.protocol == probe.VIA_DLPACK


# ----------------------------------------------------------------------------------------- exporters that go their way

VALUES = np.arange(6, dtype="f4")


def exporter(**fields):
    return buffers.Exporter(**{"pointer": VALUES.ctypes.data, "shape": (6,), **fields})


def test_the_buffer_is_asked_for_without_write_access_and_released_once(accepts):
    source = exporter()
    with accepts(source, require="WRITABLE", **HOST) as view:
        assert np.array_equal(checks.read(view), VALUES)
        assert source.releases == 0
    assert source.releases == 1
    (flags,) = source.asked
    assert not flags & buffers.PyBUF_WRITABLE


@pytest.mark.parametrize("format_, itemsize, dtype", [
    (None, 1, "uint8"), (b"B", 1, "uint8"), (b"@f", 4, "float32"), (b"=f", 4, "float32"), (b"<f", 4, "float32"),
    (b"@l", 8, "int64"), (b"=l", 4, "int32"), (b"<L", 4, "uint32"), (b"<q", 8, "int64"), (b"e", 2, "float16"),
    (b"Zf", 8, "complex64"), (b"Zd", 16, "complex128"), (b"<Zf", 8, "complex64"), (b">B", 1, "uint8"),
    (b">?", 1, "bool"), (b"!b", 1, "int8"), (b"n", 8, "int64"), (b"N", 8, "uint64")])
def test_formats(accepts, format_, itemsize, dtype):
    with accepts(exporter(shape=(1,), format=format_, itemsize=itemsize), **HOST) as view:
        assert view.dtype == dtype


@pytest.mark.parametrize("format_, itemsize", [(b">f", 4), (b"!i", 4), (b">Zd", 16), (b">e", 2)])
def test_formats_of_foreign_byte_order(refuses, format_, itemsize):
    source = exporter(shape=(1,), format=format_, itemsize=itemsize)
    refuses("EndiannessDetectionError", source, match=format_.decode(), **HOST)
    assert source.releases == 1


@pytest.mark.parametrize("format_, itemsize", [
    (b"", 4), (b"<", 4), (b"k", 4), (b"f4", 4), (b"<<f", 4), (b" f", 4), (b"%s%n", 4), (b"\xff", 4),
    (b"f", 8), (b"f", 0), (b"f", -4), (None, 4), (b"B", 2), (b"l", 4), (b"=l", 8), (b"Zf", 16), (b"~", 1)])
def test_formats_that_do_not_parse_or_do_not_fit_the_items(refuses, format_, itemsize):
    source = exporter(shape=(1,), format=format_, itemsize=itemsize)
    refuses("InvalidTypestrError", source, **HOST)
    assert source.releases == 1


@pytest.mark.parametrize("format_, itemsize", [
    (b"c", 1), (b"s", 1), (b"5s", 5), (b"p", 1), (b"P", 8), (b"O", 8), (b"w", 4), (b"3w", 12), (b"u", 2), (b"g", 16),
    (b"Zg", 32), (b"&f", 8), (b"X{}", 8), (b"t", 1)])
def test_formats_without_a_data_type(refuses, format_, itemsize):
    source = exporter(shape=(1,), format=format_, itemsize=itemsize)
    refuses("UnknownDtypeError", source, require="UNUSUAL_DTYPE_OK", **HOST)
    assert source.releases == 1


@pytest.mark.parametrize("format_, itemsize", [(b"T{f:a:i:b:}", 8), (b"3f", 12), (b"(2,3)f", 24), (b"4x", 4),
                                               (b"T{}", 1)])
def test_formats_of_records(accepts, refuses, format_, itemsize):
    fields = {"shape": (1,), "format": format_, "itemsize": itemsize}
    refuses("DtypeMismatchError", exporter(**fields), **HOST)
    with accepts(exporter(**fields), require="UNUSUAL_DTYPE_OK", **HOST) as view:
        assert view.dtype == f"V{itemsize}"


def test_strides_of_null_are_c_contiguous(accepts):
    with accepts(exporter(shape=(2, 3)), require="C_CONTIGUOUS", **HOST) as view:
        assert view.strides == (3, 1)
        assert np.array_equal(checks.read(view), VALUES.reshape(2, 3))


@pytest.mark.parametrize("shape, strides", [((1, 3), (7, 4)), ((3, 1), (4, -9)), ((1,), (3,))])
def test_pitfall_31_strides_of_extent_one_mean_nothing(accepts, shape, strides):
    with accepts(exporter(shape=shape, strides=strides), require="C_CONTIGUOUS", **HOST) as view:
        assert view.shape == shape


def test_negative_and_zero_strides(accepts):
    source = exporter(pointer=VALUES.ctypes.data + 20, shape=(2, 3), strides=(0, -4))
    with accepts(source, **HOST) as view:
        assert checks.read(view).tolist() == [[5, 4, 3]] * 2


@pytest.mark.parametrize("fields, error", [
    pytest.param({"pointer": None}, "IncompleteInterfaceError", id="null_with_elements"),
    pytest.param({"ndim": -1}, "InvalidShapeError", id="ndim_negative"),
    pytest.param({"ndim": 65}, "InvalidShapeError", id="ndim_65"),
    pytest.param({"ndim": 2**31 - 1}, "InvalidShapeError", id="ndim_highest"),
    pytest.param({"shape": (-1,)}, "InvalidShapeError", id="extent_negative"),
    pytest.param({"shape": (2**62, 2)}, "InvalidShapeError", id="too_many_bytes"),
    pytest.param({"shape": (2**33, 2**33)}, "InvalidShapeError", id="too_many_elements"),
    pytest.param({"shape": (3,), "strides": (2**62,)}, "InvalidStridesError", id="stride_reaches_too_far"),
    pytest.param({"shape": (2,), "strides": (-2**63,)}, "InvalidStridesError", id="stride_lowest"),
    pytest.param({"shape": (2,), "strides": (6,)}, "InvalidStridesError", id="stride_is_no_multiple"),
])
def test_pitfall_31_buffers_that_make_no_sense(refuses, fields, error):
    source = exporter(**{"length": 24, **fields})
    refuses(error, source, **HOST)
    assert source.releases == 1


def test_up_to_64_dimensions(accepts):
    with accepts(exporter(shape=(1,) * 63 + (6,)), **HOST) as view:
        assert np.array_equal(checks.read(view).ravel(), VALUES)


def test_zero_dimensions(accepts):
    for fields in ({}, {"null_shape": True}, {"strides": ()}):
        with accepts(exporter(shape=(), **fields), ndim=-1, **HOST) as view:
            assert (view.shape, view.size) == ((), 1)


@pytest.mark.parametrize("pointer", [None, 3])
def test_pitfall_01_empty_buffers_take_any_pointer(accepts, pointer):
    with accepts(exporter(pointer=pointer, shape=(0, 3)), **HOST) as view:
        assert (view.pointer, view.shape) == (0, (0, 3))


def test_pitfall_35_read_only_buffers(accepts, refuses, probe):
    with accepts(exporter(readonly=True), **HOST) as view:
        assert view.flags == probe.READONLY
    refuses("ReadOnlyAccessError", exporter(readonly=True), require="WRITABLE", **HOST)


def test_negative_suboffsets_are_none(accepts):
    with accepts(exporter(shape=(2, 3), strides=(12, 4), suboffsets=(-1, -1)), **HOST) as view:
        assert np.array_equal(checks.read(view), VALUES.reshape(2, 3))


@pytest.mark.parametrize("suboffsets", [(0,), (8,)])
def test_suboffsets_that_were_not_asked_for(refuses, suboffsets):
    source = exporter(suboffsets=suboffsets)
    refuses(("LayoutMismatchError", "InvalidStridesError", "IncompleteInterfaceError"), source, **HOST)


def test_suboffsets_that_the_exporter_holds_back(refuses):
    tests = pytest.importorskip("_testbuffer", reason="this Python has no test modules")
    source = tests.ndarray([1, 2, 3, 4], shape=[2, 2], format="i", flags=tests.ND_WRITABLE | tests.ND_PIL)
    assert memoryview(source).suboffsets == (0, -1)
    refuses("InterfaceNotImplementedError", source, cause=BufferError, **HOST)


def test_pythons_own_exporter_of_every_layout(accepts):
    tests = pytest.importorskip("_testbuffer", reason="this Python has no test modules")
    for shape, flags in (([6], 0), ([2, 3], 0), ([2, 3], tests.ND_FORTRAN), ([1, 6], tests.ND_WRITABLE),
                         ([3, 1, 2], 0)):
        source = tests.ndarray(list(range(6)), shape=shape, format="i", flags=flags)
        with accepts(source, **HOST) as view:
            assert checks.read(view).tolist() == source.tolist()


def test_pythons_own_exporter_that_fails(refuses):
    tests = pytest.importorskip("_testbuffer", reason="this Python has no test modules")
    source = tests.ndarray([1], shape=[1], format="i", flags=tests.ND_GETBUF_FAIL)
    refuses("InterfaceNotImplementedError", source, cause=BufferError, **HOST)


def test_one_dimension_without_a_shape(probe):
    """memoryview takes such a buffer for one dimension of len / itemsize. In a process of its own: it may crash."""
    code = f"""
import buffers, numpy, {probe.__name__} as probe
values = numpy.zeros(6, 'f4')
try:
    probe.acquire(buffers.Exporter(values.ctypes.data, (6,), null_shape=True), 'none', dict(memory=probe.ON_HOST))
except probe.CAIError:
    pass
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


def test_pitfall_37_releasing_a_buffer_leaves_a_pending_exception_alone(probe):
    def noisy():
        try:
            raise LookupError("handled")
        except LookupError:
            pass

    source = exporter(on_release=noisy)
    view = probe.acquire(source, "adopt", {"memory": probe.ON_HOST})
    _, refusal = checks.catch(view.release_raising, ValueError("pending"))
    assert (refusal.type, refusal.message, refusal.causes) == (ValueError, "pending", [])
    assert source.releases == 1


def test_pitfall_37_nor_does_a_refusal(refuses):
    def noisy():
        try:
            raise LookupError("handled")
        except LookupError:
            pass

    for request_, error in (({"ndim": 5}, "InvalidShapeError"), ({"dtype": "int8"}, "DtypeMismatchError")):
        source = exporter(on_release=noisy)
        refuses(error, source, **request_, **HOST)
        assert source.releases == 1


# ------------------------------------------------------------------------------------------------------ pinned memory


def pinned(probe):
    if probe.__name__ == "probe_host":
        pytest.skip("without CUDA no memory is known to be pinned")
    pointer = emulated.allocate(24, "pinned")
    emulated.write(pointer, VALUES.tobytes())
    return (ctypes.c_float * 6).from_address(pointer)


def test_pitfall_39_buffers_over_pinned_memory(accepts, refuses, probe):
    source = np.ctypeslib.as_array(pinned(probe))
    with accepts(source, memory="ON_PINNED") as view:
        assert view.device == (CUDA_HOST, 0)
        assert np.array_equal(checks.read(view), VALUES)
    with accepts(source, memory="ON_HOST") as view:
        assert np.array_equal(checks.read(view), VALUES)
    refuses("DeviceMismatchError", np.zeros(3), memory="ON_PINNED", match="host")
    refuses("DeviceMismatchError", np.zeros(3), memory="ON_PINNED ON_CUDA")


def test_a_buffer_that_cannot_be_read_does_not_hide_another_protocol(accepts, probe):
    values = np.arange(6, dtype="f4")
    kind = type("Both", (buffers.Exporter,), {"__dlpack__": lambda self, **keywords: values.__dlpack__(**keywords),
                                              "__dlpack_device__": lambda self: values.__dlpack_device__()})
    for fields in ({"format": b"O"}, {"format": b""}, {"format": b">f"}, {"ndim": 65}, {"strides": (6,)}):
        source = kind(**{"pointer": VALUES.ctypes.data, "shape": (6,), "length": 24, **fields})
        with accepts(source, **HOST) as view:
            assert view.protocol == probe.VIA_DLPACK
            assert source.releases == 1
            assert np.array_equal(checks.read(view), values)


def test_the_first_of_two_failures_is_raised(refuses):
    kind = type("Both", (buffers.Exporter,), {"__dlpack__": lambda self, **keywords: None,
                                              "__dlpack_device__": lambda self: (CPU, 0)})
    source = kind(VALUES.ctypes.data, (6,), format=b"O")
    refuses("UnknownDtypeError", source, **HOST)


def test_a_format_of_pointers_to_pointers_is_read_to_a_limit(probe):
    source = buffers.Exporter(np.zeros(4).ctypes.data, (4,), b"&" * 1000000 + b"f", 8)
    with pytest.raises(probe.InvalidTypestrError):
        probe.acquire(source, "adopt", checks.fields(probe, {"memory": "ON_HOST"}))
