"""NumPy's own arrays, read by their C layout: they say what NumPy says of them, and what the buffer protocol would say."""

import ctypes
import gc
import sys
import tracemalloc
import types
import warnings

import numpy as np
import pytest

import checks
import children
import emulated
from dlpack import CPU

pytestmark = pytest.mark.filterwarnings("error")

HOST = {"memory": "ON_HOST", "require": "UNALIGNED_OK"}
PROBES = ["probe", "probe_host"] if sys.version_info < (3, 11) else ["probe", "probe_limited", "probe_host"]
CORES = ["numpy._core._multiarray_umath", "numpy.core._multiarray_umath"]
LAYOUT_IS_READ = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(params=PROBES)
def probe(request):
    return checks.load(request.param)


NAMES = {"?": "bool", "b": "int8", "B": "uint8", "h": "int16", "H": "uint16", "i": "int32", "I": "uint32", "l": "int64",
         "L": "uint64", "q": "int64", "Q": "uint64", "e": "float16", "f": "float32", "d": "float64", "F": "complex64",
         "D": "complex128"}

LAYOUTS = {
    "dense": lambda dtype: np.zeros((3, 4), dtype),
    "zero dimensions": lambda dtype: np.zeros((), dtype),
    "one element": lambda dtype: np.zeros((1,), dtype),
    "vector": lambda dtype: np.zeros(7, dtype),
    "eight dimensions": lambda dtype: np.zeros((1, 2, 1, 2, 3, 1, 2, 1), dtype),
    "thirty-two dimensions": lambda dtype: np.zeros((1,) * 30 + (2, 3), dtype),
    "fortran": lambda dtype: np.zeros((3, 4), dtype, order="F"),
    "transposed": lambda dtype: np.zeros((2, 3, 4), dtype).transpose(1, 0, 2),
    "every second": lambda dtype: np.zeros((6, 8), dtype)[::2, ::2],
    "backwards": lambda dtype: np.zeros((3, 4), dtype)[::-1, ::-1],
    "one row": lambda dtype: np.zeros((3, 4), dtype)[1:2],
    "one column": lambda dtype: np.zeros((3, 4), dtype)[:, 1:2],
    "one row backwards": lambda dtype: np.zeros((3, 4), dtype)[1:2][::-1],
    "broadcast": lambda dtype: np.broadcast_to(np.zeros(4, dtype), (3, 4)),
    "windows": lambda dtype: np.lib.stride_tricks.sliding_window_view(np.zeros(8, dtype), 3),
    "new axes": lambda dtype: np.zeros((3, 4), dtype)[:, None, :, None],
    "empty": lambda dtype: np.zeros((0,), dtype),
    "empty within": lambda dtype: np.zeros((3, 0, 4), dtype),
    "empty slice": lambda dtype: np.zeros((3, 4), dtype)[3:, ::2],
    "read-only": lambda dtype: locked(np.zeros((3, 4), dtype)),
    "misaligned": lambda dtype: np.frombuffer(bytearray(1 + 12 * np.dtype(dtype).itemsize), dtype, 12, offset=1),
    "of a record": lambda dtype: np.zeros(5, [("a", dtype), ("b", dtype)])["b"],
}


def locked(array):
    array.flags.writeable = False
    return array


def kept_by_numpy(probe, arrays):
    """Bytes per array that stay with NumPy when arrays have been read: for the buffer protocol it keeps their shape and
    format as long as they live."""
    request = {"memory": probe.ON_HOST}
    probe.acquire(arrays[0], "adopt", request).release()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for array in arrays[1:]:
            assert probe.acquire(array, "adopt", request).release() == "OK"
        return (tracemalloc.get_traced_memory()[0] - before) / (len(arrays) - 1)
    finally:
        tracemalloc.stop()


def is_read_by_layout(probe):
    """Whether the probe, which may meet NumPy for the first time, reads arrays without asking NumPy."""
    return kept_by_numpy(probe, [np.zeros((2, 3), "f4") for _ in range(50)]) < 30


# ---------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("code", NAMES)
def test_what_numpy_says(accepts, probe, layout, code):
    source = LAYOUTS[layout](code)
    with accepts(source, **HOST) as view:
        assert (view.dtype, view.shape, view.size) == (NAMES[code], source.shape, source.size)
        assert (view.device, view.stream, view.protocol) == ((CPU, 0), 0, probe.VIA_BUFFER)
        assert view.pointer == (source.ctypes.data if source.size > 0 else 0)
        assert view.flags == (0 if source.flags.writeable else probe.READONLY)
        if source.size > 0:
            assert [stride * source.itemsize for stride, extent in zip(view.strides, view.shape) if extent > 1] == [
                stride for stride, extent in zip(source.strides, source.shape) if extent > 1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("code", NAMES)
def test_what_the_buffer_protocol_says(probe, layout, code):
    """A memoryview has no layout that anybody could read, so that it comes by the buffer protocol."""
    source = LAYOUTS[layout](code)
    request = checks.fields(probe, HOST)
    views = [probe.acquire(item, "adopt", request) for item in (source, memoryview(source))]
    direct, asked = [view.describe() for view in views]
    for described in (direct, asked):
        described["strides"] = [n for n, extent in zip(described["strides"], described["shape"]) if extent > 1]
    assert direct == asked or source.size == 0
    assert [view.release() for view in views] == ["OK", "OK"]


@pytest.mark.parametrize("require", ["C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS", "WRITABLE", "NONEMPTY",
                                     "NO_SELF_OVERLAP", "NO_NEGATIVE_STRIDES", ""])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_requests_are_met_and_refused_as_by_the_buffer_protocol(probe, layout, require):
    source = LAYOUTS[layout]("f4")
    request = checks.fields(probe, {"memory": "ON_HOST", "require": require})
    outcomes = []
    for item in (source, memoryview(source)):
        view, refusal = checks.catch(probe.acquire, item, "adopt", request)
        outcomes.append(view.release() if refusal is None else
                        (refusal.type, refusal.message.replace("memoryview via", "numpy.ndarray via")))
    assert outcomes[0] == outcomes[1]


@pytest.mark.skipif(not LAYOUT_IS_READ, reason="without a GIL arrays may change while they are read")
def test_numpy_is_not_asked_and_keeps_nothing(probe):
    """The buffer protocol would leave a description of each array with NumPy, until the array dies."""
    assert is_read_by_layout(probe)
    assert kept_by_numpy(probe, [np.zeros((2, 3), "f4").view(np.recarray) for _ in range(50)]) < 30
    assert kept_by_numpy(probe, [np.zeros((2, 3), "f4").view(Doubtful) for _ in range(50)]) > 60


class Doubtful(np.ndarray):
    """Might be an Array, which goes before all buffers, so that its buffer is asked for when it turns out to be none."""

    _capsule = None


class Derived(np.ndarray):
    pass


@pytest.mark.parametrize("code", NAMES)
@pytest.mark.parametrize("kind", [Derived, Doubtful], ids=["derived", "doubtful"])
def test_subclasses_are_read_as_numpys_own_arrays_are(probe, kind, code):
    request = checks.fields(probe, HOST)
    for name, make in LAYOUTS.items():
        source = make(code)
        derived = source.view(kind)
        views = [probe.acquire(item, "adopt", request) for item in (source, derived)]
        exact, seen = [view.describe() for view in views]
        for described in (exact, seen):
            described["strides"] = [n for n, extent in zip(described["strides"], described["shape"]) if extent > 1]
        assert exact == seen or source.size == 0, name
        assert sys.getrefcount(derived) > 2
        assert [view.release() for view in views] == ["OK", "OK"]
        assert sys.getrefcount(derived) == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes can define __buffer__ since Python 3.12")
def test_a_subclass_of_one_with_a_buffer_of_its_own(accepts):
    class Other(np.ndarray):
        def __buffer__(self, flags):
            return memoryview(np.arange(5, dtype="i2"))

    class Further(Other):
        pass

    for _ in range(2):
        with accepts(np.zeros(3, "f4").view(Further), **HOST) as view:
            assert (view.dtype, view.shape) == ("int16", (5,))


def test_a_layout_that_changes_in_place_is_read_as_it_is_now(accepts):
    source = np.arange(12.0)
    for shape in ((12,), (3, 4), (2, 6), (2, 2, 3)):
        source = source.reshape(shape)
        with accepts(source, **HOST) as view:
            assert view.shape == shape
    source.flags.writeable = False
    with accepts(source, **HOST) as view:
        assert view.flags != 0


def test_a_view_keeps_numpy_from_resizing_in_place(probe):
    source = np.zeros(4)
    view = probe.acquire(source, "adopt", {"memory": probe.ON_HOST})
    with pytest.raises(ValueError, match="references"):
        source.resize(4000)
    assert view.release() == "OK"


# ------------------------------------------------------------------------------------------------------ read-only


def test_results_of_broadcast_arrays_are_read_only_and_numpy_does_not_warn(accepts, refuses, probe):
    """They are marked writable and to be warned of; who writes to one writes to several elements."""
    source = np.broadcast_arrays(np.zeros(4, "f4"), np.zeros((3, 1), "f4"))[0]
    with accepts(source, **HOST) as view:
        assert view.flags == probe.READONLY
    refuses("ReadOnlyAccessError", source, memory="ON_HOST", require="WRITABLE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.flags.writeable = True  # its owner insists
    with accepts(source, memory="ON_HOST", require="WRITABLE") as view:
        assert view.flags == 0


def test_read_only_arrays_are_no_outputs(refuses):
    refuses("ReadOnlyAccessError", locked(np.zeros(3)), memory="ON_HOST", require="WRITABLE")


# --------------------------------------------------------------------------- what is left to the buffer protocol


@pytest.mark.parametrize("code", ["i2", "i4", "i8", "u2", "f2", "f4", "f8", "c8", "c16"])
def test_pitfall_08_a_foreign_byte_order_has_the_same_type_number(accepts, refuses, code):
    foreign, native = ("><" if sys.byteorder == "little" else "<>")
    assert np.dtype(foreign + code).num == np.dtype(native + code).num
    refuses("EndiannessDetectionError", np.zeros(3, foreign + code), **HOST)
    with accepts(np.zeros(3, native + code), **HOST) as view:
        assert view.dtype == np.dtype(code).name


@pytest.mark.parametrize("dtype, error", [
    ("g", "UnknownDtypeError"), ("G", "UnknownDtypeError"), ("O", "UnknownDtypeError"), ("U3", "UnknownDtypeError"),
    ("S3", "UnknownDtypeError"), ([("a", "f4")], "DtypeMismatchError"), ("V4", "DtypeMismatchError"),
    ("M8[s]", "InterfaceNotImplementedError"), ("m8[ns]", "InterfaceNotImplementedError")])
def test_what_is_no_plain_number(refuses, dtype, error):
    refuses(error, np.zeros(3, dtype), **HOST)


def test_pitfall_09_records_are_read_where_they_are_asked_for(accepts):
    with accepts(np.zeros(3, [("a", "<f4"), ("b", "u1")]), memory="ON_HOST", require="UNUSUAL_DTYPE_OK") as view:
        assert view.dtype == "V5"


def test_types_of_other_packages(probe):
    ml_dtypes = checks.need("ml_dtypes")
    view, refusal = checks.catch(probe.acquire, np.zeros(3, ml_dtypes.bfloat16), "adopt", {"memory": probe.ON_HOST})
    assert view is None
    assert issubclass(refusal.type, probe.CAIError)


@pytest.mark.skipif(not hasattr(np.dtypes if hasattr(np, "dtypes") else np, "StringDType"),
                    reason="NumPy has strings of variable length since 2.0")
def test_types_whose_number_is_no_index(refuses):
    refuses(("UnknownDtypeError", "InterfaceNotImplementedError"), np.zeros(3, np.dtypes.StringDType()), **HOST)


def test_dtypes_with_metadata_are_plain(accepts):
    with accepts(np.zeros(3, np.dtype("f4", metadata={"unit": "m"})), **HOST) as view:
        assert view.dtype == "float32"


def test_pitfall_03_strides_that_are_no_multiple_of_the_item_size(refuses, accepts):
    packed = np.zeros(4, [("a", "u1"), ("b", "<f4")])["b"]
    assert "5 bytes" in refuses("InvalidStridesError", packed, **HOST).message
    with accepts(packed[:1], **HOST) as view:  # of one element the stride means nothing
        assert view.shape == (1,)


@pytest.mark.parametrize("make", [
    pytest.param(lambda: np.zeros((2, 3), "f4").view(np.matrix), id="matrix"),
    pytest.param(lambda: np.zeros((2, 3), "f4").view(np.recarray), id="recarray"),
    pytest.param(lambda: np.zeros((2, 3), "f4").view(type("Own", (np.ndarray,), {})), id="own"),
    pytest.param(lambda: np.zeros((2, 3), "f4").view(type("ndarray", (np.ndarray,), {"__module__": "numpy"})),
                 id="namesake")])
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_subclasses_are_arrays_too(accepts, make):
    source = make()
    with accepts(source, **HOST) as view:
        assert (view.dtype, view.shape, view.pointer) == ("float32", (2, 3), source.ctypes.data)


def test_memory_maps(accepts, tmp_path):
    source = np.memmap(tmp_path / "file", "f4", "w+", shape=(2, 3))
    with accepts(source, memory="ON_HOST", require="WRITABLE") as view:
        assert view.pointer == source.ctypes.data


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes can define __buffer__ since Python 3.12")
def test_a_subclass_may_have_a_buffer_of_its_own(accepts):
    class Other(np.ndarray):
        def __buffer__(self, flags):
            return memoryview(np.arange(5, dtype="i2"))

    with accepts(np.zeros(3, "f4").view(Other), **HOST) as view:
        assert (view.dtype, view.shape) == ("int16", (5,))


def test_pitfall_06_masked_arrays_are_no_exact_arrays(accepts, refuses):
    with accepts(np.zeros(3), **HOST):
        pass
    refuses("MaskedArrayError", np.ma.array([1.0, 2.0], mask=[0, 1]), **HOST)


# --------------------------------------------------------------------------------------------------- the request


def test_the_request_for_the_buffer_protocol_includes_numpy(accepts, refuses, probe):
    with accepts(np.zeros(3), protocols="VIA_BUFFER", **HOST) as view:
        assert view.protocol == probe.VIA_BUFFER
    refuses("InterfaceNotImplementedError", np.zeros(3), protocols="VIA_CUDA_ARRAY_INTERFACE", **HOST)


@pytest.mark.parametrize("memory", ["ON_CUDA", "ON_CUDA ON_MANAGED"])
def test_host_memory_has_to_be_asked_for(refuses, memory):
    assert "host" in refuses("DeviceMismatchError", np.zeros(3), memory=memory).message


def test_pinned_memory_is_found_by_its_address(probe):
    if probe.__name__ == "probe_host":
        pytest.skip("without CUDA no memory is known to be pinned")
    pointer = emulated.allocate(16, "pinned", 0)
    source = np.frombuffer((ctypes.c_char * 16).from_address(pointer), "f4")
    assert type(source) is np.ndarray
    view = probe.acquire(source, "none", {"memory": probe.ON_PINNED})
    assert view.describe()["pointer"] == pointer
    assert view.release() == "OK"
    emulated.free(pointer, "pinned")
    with pytest.raises(probe.DeviceMismatchError):
        probe.acquire(np.zeros(4, "f4"), "none", {"memory": probe.ON_PINNED})


# --------------------------------------------------------------------------------------------------- whose type it is


def capsule(table, name=None):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return new(ctypes.cast(table, ctypes.c_void_p), name, None)


def forged(version, array_type=np.ndarray, name=None):
    """A table like NumPy's, with a version of its own; and what it needs to live."""
    function = ctypes.CFUNCTYPE(ctypes.c_uint)(lambda: version)
    table = (ctypes.c_void_p * 3)(ctypes.cast(function, ctypes.c_void_p), None, id(array_type))
    return types.SimpleNamespace(_ARRAY_API=capsule(table, name), keep=(function, table))


NAMED = ctypes.create_string_buffer(b"numpy.table")


@pytest.mark.skipif(not LAYOUT_IS_READ, reason="without a GIL arrays may change while they are read")
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("version", [0x01000009, 0x02000000])
def test_versions_of_the_layout_that_are_known(probe, monkeypatch, core, version):
    for name in CORES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, core, forged(version))
    assert is_read_by_layout(probe)


@pytest.mark.parametrize("forge", [
    pytest.param(lambda: forged(0x01000008), id="older"), pytest.param(lambda: forged(0x0100000A), id="newer 1"),
    pytest.param(lambda: forged(0x02000001), id="newer 2"), pytest.param(lambda: forged(0x03000000), id="version 3"),
    pytest.param(lambda: forged(0), id="version 0"),
    pytest.param(lambda: forged(0x02000000, np.matrix), id="another type"),
    pytest.param(lambda: forged(0x02000000, name=ctypes.addressof(NAMED)), id="another capsule"),
    pytest.param(lambda: types.SimpleNamespace(_ARRAY_API=None), id="none"),
    pytest.param(lambda: types.SimpleNamespace(_ARRAY_API=7), id="no capsule"),
    pytest.param(lambda: types.SimpleNamespace(), id="no table"),
    pytest.param(lambda: None, id="no module")])
def test_layouts_that_are_not_known_are_not_read(accepts, probe, monkeypatch, forge):
    module = forge()
    for name in CORES:
        monkeypatch.setitem(sys.modules, name, module)
    source = np.arange(6, dtype="f4").reshape(2, 3)
    with accepts(source, **HOST) as view:
        assert (view.dtype, view.shape, view.protocol) == ("float32", (2, 3), probe.VIA_BUFFER)
        assert checks.read(view).tolist() == source.tolist()
    assert not is_read_by_layout(probe)


@pytest.mark.parametrize("error, raised", [(KeyboardInterrupt, True), (MemoryError, True), (RuntimeError, False)])
def test_exceptions_on_the_way_to_the_table(probe, monkeypatch, error, raised):
    class Module:
        def __getattr__(self, name):
            raise error

    for name in CORES:
        monkeypatch.setitem(sys.modules, name, Module())
    view, refusal = checks.catch(probe.acquire, np.zeros(3), "adopt", {"memory": probe.ON_HOST})
    assert (view is None) == raised
    if raised:
        assert refusal.type is error
    else:
        assert view.release() == "OK"


class Pretender(bytearray):
    """A buffer that calls itself numpy.ndarray."""


Pretender.__name__ = Pretender.__qualname__ = "ndarray"
Pretender.__module__ = "numpy"


def test_another_module_by_the_name_of_numpy(accepts, monkeypatch):
    fake = types.ModuleType("numpy")
    fake.ndarray = Pretender
    monkeypatch.setitem(sys.modules, "numpy", fake)
    with accepts(Pretender(b"abc"), memory="ON_HOST") as view:
        assert (view.dtype, view.shape) == ("uint8", (3,))


def test_numpy_may_be_imported_after_the_first_array():
    children.run("""
        import sys
        import probe
        request = {"memory": probe.ON_HOST}
        assert probe.acquire(bytearray(4), "adopt", request).release() == "OK"
        assert not [name for name in sys.modules if name.startswith("numpy")]
        import numpy
        view = probe.acquire(numpy.zeros((2, 3), "f4"), "adopt", request)
        described = view.describe()
        assert (described["dtype"], described["shape"]) == ("float32", (2, 3))
        assert view.release() == "OK"
    """)


# --------------------------------------------------------------------------------------------------- what is left


def test_reference_counts_are_unchanged(probe, unchanged):
    source = np.zeros((2, 3), "f4")
    probe.acquire(source, "adopt", {"memory": probe.ON_HOST}).release()  # the module keeps the types that it has seen
    with unchanged(source, source.dtype, np.ndarray):
        for _ in range(3):
            view = probe.acquire(source, "adopt", {"memory": probe.ON_HOST})
            assert (view.release(), view.release()) == ("OK", "OK")
            with pytest.raises(probe.InvalidShapeError):
                probe.acquire(source, "adopt", {"memory": probe.ON_HOST, "ndim": 7})
        del view


def test_the_view_may_hold_the_last_reference(probe):
    """What an array's end runs does not see, and does not lose, the exception that is set."""
    seen = []

    class Owner:
        def __init__(self):
            self.__array_interface__ = np.zeros(4, "f4").__array_interface__
            self.memory = np.zeros(4, "f4")
            self.__array_interface__["data"] = (self.memory.ctypes.data, False)

        def __del__(self):
            seen.append(sys.exc_info()[0])

    source = np.asarray(Owner())
    assert type(source) is np.ndarray
    view = probe.acquire(source, "adopt", {"memory": probe.ON_HOST})
    del source
    gc.collect()
    assert seen == []
    assert view.release() == "OK"
    assert seen == [None]
