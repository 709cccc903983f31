"""Arrays of real libraries in host memory: where they lie, what they hold, what may be written, what is refused."""

import array
import ctypes
import gc
import mmap
import sys
import types

import numpy as np
import pytest

import checks
import emulated
import probe
from checks import need

HOST = {"memory": probe.ON_HOST}
EXCHANGE, BUFFER, DLPACK = probe.VIA_EXCHANGE, probe.VIA_BUFFER, probe.VIA_DLPACK


@pytest.fixture(autouse=True)
def no_cuda_call():
    """Host arrays make no CUDA call, whoever made them."""
    emulated.clear_calls()
    yield
    assert emulated.call_names() == []


def description(given, order="adopt", **request):
    """What a view says, and the number of bytes that its elements span if they are contiguous."""
    view = probe.acquire(given, order, {**HOST, **request})
    described = types.SimpleNamespace(**view.describe())
    assert view.object() is given
    assert (described.device, described.stream) == ((probe.DEVICE_CPU, 0), 0)
    described.readonly = bool(described.flags & probe.READONLY)
    return described


def contents(given, itemsize=None):
    """The bytes that a C-contiguous array holds, read through the view's pointer while it is held."""
    view = probe.acquire(given, "adopt", {**HOST, "require": probe.C_CONTIGUOUS | probe.UNUSUAL_DTYPE_OK})
    described = view.describe()
    itemsize = itemsize or np.dtype(described["dtype"]).itemsize
    return ctypes.string_at(described["pointer"], described["size"] * itemsize) if described["size"] else b""


def values(given, **request):
    """The elements that a view describes, as nested lists, by pointer, shape and strides and nothing else."""
    view = probe.acquire(given, "adopt", {**HOST, **request})
    return checks.read(types.SimpleNamespace(**view.describe())).tolist()


def overwrite(given, value, **request):
    """Write a float32 or float64 to the first element, as a kernel would."""
    view = probe.acquire(given, "adopt", {**HOST, "require": probe.WRITABLE, **request})
    described = view.describe()
    kind = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int32": ctypes.c_int32}[described["dtype"]]
    kind.from_address(described["pointer"]).value = value


def refused(error, given, match=None, **request):
    with pytest.raises(getattr(probe, error), match=match) as raised:
        probe.acquire(given, "adopt", {**HOST, **request})
    assert "'x'" in str(raised.value)
    return raised.value


# --------------------------------------------------------------------------------------------------------------- NumPy

NUMPY_DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
                "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_numpy_dtypes(dtype):
    given = np.array([0, 1, 5, 100], dtype)
    view = description(given)
    assert (view.dtype, view.shape, view.strides, view.pointer) == (dtype, (4,), (1,), given.ctypes.data)
    assert not view.readonly
    assert contents(given) == given.tobytes()


NUMPY_LAYOUTS = {
    "scalar": lambda: np.array(7.0),
    "c": lambda: np.arange(24.0).reshape(2, 3, 4),
    "fortran": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": lambda: np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    "every-second": lambda: np.arange(20.0)[1::2],
    "reversed": lambda: np.arange(20.0)[::-1],
    "reversed-both": lambda: np.arange(20.0).reshape(4, 5)[::-2, ::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(3.0), (2, 3)),
    "column": lambda: np.arange(20.0).reshape(4, 5)[:, 2],
    "new-axes": lambda: np.arange(3.0)[None, :, None],
    "many-dimensions": lambda: np.arange(64.0).reshape((2,) * 6 + (1,) * 26),
    "empty": lambda: np.zeros((3, 0, 2)),
    "diagonal": lambda: np.arange(16.0).reshape(4, 4).diagonal(),
}


@pytest.mark.parametrize("layout", NUMPY_LAYOUTS)
def test_numpy_layouts(layout):
    given = NUMPY_LAYOUTS[layout]()
    view = description(given)
    assert view.shape == given.shape
    assert view.pointer == (given.ctypes.data if given.size else 0)
    assert values(given) == np.asarray(given).tolist()
    if given.size:
        assert [stride * 8 for stride, extent in zip(view.strides, given.shape) if extent > 1] == [
            stride for stride, extent in zip(given.strides, given.shape) if extent > 1]


@pytest.mark.parametrize("make", [
    lambda: np.arange(4.0), lambda: np.arange(4.0)[::2], lambda: np.rec.array(np.arange(4.0)),
    lambda: np.arange(4.0).view(type("Own", (np.ndarray,), {}))], ids=["array", "slice", "recarray", "subclass"])
def test_numpy_arrays_can_be_written(make):
    given = make()
    overwrite(given, 42.0)
    assert np.asarray(given).flat[0] == 42.0


@pytest.mark.parametrize("make", [
    lambda: np.broadcast_to(np.arange(3.0), (2, 3)), lambda: np.frombuffer(b"12345678"), lambda: np.float64(3),
    lambda: np.broadcast_arrays(np.arange(3.0), np.zeros((2, 3)))[0]],
    ids=["broadcast", "frombuffer", "scalar", "broadcast_arrays"])
def test_numpy_read_only_arrays_are_inputs_and_no_outputs(make):
    given = make()
    assert description(given).readonly
    refused("ReadOnlyAccessError", given, "writable.*read-only", require=probe.WRITABLE)


def test_numpy_read_only_flag_is_looked_at_each_time():
    given = np.arange(3.0)
    assert not description(given).readonly
    given.flags.writeable = False
    assert description(given).readonly
    refused("ReadOnlyAccessError", given, "read-only", require=probe.WRITABLE)
    given.flags.writeable = True
    assert not description(given, require=probe.WRITABLE).readonly


def test_numpy_memory_maps(tmp_path):
    given = np.memmap(tmp_path / "map", "f4", "w+", shape=(4,))
    overwrite(given, 5.0)
    assert given[0] == 5.0
    assert description(np.memmap(tmp_path / "map", "f4", "r", shape=(4,))).readonly


NUMPY_REFUSED = {
    "byte-order": (lambda: np.arange(3.0).view(np.dtype("f8").newbyteorder()), "EndiannessDetectionError",
                   "byte order"),
    "object": (lambda: np.array([object()]), "UnknownDtypeError", "O"),
    "masked": (lambda: np.ma.array([1.0, 2.0], mask=[0, 1]), "MaskedArrayError", "mask"),
    "masked-without-mask": (lambda: np.ma.array([1.0, 2.0]), "MaskedArrayError", "mask"),
    "record": (lambda: np.zeros(3, "i4,f4"), "DtypeMismatchError", "V8"),
    "bytes": (lambda: np.zeros(3, "S4"), "UnknownDtypeError", "4s"),
    "text": (lambda: np.zeros(3, "U4"), "UnknownDtypeError", "4w"),
    "long-double": (lambda: np.zeros(3, "g"), "UnknownDtypeError", "g"),
}


@pytest.mark.parametrize("case", NUMPY_REFUSED)
def test_numpy_arrays_that_are_refused(case):
    make, error, match = NUMPY_REFUSED[case]
    given = make()
    count = sys.getrefcount(given)
    refused(error, given, match)
    gc.collect()
    assert sys.getrefcount(given) == count


@pytest.mark.parametrize("unit", ["M8[s]", "m8[us]"])
def test_numpy_times_have_no_number_that_a_kernel_knows(unit):
    error = pytest.raises(probe.CAIError, probe.acquire, np.zeros(3, unit), "adopt", HOST)
    assert error.type in (probe.InterfaceNotImplementedError, probe.UnknownDtypeError)


def test_numpy_fields_and_strides_that_are_no_multiple():
    """pitfall 3: a field view whose stride is no multiple of the item size is refused, never divided."""
    records = np.zeros(3, np.dtype([("a", "u1"), ("b", "f4")]))
    refused("InvalidStridesError", records["b"], "multiple", require=probe.UNALIGNED_OK)
    even = np.zeros(3, np.dtype([("a", "i4"), ("b", "f4")]))
    assert description(even["b"]).strides == (2,)


def test_numpy_alignment():
    given = np.frombuffer(bytearray(17), "u1")[1:].view("f8")
    refused("LayoutMismatchError", given, "align")
    assert description(given, require=probe.UNALIGNED_OK).pointer == given.ctypes.data


@pytest.mark.parametrize("memory", ["ON_CUDA", "ON_PINNED", "ON_MANAGED"])
def test_numpy_arrays_are_in_no_other_memory(memory):
    with pytest.raises(probe.DeviceMismatchError, match="host"):
        probe.acquire(np.zeros(3), "adopt", {"memory": getattr(probe, memory)})
    emulated.clear_calls()  # whether the memory is pinned, CUDA is asked


def test_numpy_by_dlpack():
    given = np.arange(6.0).reshape(2, 3)
    view = description(given, protocols=DLPACK)
    assert (view.protocol, view.pointer, view.readonly) == (DLPACK, given.ctypes.data, False)
    given.flags.writeable = False
    assert description(given, protocols=DLPACK).readonly


# --------------------------------------------------------------------------------------- arrays of the standard library


@pytest.mark.parametrize("code, dtype", [
    ("b", "int8"), ("B", "uint8"), ("h", "int16"), ("H", "uint16"), ("i", "int32"), ("I", "uint32"), ("q", "int64"),
    ("Q", "uint64"), ("l", f"int{8 * ctypes.sizeof(ctypes.c_long)}"), ("L", f"uint{8 * ctypes.sizeof(ctypes.c_long)}"),
    ("f", "float32"), ("d", "float64")])
def test_array_array(code, dtype):
    given = array.array(code, [1, 2, 3])
    view = description(given)
    assert (view.dtype, view.shape, view.pointer) == (dtype, (3,), given.buffer_info()[0])
    assert (view.protocol, view.readonly) == (BUFFER, False)
    assert values(given) == [1, 2, 3]


def test_array_array_of_characters_is_refused():
    refused("UnknownDtypeError", array.array("w" if sys.version_info >= (3, 13) else "u", "abc"))


@pytest.mark.parametrize("make, readonly", [
    (lambda: b"abcd", True), (lambda: bytearray(b"abcd"), False), (lambda: memoryview(b"abcd"), True),
    (lambda: memoryview(bytearray(b"abcd")), False), (lambda: (ctypes.c_uint8 * 4)(*b"abcd"), False)],
    ids=["bytes", "bytearray", "memoryview", "writable-memoryview", "ctypes"])
def test_bytes(make, readonly):
    given = make()
    view = description(given)
    assert (view.dtype, view.shape, view.readonly) == ("uint8", (4,), readonly)
    assert contents(given) == b"abcd"
    if readonly:
        refused("ReadOnlyAccessError", given, "read-only", require=probe.WRITABLE)


def test_memoryviews_of_any_shape():
    given = memoryview(bytearray(24)).cast("i", (2, 3))
    assert (description(given).dtype, description(given).shape) == ("int32", (2, 3))
    assert values(given) == [[0] * 3] * 2
    flat = memoryview(array.array("i", range(6)))[::2]
    assert values(flat) == [0, 2, 4]
    assert values(memoryview(array.array("i", range(6)))[::-1]) == [5, 4, 3, 2, 1, 0]


def test_mmap():
    with mmap.mmap(-1, 4096) as given:
        view = probe.acquire(given, "adopt", HOST)
        assert view.describe()["shape"] == (4096,)
        view.release()


@pytest.mark.parametrize("given", [[1.0, 2.0], (1,), 3, 3.0, "text", None, {}, {1}, object(), range(3), int,
                                   iter([])], ids=lambda value: type(value).__name__)
def test_what_is_no_array(given):
    raised = refused("InterfaceNotImplementedError", given, type(given).__name__)
    assert isinstance(raised, TypeError)
    assert raised.__cause__ is None


# --------------------------------------------------------------------------------------------------------------- torch


@pytest.fixture(scope="module")
def torch():
    return need("torch")


TORCH_DTYPES = {
    "bool": "bool", "uint8": "uint8", "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "float16": "float16", "float32": "float32",
    "float64": "float64", "complex64": "complex64", "complex128": "complex128", "bfloat16": "bfloat16",
    "complex32": "complex32", "float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2",
    "float8_e4m3fnuz": "float8_e4m3fnuz", "float8_e5m2fnuz": "float8_e5m2fnuz", "float8_e8m0fnu": "float8_e8m0fnu",
}


@pytest.fixture
def tables(torch):
    """Whether this torch has an exchange table, which it has from 2.10."""
    return hasattr(torch.Tensor, "__dlpack_c_exchange_api__")


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_torch_dtypes(dtype, torch, tables):
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    given = torch.arange(48, dtype=torch.uint8).view(getattr(torch, dtype)) if dtype != "bool" else (
        torch.arange(48) % 2 == 0)
    view = description(given)
    assert (view.dtype, view.shape, view.pointer) == (TORCH_DTYPES[dtype], (given.numel(),), given.data_ptr())
    assert view.protocol == (EXCHANGE if tables else DLPACK)
    assert not view.readonly
    expected = bytes(range(48)) if dtype != "bool" else bytes([1, 0] * 24)
    assert contents(given, itemsize=given.element_size()) == expected


TORCH_LAYOUTS = {
    "scalar": lambda torch: torch.tensor(7.0),
    "c": lambda torch: torch.arange(24.0).reshape(2, 3, 4),
    "transposed": lambda torch: torch.arange(6.0).reshape(2, 3).T,
    "permuted": lambda torch: torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    "offset": lambda torch: torch.arange(24.0)[5:9],
    "every-second": lambda torch: torch.arange(24.0)[1::2],
    "expanded": lambda torch: torch.arange(3.0).expand(2, 3),
    "as-strided": lambda torch: torch.arange(24.0).as_strided((3, 2), (1, 7), 2),
    "unsqueezed": lambda torch: torch.arange(3.0)[None, :, None],
    "channels-last": lambda torch: torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "empty": lambda torch: torch.zeros(3, 0, 2),
    "imaginary-part": lambda torch: torch.arange(6.0).to(torch.complex64).imag,
}


@pytest.mark.parametrize("layout", TORCH_LAYOUTS)
def test_torch_layouts(layout, torch):
    given = TORCH_LAYOUTS[layout](torch)
    view = description(given)
    assert view.shape == tuple(given.shape)
    assert view.pointer == (given.data_ptr() if given.numel() else 0)
    assert values(given) == given.tolist()
    if given.numel():
        assert [stride for stride, extent in zip(view.strides, given.shape) if extent > 1] == [
            stride for stride, extent in zip(given.stride(), given.shape) if extent > 1]


def test_torch_tensors_can_be_written(torch):
    given = torch.zeros(3)
    overwrite(given, 42.0)
    assert given.tolist() == [42, 0, 0]


@pytest.mark.parametrize("make", [
    lambda torch: torch.zeros(3, requires_grad=True), lambda torch: torch.nn.Parameter(torch.zeros(3)),
    lambda torch: torch.zeros(3, requires_grad=True) * 2, lambda torch: torch.zeros(3, requires_grad=True)[1:]],
    ids=["leaf", "parameter", "result", "slice"])
def test_torch_tensors_that_require_gradients_are_inputs_and_no_outputs(make, torch, tables):
    given = make(torch)
    if tables:
        assert description(given).pointer == given.data_ptr()
    raised = refused("ReadOnlyAccessError", given, "gradient", require=probe.WRITABLE)
    assert "detach" in str(raised)
    overwrite(given.detach(), 1.0)
    assert given.detach()[0] == 1.0


def test_torch_gradients_that_are_switched_on_later_are_seen(torch):
    given = torch.zeros(3)
    overwrite(given, 1.0)
    given.requires_grad_()
    refused("ReadOnlyAccessError", given, "gradient", require=probe.WRITABLE)
    given.requires_grad_(False)
    overwrite(given, 2.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex32"])
def test_torch_complex_tensors(dtype, torch):
    given = torch.arange(8, dtype=torch.uint8).repeat(4).view(getattr(torch, dtype))
    assert contents(given, itemsize=given.element_size()) == bytes(range(8)) * 4
    raised = refused("LayoutMismatchError", given.conj(), "conjugated lazily")
    assert "resolve_conj" in str(raised)
    assert description(given.conj().conj()).pointer == given.data_ptr()
    resolved = given.conj().resolve_conj()
    assert description(resolved).pointer == resolved.data_ptr()


@pytest.mark.parametrize("pick", [
    lambda imag: imag, lambda imag: imag[:1], lambda imag: imag[::2], lambda imag: imag[0], lambda imag: imag[None, :1],
    lambda imag: imag.expand(2, 4), lambda imag: imag.reshape(2, 2).T],
    ids=["all", "one", "slice", "scalar", "extents-of-1", "expanded", "transposed"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_torch_lazily_negated_tensors_are_refused(pick, dtype, torch):
    """Their memory holds other values than they show, and torch's table does not say so."""
    given = pick(torch.arange(4).to(getattr(torch, dtype)).conj().imag)
    assert given.is_neg()
    raised = refused("LayoutMismatchError", given, "negated lazily")
    assert "resolve_neg" in str(raised)
    assert values(given.resolve_neg()) == given.tolist()


def test_torch_lazily_negated_tensors_are_refused_by_dlpack_too(torch):
    """It comes out wrong everywhere; with a torch that has no table __dlpack__ is the only way."""
    given = torch.arange(4).to(torch.complex64).conj().imag
    with pytest.raises(probe.CAIError):
        probe.acquire(given, "adopt", {**HOST, "protocols": DLPACK})


TORCH_REFUSED = {
    "sparse": (lambda torch: torch.eye(3).to_sparse(), "InterfaceNotImplementedError", "storage"),
    "sparse-rows": (lambda torch: torch.eye(3).to_sparse_csr(), "InterfaceNotImplementedError", "storage"),
    "meta": (lambda torch: torch.zeros(3, device="meta"), "InterfaceNotImplementedError", "meta"),
    "quantised": (lambda torch: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
                  "InterfaceNotImplementedError", "QInt"),
    "nested": (lambda torch: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
               "InterfaceNotImplementedError", "Nested"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", TORCH_REFUSED)
@pytest.mark.parametrize("require", [0, probe.WRITABLE], ids=["input", "output"])
def test_torch_tensors_without_plain_memory_are_refused(case, require, torch, tables):
    make, error, match = TORCH_REFUSED[case]
    raised = refused(error, make(torch), match if tables else None, require=require)
    assert raised.__cause__ is not None  # torch's own words


@pytest.mark.filterwarnings("ignore")
def test_torch_fake_tensors_are_refused(torch):
    """A FakeTensor answers with a NULL pointer and a size."""
    mode = pytest.importorskip("torch._subclasses.fake_tensor", reason="this torch has no FakeTensor").FakeTensorMode
    with mode():
        given = torch.zeros(3)
    refused("IncompleteInterfaceError", given, "NULL")


@pytest.mark.parametrize("transform", ["vmap", "grad"])
def test_torch_tensors_inside_a_transform_are_refused(transform, torch):
    seen = []

    def inside(tensor):
        with pytest.raises(probe.CAIError):
            probe.acquire(tensor, "adopt", HOST)
        seen.append(1)
        return tensor.sum()

    getattr(torch.func, transform)(inside)(torch.ones(2, 3) if transform == "vmap" else torch.ones(3))
    assert seen == [1]


def test_torch_subclasses(torch, tables):
    class Own(torch.Tensor):
        pass

    given = torch.arange(3.0).as_subclass(Own)
    view = description(given, require=probe.WRITABLE)
    assert (view.pointer, view.protocol) == (given.data_ptr(), EXCHANGE if tables else DLPACK)


def test_torch_by_dlpack(torch):
    given = torch.arange(6.0).reshape(2, 3)
    view = description(given, protocols=DLPACK)
    assert (view.protocol, view.pointer, view.shape) == (DLPACK, given.data_ptr(), (2, 3))
    assert not view.readonly
    raised = refused("InterfaceNotImplementedError", given.requires_grad_(), "gradient", protocols=DLPACK)
    assert isinstance(raised.__cause__, (BufferError, RuntimeError))


def test_torch_host_tensors_are_in_no_other_memory(torch):
    with pytest.raises(probe.DeviceMismatchError, match="host"):
        probe.acquire(torch.zeros(3), "adopt", {"memory": probe.ON_CUDA})


def test_torch_tensors_are_looked_at_anew(torch):
    """Whatever was done to a tensor between two acquires is seen: resize_, set_, and .data."""
    given = torch.arange(6.0)
    assert description(given).shape == (6,)
    given.resize_(2, 2)
    assert values(given) == [[0, 1], [2, 3]]
    given.set_(torch.tensor([9.0, 8.0, 7.0]))
    assert values(given) == [9, 8, 7]
    given.data = torch.tensor([[5.0]])
    assert values(given) == [[5]]
    given.unsqueeze_(0)
    assert description(given).shape == (1, 1, 1)


def test_torch_reference_counts(torch, unchanged):
    tensors = [torch.zeros(3), torch.zeros(3, dtype=torch.complex64), torch.zeros(4)[::2], torch.zeros(2, 2).T]
    with unchanged(*tensors):
        for given in tensors:
            for protocols in (0, DLPACK):
                view = probe.acquire(given, "adopt", {**HOST, "protocols": protocols})
                view.release()
        for given in tensors:
            with pytest.raises(probe.CAIError):
                probe.acquire(given, "adopt", {**HOST, "ndim": 7})
        del view, given


def test_torch_memory_lives_as_long_as_the_view(torch):
    given = torch.full((1000,), 3.0)
    view = probe.acquire(given, "adopt", HOST)
    del given
    gc.collect()
    torch.full((1000,), 4.0)
    assert checks.read(types.SimpleNamespace(**view.describe())).tolist() == [3.0] * 1000


# ----------------------------------------------------------------------------------------------------------------- JAX


@pytest.fixture(scope="module")
def jax():
    return need("jax")


@pytest.fixture(scope="module")
def jnp(jax):
    return need("jax.numpy")


def test_jax_arrays_are_read_where_they_lie(jax, jnp):
    given = jnp.arange(6, dtype="float32").reshape(2, 3)
    view = description(given)
    assert (view.dtype, view.shape, view.pointer) == ("float32", (2, 3), given.unsafe_buffer_pointer())
    assert values(given) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "int32", "uint32", "float16", "float32",
                                   "complex64"])
def test_jax_dtypes(dtype, jnp):
    given = jnp.array([0, 1, 5], dtype)
    assert description(given).dtype == dtype
    assert contents(given) == np.asarray(given).tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_jax_dtypes_that_only_dlpack_has(dtype, jnp):
    """The buffer protocol has no letter for them; the next protocol carries them."""
    given = jnp.array([0, 1, 2], dtype)
    view = description(given)
    assert (view.dtype, view.protocol) == (dtype, DLPACK)
    assert contents(given, itemsize=given.dtype.itemsize) == np.asarray(given).tobytes()


@pytest.mark.parametrize("protocols", [0, BUFFER, DLPACK])
@pytest.mark.parametrize("order", ["adopt", "block", "none"])
def test_jax_arrays_are_inputs_and_no_outputs(protocols, order, jnp):
    """They are immutable; a legacy capsule, which is all that JAX makes, would not say so."""
    given = jnp.arange(3.0)
    assert description(given, order, protocols=protocols).readonly
    with pytest.raises(probe.ReadOnlyAccessError, match="writable"):
        probe.acquire(given, order, {**HOST, "protocols": protocols, "require": probe.WRITABLE})


def test_jax_arrays_that_were_deleted_are_refused(jnp):
    given = jnp.arange(3.0)
    given.delete()
    raised = refused("InterfaceNotImplementedError", given)
    assert raised.__cause__ is not None


def test_jax_tracers_are_refused(jax, jnp):
    def inside(tracer):
        refused("InterfaceNotImplementedError", tracer)
        seen.append(1)
        return tracer

    seen = []
    jax.jit(inside)(jnp.arange(3.0))
    assert seen


def test_jax_scalars_and_empty_arrays(jnp):
    assert description(jnp.float32(3)).shape == ()
    assert values(jnp.float32(3)) == 3
    assert (description(jnp.zeros((3, 0))).shape, description(jnp.zeros((3, 0))).pointer) == ((3, 0), 0)


def test_jax_reference_counts(jnp, unchanged):
    given = jnp.arange(3.0)
    with unchanged(given):
        for protocols in (0, BUFFER, DLPACK):
            probe.acquire(given, "adopt", {**HOST, "protocols": protocols}).release()


# ------------------------------------------------------------------------------------------------------ other libraries


def test_tvm_tensors():
    tvm_ffi = need("tvm_ffi")
    memory = np.arange(6, dtype="f4").reshape(2, 3)
    given = tvm_ffi.from_dlpack(memory)
    view = description(given, require=probe.WRITABLE)
    assert (view.dtype, view.shape, view.pointer) == ("float32", (2, 3), memory.ctypes.data)
    assert view.protocol in (EXCHANGE, DLPACK)
    overwrite(given, 42.0)
    assert memory[0, 0] == 42
    count = sys.getrefcount(given)
    probe.acquire(given, "adopt", HOST).release()
    assert sys.getrefcount(given) == count


@pytest.mark.parametrize("readonly", [False, True])
def test_strided_memory_views_keep_the_read_only_flag(readonly):
    """Their table lends without a word of it; only its owning call carries the flag."""
    utils = need("cuda.core.utils")
    memory = np.arange(6.0).reshape(2, 3)[:, ::2]
    memory.flags.writeable = not readonly
    given = utils.StridedMemoryView.from_any_interface(memory, stream_ptr=-1)
    view = description(given)
    assert (view.dtype, view.shape, view.strides) == ("float64", (2, 2), (3, 2))
    assert (view.pointer, view.readonly) == (memory.ctypes.data, readonly)
    if hasattr(utils.StridedMemoryView, "__dlpack_c_exchange_api__"):
        assert view.protocol == EXCHANGE
    assert values(given) == [[0, 2], [3, 5]]
    if readonly:
        refused("ReadOnlyAccessError", given, "read-only", require=probe.WRITABLE)
    else:
        overwrite(given, 42.0)
        assert memory[0, 0] == 42
    count = sys.getrefcount(given)
    probe.acquire(given, "adopt", HOST).release()
    assert sys.getrefcount(given) == count


@pytest.fixture(scope="module")
def arrow():
    return need("pyarrow")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32",
                                   "float64"])
def test_arrow_arrays(dtype, arrow):
    given = arrow.array([1, 2, 3, 4], getattr(arrow, dtype)())[1:3]
    view = description(given)
    assert (view.dtype, view.shape, view.protocol) == (dtype, (2,), DLPACK)
    assert view.pointer == given.buffers()[1].address + np.dtype(dtype).itemsize
    assert values(given) == [2, 3]


def test_arrow_arrays_are_inputs_and_no_outputs(arrow):
    given = arrow.array([1, 2, 3])
    assert description(given).readonly
    refused("ReadOnlyAccessError", given, "writable", require=probe.WRITABLE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [
    lambda arrow: arrow.array([1, None]), lambda arrow: arrow.array([True, False]), lambda arrow: arrow.array(["text"]),
    lambda arrow: arrow.chunked_array([[1, 2], [3]]), lambda arrow: arrow.table({"a": [1]})],
    ids=["nulls", "bits", "text", "chunks", "table"])
def test_arrow_arrays_that_are_no_plain_memory_are_refused(make, arrow):
    refused("InterfaceNotImplementedError", make(arrow))


def test_arrow_tensors_and_buffers(arrow):
    memory = np.arange(6.0).reshape(2, 3)
    given = arrow.Tensor.from_numpy(memory)
    assert (description(given).shape, description(given).pointer) == ((2, 3), memory.ctypes.data)
    buffer = arrow.py_buffer(b"abcd")
    assert (contents(buffer), description(buffer).readonly) == (b"abcd", True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4"])
def test_ml_dtypes_in_numpy_are_refused_by_name(dtype):
    """NumPy has neither a buffer format nor DLPack for them."""
    given = np.zeros(3, getattr(need("ml_dtypes"), dtype))
    error = pytest.raises(probe.CAIError, probe.acquire, given, "adopt", HOST)
    assert error.type in (probe.InterfaceNotImplementedError, probe.UnknownDtypeError)
    assert "'x'" in str(error.value)


# ----------------------------------------------------------------------------------------------- libraries in one call


def test_one_call_takes_arrays_of_several_libraries(torch, jnp, arrow):
    given = (np.arange(3, dtype="f4"), torch.arange(3.0), jnp.arange(3, dtype="float32"),
             arrow.array([0, 1, 2], arrow.float32()), array.array("f", [0, 1, 2]))
    requests = tuple({"name": name, **HOST, "dtype": "float32", "shape": (probe.extent(0),)} for name in "abcde")
    views = []

    def body(call):
        assert call["stream"] == 0
        views.extend(checks.read(types.SimpleNamespace(**view)).tolist() for view in call["views"])

    counts = [sys.getrefcount(one) for one in given]
    probe.call(given, requests, "adopt", body)
    assert views == [[0, 1, 2]] * 5
    assert [sys.getrefcount(one) for one in given] == counts


@pytest.mark.parametrize("position", range(4))
def test_arrays_of_several_libraries_are_given_back_when_one_is_refused(position, torch, jnp, arrow):
    given = [np.arange(3, dtype="f4"), torch.arange(3.0), jnp.arange(3, dtype="float32"),
             arrow.array([0, 1, 2], arrow.float32())]
    counts = [sys.getrefcount(one) for one in given]
    requests = [{"name": name, **HOST, "dtype": "float32"} for name in "abcd"]
    requests[position]["dtype"] = "int32"
    with pytest.raises(probe.DtypeMismatchError, match=f"'{'abcd'[position]}'"):
        probe.call(tuple(given), tuple(requests), "adopt", None)
    gc.collect()
    assert [sys.getrefcount(one) for one in given] == counts
