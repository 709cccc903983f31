"""Arrays of every GPU library into saxpy: values, no copy, no reference kept."""

import numpy as np
import pycai
import pytest
import probe_cuda as probe


def make(library, values, request):
    """A GPU array of a library from a NumPy array, and its pointer as the library itself tells it."""
    module = request.getfixturevalue(library)
    if library == "cupy":
        array = module.asarray(values)
        return array, array.data.ptr
    if library == "torch":
        array = module.as_tensor(values, device="cuda")
        return array, array.data_ptr()
    if library == "numba_cuda":
        array = module.to_device(values)
        return array, array.__cuda_array_interface__["data"][0]
    if library == "jax":
        array = module.device_put(values, module.devices("gpu")[0]).block_until_ready()
        return array, array.unsafe_buffer_pointer()
    raise AssertionError(library)


def host(array):
    """The values of a GPU array on the host, after everything on its device."""
    if hasattr(array, "copy_to_host"):
        return array.copy_to_host()
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array.get() if hasattr(array, "get") else array)


OUTPUTS = ["cupy", "torch", "numba_cuda"]
INPUTS = OUTPUTS + ["jax"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("x_library", INPUTS)
@pytest.mark.parametrize("s_library", OUTPUTS)
def test_values_of_every_pair_of_libraries(s_library, x_library, dtype, request):
    if x_library == "jax" and dtype == "float64":
        request.getfixturevalue("jax").config.update("jax_enable_x64", True)
    rng = np.random.default_rng(1)
    x_host, y_host = rng.random((5, 7)).astype(dtype), rng.random((5, 7)).astype(dtype)
    s, _ = make(s_library, np.zeros((5, 7), dtype), request)
    x, _ = make(x_library, x_host, request)
    y, _ = make(s_library, y_host, request)
    pycai.saxpy(s, x, y, a=3.0)
    np.testing.assert_allclose(host(s), 3 * x_host + y_host, rtol=1e-6)


@pytest.mark.parametrize("library", INPUTS)
def test_no_copy_and_no_reference_kept(library, request, unchanged):
    array, pointer = make(library, np.arange(6, dtype="float32"), request)

    def look():
        view = probe.acquire(array)
        description = view.describe()
        assert view.release() == "OK"
        return description

    look()  # the first object of a type may be cached by its library
    description = unchanged(look, array)
    assert description["pointer"] == pointer
    assert description["device"] == (probe.DEVICE_CUDA, 0)
    assert (description["shape"], description["strides"], description["dtype"]) == ((6,), (1,), "float32")


@pytest.mark.parametrize("library", OUTPUTS)
def test_saxpy_leaves_reference_counts_as_they_were(library, request, unchanged):
    s, _ = make(library, np.zeros(8, "float32"), request)
    x, _ = make(library, np.ones(8, "float32"), request)
    pycai.saxpy(s, x, x)
    unchanged(lambda: pycai.saxpy(s, x, x), s, x)


PROTOCOLS = {"cupy": "VIA_CUDA_ARRAY_INTERFACE", "torch": "VIA_EXCHANGE", "numba_cuda": "VIA_CUDA_ARRAY_INTERFACE",
             "jax": "VIA_DLPACK"}


@pytest.mark.parametrize("library", INPUTS)
def test_protocol_that_serves_each_library(library, request):
    array, _ = make(library, np.arange(6, dtype="float32"), request)
    description = probe.acquire(array).describe()
    assert description["protocol"] == getattr(probe, PROTOCOLS[library])


def test_jax_array_is_never_an_output(jax, cupy, request):
    s, _ = make("jax", np.zeros(4, "float32"), request)
    x = cupy.ones(4, "float32")
    with pytest.raises(pycai.ReadOnlyAccessError, match="argument 's'"):
        pycai.saxpy(s, x, x)


@pytest.mark.parametrize("library", ["cupy", "torch"])
@pytest.mark.parametrize("layout", ["transposed", "sliced", "reversed", "scalar", "empty", "many dimensions"])
def test_layouts(library, layout, request):
    module = request.getfixturevalue(library)
    if library == "torch" and layout == "reversed":
        pytest.skip("torch has no negative strides")
    base = np.random.default_rng(2).random((4, 6, 2)).astype("float32")

    def cut(array):
        return {"transposed": lambda: array.transpose(2, 0, 1) if library == "cupy" else array.permute(2, 0, 1),
                "sliced": lambda: array[1:, ::3], "reversed": lambda: array[::-1], "scalar": lambda: array[0, 0, 0],
                "empty": lambda: array[:0], "many dimensions": lambda: array.reshape((2,) * 4 + (3, 1, 1))}[layout]()

    def put(values):
        return module.asarray(values) if library == "cupy" else module.as_tensor(values, device="cuda")

    s, x, y = put(np.zeros_like(base)), put(base), put(base + 1)
    pycai.saxpy(cut(s), cut(x), cut(y))
    expected = np.zeros_like(base)
    view = {"transposed": expected, "sliced": expected[1:, ::3], "reversed": expected, "scalar": expected[0, 0, 0:1],
            "empty": expected[:0], "many dimensions": expected}[layout]
    source = {"transposed": base, "sliced": base[1:, ::3], "reversed": base, "scalar": base[0, 0, 0:1],
              "empty": base[:0], "many dimensions": base}[layout]
    view[...] = 2 * source + (source + 1)
    np.testing.assert_allclose(host(s), expected, rtol=1e-6)


def test_large_array(cupy):
    n = 50_000_000
    x = cupy.arange(n, dtype="float32")
    s = cupy.empty_like(x)
    pycai.saxpy(s, x, x, a=0.5)
    assert bool((s == 1.5 * x).all())


def test_managed_memory(cupy):
    pool = cupy.cuda.MemoryPool(cupy.cuda.malloc_managed)
    with cupy.cuda.using_allocator(pool.malloc):
        s = cupy.zeros(5, "float32")
        x = cupy.arange(5, dtype="float32")
    assert probe.acquire(x).describe()["device"] == (probe.DEVICE_CUDA_MANAGED, 0)
    pycai.saxpy(s, x, x)
    np.testing.assert_array_equal(host(s), 3 * np.arange(5))


def test_pinned_memory_only_when_it_is_asked_for(cupy):
    import cupyx

    pinned = cupyx.empty_pinned((4,), "float32")
    with pytest.raises(probe.DeviceMismatchError, match="host memory"):
        probe.acquire(pinned)
    view = probe.acquire(pinned, "adopt", {"memory": probe.ON_PINNED})
    assert view.describe()["device"][0] == probe.DEVICE_CUDA_HOST
    assert view.describe()["pointer"] == pinned.ctypes.data
    with pytest.raises(probe.DeviceMismatchError):
        probe.acquire(np.zeros(4, "float32"), "adopt", {"memory": probe.ON_PINNED})


def test_torch_pinned_tensor(torch):
    pinned = torch.empty(4, pin_memory=True)
    view = probe.acquire(pinned, "adopt", {"memory": probe.ON_PINNED})
    assert view.describe()["device"][0] == probe.DEVICE_CUDA_HOST
    assert view.describe()["pointer"] == pinned.data_ptr()


def test_several_kinds_of_memory_are_refused_together(cupy):
    x = cupy.ones(4, "float32")
    with pytest.raises(pycai.DeviceMismatchError, match="argument 'y'.*host memory"):
        pycai.saxpy(x, x, np.ones(4, "float32"))


def test_lazily_conjugated_tensor_is_refused(torch):
    z = torch.ones(4, dtype=torch.complex64, device="cuda").conj()
    with pytest.raises(probe.LayoutMismatchError, match="conjugated lazily"):
        probe.acquire(z)
    with pytest.raises(probe.LayoutMismatchError, match="negated lazily"):
        probe.acquire(z.imag)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_types_without_a_typestr_come_by_dlpack(torch, dtype):
    array = torch.zeros(4, device="cuda").to(getattr(torch, dtype))
    assert probe.acquire(array).describe()["dtype"] == dtype


def test_cuda_core_view(cuda_core, cupy):
    from cuda.core.utils import StridedMemoryView

    x = cupy.arange(4, dtype="float32")
    view = StridedMemoryView.from_any_interface(x, stream_ptr=-1)
    description = probe.acquire(view).describe()
    assert description["pointer"] == x.data.ptr
    assert description["protocol"] == probe.VIA_EXCHANGE
    assert description["flags"] & probe.STREAM_UNKNOWN
