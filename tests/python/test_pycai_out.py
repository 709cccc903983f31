"""pycai's functions that hand arrays to Python, and owntype, over the emulator."""

import gc
import sys

import checks
import emulated
import loans
import numpy as np
import owntype
import producers
import pycai
import pytest
import tables


class OnTheHost:
    """An array of a device, copied to the host when somebody takes it."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**{**keywords, "dl_device": (1, 0)})

    def __dlpack_device__(self):
        return (1, 0)


def values(array):
    return np.from_dlpack(OnTheHost(array))


ROUND_TRIPS = [(pycai.receive_and_return_cuda_array_interface_float, "float32"),
               (pycai.receive_and_return_cuda_array_interface_int, "int32")]


@pytest.mark.parametrize("function, dtype", ROUND_TRIPS)
def test_the_very_object_comes_back(function, dtype):
    given = producers.Interface(np.arange(6, dtype=dtype).reshape(2, 3))
    before = sys.getrefcount(given)
    returned = function(given)
    assert returned is given
    assert sys.getrefcount(given) == before + 1
    del returned
    assert sys.getrefcount(given) == before


@pytest.mark.parametrize("function, dtype", ROUND_TRIPS)
@pytest.mark.parametrize("array, error", [
    (lambda dtype: producers.Interface(np.zeros((), dtype)), "InvalidShapeError"),
    (lambda dtype: producers.Interface(np.zeros((0, 3), dtype)), "InvalidShapeError"),
    (lambda dtype: producers.Interface(np.zeros(3, "float64")), "DtypeMismatchError"),
    (lambda dtype: producers.Interface(np.zeros(3, dtype), version=2), "InvalidVersionError"),
    (lambda dtype: producers.DLPack(np.zeros(3, dtype)), "InterfaceNotImplementedError"),
    (lambda dtype: np.zeros(3, dtype), "InterfaceNotImplementedError"),
], ids=["0-d", "empty", "dtype", "version", "dlpack", "host"])
def test_what_the_module_does_not_take(function, dtype, array, error):
    given = array(dtype)
    before = sys.getrefcount(given)
    with pytest.raises(getattr(pycai, error), match="'s'"):
        function(given)
    gc.collect()
    assert sys.getrefcount(given) == before


@pytest.mark.parametrize("arguments, shape", [({}, (3, 4, 5)), ({"shape": (2,)}, (2,)), ({"shape": 7}, (7,)),
                                              ({"shape": []}, ()), ({"shape": (3, 0)}, (3, 0))])
def test_zeros(arguments, shape):
    array = pycai.return_cuda_array_interface(**arguments)
    interface = array.__cuda_array_interface__
    assert (array.shape, array.dtype, array.device, array.readonly) == (shape, "float32", "cuda:0", False)
    assert (interface["shape"], interface["typestr"], interface["version"]) == (shape, "<f4", 3)
    assert values(array).tolist() == np.zeros(shape).tolist()


def test_read_only_zeros():
    array = pycai.return_cuda_array_interface(readonly=True)
    assert array.__cuda_array_interface__["data"] == (array.ptr, True)
    with pytest.raises(pycai.ReadOnlyAccessError):
        pycai.saxpy(array, array, array)


@pytest.mark.parametrize("arguments, expected", [({}, [1, 2, 3, 4, 5]), ({"vec": [7, 8.5]}, [7, 8.5]),
                                                 ({"vec": ()}, []), ({"vec": range(3)}, [0, 1, 2])])
def test_numbers_copied_from_the_host(arguments, expected):
    array = pycai.return_cuda_array_interface_with_memory_copy(**arguments)
    assert array.dtype == "float32"
    assert values(array).tolist() == expected


FUNCTIONS = [pycai.return_cuda_array_interface, pycai.return_cuda_array_interface_with_memory_copy]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("version", [0, 1, 2, 4, -1])
def test_other_versions_are_not_made(function, version):
    with pytest.raises(pycai.InvalidVersionError, match=rf"'version': expected 3; got {version}"):
        function(version=version)


def test_what_must_not_be_written_cannot_be_copied_to():
    with pytest.raises(pycai.ReadOnlyAccessError, match="'readonly'"):
        pycai.return_cuda_array_interface_with_memory_copy(readonly=True)


@pytest.mark.parametrize("function, arguments, error", [
    (FUNCTIONS[0], {"shape": (-1,)}, pycai.InvalidShapeError),
    (FUNCTIONS[0], {"shape": (1 << 62, 4)}, pycai.InvalidShapeError),
    (FUNCTIONS[0], {"shape": [1] * 65}, pycai.InvalidShapeError), (FUNCTIONS[0], {"shape": "ab"}, TypeError),
    (FUNCTIONS[0], {"shape": 2.5}, TypeError), (FUNCTIONS[0], {"nothing": 1}, TypeError),
    (FUNCTIONS[1], {"vec": ["a"]}, TypeError), (FUNCTIONS[1], {"vec": 5}, TypeError)])
def test_bad_arguments(function, arguments, error):
    with pytest.raises(error):
        function(**arguments)


@pytest.mark.parametrize("function, name", [(FUNCTIONS[0], "shape"), (FUNCTIONS[1], "vec")])
def test_a_list_that_changes_while_it_is_read(function, name):
    class Clears:
        def __index__(self):
            numbers.clear()
            return 2

        def __float__(self):
            return float(self.__index__())

    numbers = [Clears(), *([1] * 20)]
    array = function(**{name: numbers})
    assert array.shape == ((2, *([1] * 20)) if name == "shape" else (21,))
    assert numbers == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_cuda_call_may_fail(function):
    """Whichever call of the function fails, nothing is leaked, and the next call works."""
    gc.collect()
    before = emulated.count_allocations()
    for nth in range(1, 30):
        emulated.fail(None, nth, 46)
        try:
            array = function()
        except (pycai.CudaCallError, MemoryError):
            array = None
        gc.collect()
        passed = emulated.count_failures() > 0
        emulated.clear_failures()
        del array
        gc.collect()
        assert emulated.count_allocations() == before
        if passed:
            return
    raise AssertionError("the function never passes")


# ----------------------------------------------------------------------------------------------------------- owntype


def test_an_own_type_in_host_memory():
    buffer = owntype.Buffer(4)
    assert repr(buffer) == "Buffer(shape=(4,), dtype=float32, device='cpu')" and len(buffer) == 4
    numpy_array, view = np.from_dlpack(buffer), memoryview(buffer)
    numpy_array[:] = 7
    assert view.tolist() == [7.0] * 4 == np.asarray(buffer).tolist()
    assert numpy_array.ctypes.data == buffer.ptr
    assert not hasattr(buffer, "__cuda_array_interface__")


def test_an_own_type_is_an_argument_like_any_other():
    s, x, y = (owntype.Buffer(3) for _ in range(3))
    np.asarray(x)[:], np.asarray(y)[:] = 2, 1
    pycai.saxpy(s, x, y, a=5)
    assert np.asarray(s).tolist() == [11.0] * 3


@pytest.mark.parametrize("device", [False, True])
def test_own_memory_is_freed_once_after_the_last_user(device):
    before = owntype.live()
    buffer = owntype.Buffer(4, device=device)
    assert owntype.live() == before + 1
    capsule = buffer.__dlpack__(max_version=(1, 3))
    del buffer
    gc.collect()
    assert owntype.live() == before + 1
    del capsule
    gc.collect()
    assert owntype.live() == before


@pytest.mark.parametrize("mode", [emulated.GLOBAL, emulated.THREAD_LOCAL, emulated.RELAXED])
def test_pitfall_51_own_memory_is_freed_while_somebody_captures(mode):
    before = emulated.count_allocations()
    buffer = owntype.Buffer(4, device=True)
    stream = emulated.create_stream()
    emulated.begin_capture(stream, mode)
    del buffer
    gc.collect()
    emulated.end_capture(stream)
    assert emulated.count_allocations() == before


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMemset"])
def test_a_device_without_memory_for_an_own_type(call):
    before = emulated.count_allocations(), owntype.live()
    emulated.fail(call, 1, emulated.OUT_OF_MEMORY)
    with pytest.raises(MemoryError):
        owntype.Buffer(4, device=True)
    assert (emulated.count_allocations(), owntype.live()) == before


def test_an_own_type_on_the_device():
    buffer = owntype.Buffer(3, device=True)
    assert buffer.__cuda_array_interface__["data"] == (buffer.ptr, False)
    assert values(buffer).tolist() == [0.0] * 3
    assert buffer.__dlpack_device__() == (2, 0)


@pytest.mark.parametrize("n", [0, -1, sys.maxsize])
def test_sizes_that_are_none(n):
    with pytest.raises(ValueError, match="'n'"):
        owntype.Buffer(n)


# --------------------------------------------------------------------------------------- results in the library of x

FOUR = np.arange(4, dtype="f4")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_axpy_of_numpy(dtype):
    x = np.arange(6, dtype=dtype).reshape(2, 3).T
    made = pycai.axpy(x, x[::-1], 3.0)
    assert type(made) is np.ndarray and made.dtype == dtype and made.flags.c_contiguous
    assert made.tolist() == (3 * x + x[::-1]).tolist()


def test_axpy_of_torch():
    torch = checks.need("torch")
    x = torch.arange(4.0)
    made = pycai.axpy(x, FOUR)
    assert type(made) is torch.Tensor and made.tolist() == [0, 3, 6, 9]


def test_axpy_of_jax():
    """A new one is C's to write until it is JAX's."""
    jax, x = checks.need("jax"), checks.need("jax.numpy").arange(4.0)
    made = pycai.axpy(x, x)
    assert isinstance(made, jax.Array) and made.tolist() == [0, 3, 6, 9]


def test_axpy_on_the_device():
    stream = emulated.create_stream()
    x = producers.Interface(FOUR, stream=stream)
    with pytest.raises(pycai.InterfaceNotImplementedError, match="from_dlpack"):
        pycai.axpy(x, x)
    x = pycai.return_cuda_array_interface_with_memory_copy([1, 2, 3])
    made = pycai.axpy(x, x, 4.0)
    assert type(made) is type(x) and made.device == "cuda:0" and values(made).tolist() == [5, 10, 15]


def test_axpy_in_the_memory_of_a_library():
    """The very object that its table made, on the stream that the library works on."""
    class Library(tables.Array):
        __dlpack_c_exchange_api__ = tables.make_table(makes=True, allocates=True)

    stream, pointer = emulated.create_stream(), emulated.allocate(16)
    x = loans.table_array(Library, FOUR.tobytes())
    tables.set_stream(stream)
    tables.behave(Library, memory=pointer)
    made = pycai.axpy(x, x)
    assert type(made) is Library and made.describe()["pointer"] == pointer
    emulated.synchronize(stream)
    assert np.frombuffer(emulated.read(pointer, 16), "f4").tolist() == [0, 3, 6, 9]
    tables.set_stream(0)


@pytest.mark.parametrize("arguments, error", [
    ((), TypeError), ((FOUR,), TypeError), ((FOUR, FOUR, 1.0, 2.0), TypeError), ((FOUR, FOUR, "2"), TypeError),
    ((FOUR.astype("i4"), FOUR), pycai.DtypeMismatchError), ((FOUR, FOUR[1:]), pycai.InvalidShapeError),
    ((object(), FOUR), pycai.InterfaceNotImplementedError), ((bytearray(16), FOUR), pycai.DtypeMismatchError),
])
def test_axpy_of_what_it_does_not_take(arguments, error):
    with pytest.raises(error):
        pycai.axpy(*arguments)
