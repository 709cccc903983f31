"""Arrays that C made, in the hands of every library: values, address, device, read-only, and that all of it is freed."""

import gc
import importlib.util
import os

import arrays
import numpy as np
import owntype
import probe_cuda as probe
import pycai
import pytest

N = 1000
LEGACY = 1


@pytest.fixture
def filled(cupy):
    """A new array of the current device with the values 0, 1, 2 …"""

    def make(n=N, stream=LEGACY, memory=arrays.DEVICE, dtype="float32"):
        array = arrays.new((n,), dtype, memory, -1, stream)
        with cupy.cuda.Stream.from_external(arrays.make_stream(stream)):
            cupy.asarray(array)[...] = cupy.arange(n, dtype=dtype)
        return array

    return make


def used_bytes(cupy, device=0):
    """What is in use of the device's own pool, after everything that was enqueued."""
    cupy.cuda.runtime.deviceSynchronize()
    pool = cupy.cuda.runtime.deviceGetDefaultMemPool(device)
    return cupy.cuda.runtime.memPoolGetAttribute(pool, cupy.cuda.runtime.cudaMemPoolAttrUsedMemCurrent)


@pytest.fixture
def nothing_stays(cupy):
    """The pool has as much in use afterwards as before. compute-sanitizer has its own pools, which count otherwise."""
    gc.collect()
    before = used_bytes(cupy)
    yield
    gc.collect()
    assert os.environ.get("CAI_MEMCHECK") == "1" or used_bytes(cupy) == before


# --------------------------------------------------------------------------------------------------------- consumers


def by_cupy_asarray(request, array):
    taken = request.getfixturevalue("cupy").asarray(array)
    return taken.get(), taken.data.ptr, taken.device.id


def by_cupy_from_dlpack(request, array):
    taken = request.getfixturevalue("cupy").from_dlpack(array)
    return taken.get(), taken.data.ptr, taken.device.id


def by_torch_as_tensor(request, array):
    taken = request.getfixturevalue("torch").as_tensor(array, device="cuda")
    return taken.cpu().numpy(), taken.data_ptr(), taken.device.index


def by_torch_from_dlpack(request, array):
    taken = request.getfixturevalue("torch").from_dlpack(array)
    return taken.cpu().numpy(), taken.data_ptr(), taken.device.index


def by_numba(request, array):
    taken = request.getfixturevalue("numba_cuda").as_cuda_array(array)
    return taken.copy_to_host(), taken.__cuda_array_interface__["data"][0], 0


def by_jax(request, array):
    taken = request.getfixturevalue("jax").dlpack.from_dlpack(array)
    return np.asarray(taken), taken.unsafe_buffer_pointer(), next(iter(taken.devices())).local_hardware_id


def by_cuda_core(request, array):
    request.getfixturevalue("cuda_core")
    from cuda.core.utils import StridedMemoryView

    view = StridedMemoryView.from_any_interface(array, stream_ptr=-1)
    taken = request.getfixturevalue("cupy").from_dlpack(view)
    return taken.get(), view.ptr, view.device_id


CONSUMERS = [by_cupy_asarray, by_cupy_from_dlpack, by_torch_as_tensor, by_torch_from_dlpack, by_numba, by_jax, by_cuda_core]


@pytest.mark.parametrize("memory", ["DEVICE", "NO_POOL"])
@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.__name__)
def test_values_and_address_in_every_library(consumer, memory, request, filled, nothing_stays):
    array = filled(memory=getattr(arrays, memory))
    values, pointer, device = consumer(request, array)
    np.testing.assert_array_equal(values, np.arange(N, dtype="float32"))
    assert pointer == array.ptr
    assert device == 0 and array.device == "cuda:0"


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.__name__)
def test_the_consumer_may_outlive_the_array(consumer, request, filled, nothing_stays):
    np.testing.assert_array_equal(consumer(request, filled())[0], np.arange(N, dtype="float32"))


def test_mpi4py(filled):
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    from mpi4py import MPI

    array = filled()
    assert MPI.Get_address(array) == array.ptr


def test_read_only_is_kept(cupy, torch):
    array = pycai.return_cuda_array_interface(readonly=True)
    assert array.__cuda_array_interface__["data"] == (array.ptr, True)
    assert probe.acquire(array).describe()["flags"] & probe.READONLY
    with pytest.raises(pycai.ReadOnlyAccessError):
        pycai.saxpy(array, array, array)
    with pytest.raises(BufferError):
        array.__dlpack__()  # a legacy capsule could not say it


def test_managed_and_pinned_memory(cupy):
    for memory, device_type in ((arrays.MANAGED, 13), (arrays.PINNED, 3)):
        array = arrays.new((N,), "float32", memory)
        assert array.__dlpack_device__() == (device_type, 0)
        np.asarray(array)[:] = 3
        taken = cupy.asarray(array)
        taken += 1
        cupy.cuda.runtime.deviceSynchronize()
        assert (np.asarray(array) == 4).all()
        assert taken.data.ptr == array.ptr


def test_a_copy_to_the_host(filled, torch, nothing_stays):
    class OnTheHost:
        """What numpy.from_dlpack(array, device="cpu") asks for."""

        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **keywords):
            return self.array.__dlpack__(**{**keywords, "dl_device": (1, 0)})

        def __dlpack_device__(self):
            return (1, 0)

    np.testing.assert_array_equal(np.from_dlpack(OnTheHost(filled())), np.arange(N, dtype="float32"))


def test_a_copy_on_the_device(filled, cupy, nothing_stays):
    array = filled()
    side = cupy.cuda.Stream(non_blocking=True)
    capsule = array.__dlpack__(stream=side.ptr, max_version=(1, 3), copy=True)
    with side:
        taken = cupy.fromDlpack(capsule) if not hasattr(cupy, "from_dlpack") else cupy.from_dlpack(Given(capsule))
        assert taken.data.ptr != array.ptr
        np.testing.assert_array_equal(taken.get(), np.arange(N, dtype="float32"))
    del taken, capsule


class Given:
    """A capsule as an object."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **keywords):
        return self.capsule

    def __dlpack_device__(self):
        return (2, 0)


def test_the_object_that_came_in_goes_back_out(cupy, torch, unchanged):
    for array in (cupy.arange(5, dtype="float32"),):
        assert unchanged(lambda array=array: pycai.receive_and_return_cuda_array_interface_float(array) is array, array)
    handle = arrays.keep(torch.ones(3, device="cuda"))
    assert isinstance(arrays.give(handle), torch.Tensor)
    arrays.release(handle)


def test_the_authors_own_type(cupy, torch, jax):
    buffer = owntype.Buffer(8, device=True)
    cupy.asarray(buffer)[...] = 5
    tensor, array = torch.from_dlpack(buffer), jax.dlpack.from_dlpack(buffer)
    assert tensor.tolist() == [5.0] * 8 == np.asarray(array).tolist()
    assert tensor.data_ptr() == buffer.ptr == array.unsafe_buffer_pointer()
    before = owntype.live()
    del buffer, array
    gc.collect()
    assert owntype.live() == before  # torch has it still
    del tensor
    gc.collect()
    assert owntype.live() == before - 1


def test_in_the_library_of_another_array(cupy, torch):
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE)
    pointer = arrays.describe(handle)["pointer"]
    assert arrays.give_like(handle, torch.ones(1, device="cuda")).data_ptr() == pointer
    assert arrays.give_like(handle, cupy.ones(1)).data.ptr == pointer
    arrays.release(handle)


# --------------------------------------------------------------------------------------------------- order and freeing


def test_pending_work_is_ordered_before_the_consumers_stream(cupy, delays, nothing_stays):
    producer, consumer = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    seen = cupy.zeros(N, "float32")
    cupy.cuda.runtime.deviceSynchronize()
    array = arrays.new((N,), "float32", arrays.DEVICE, -1, producer.ptr)
    assert array.__cuda_array_interface__["stream"] == producer.ptr == int(array.stream)
    delays.fill(producer.ptr, array.ptr, N, 7.0)
    with consumer:
        taken = cupy.from_dlpack(array)
        delays.copy(consumer.ptr, seen.data.ptr, taken.data.ptr, N, 0.0)
        consumer.synchronize()
        assert bool((seen == 7).all())
    del taken, array  # a bare handle: the stream has to live as long as the array
    producer.synchronize()


def test_pitfall_56_memory_is_not_reused_under_a_kernel_of_a_consumer_that_is_gone(cupy, delays):
    """The kernel is on a stream that nobody told, and its array is freed while it runs."""
    stream = cupy.cuda.Stream(non_blocking=True)
    seen = cupy.zeros(N, "float32")
    cupy.cuda.runtime.deviceSynchronize()
    array = arrays.new((N,), "float32", arrays.DEVICE)
    cupy.asarray(array)[...] = 5
    cupy.cuda.runtime.deviceSynchronize()
    pointer = array.ptr
    delays.copy(stream.ptr, seen.data.ptr, pointer, N, 50.0)  # reads after 50 ms
    del array
    others = [arrays.new((N,), "float32", arrays.DEVICE) for _ in range(8)]
    for other in others:
        cupy.asarray(other)[...] = 9
    cupy.cuda.runtime.deviceSynchronize()
    assert bool((seen == 5).all())


def test_frees_while_a_cupy_stream_captures(cupy, filled, nothing_stays):
    stream = cupy.cuda.Stream(non_blocking=True)
    x = cupy.zeros(N, "float32")
    array = filled()
    with stream:
        x + 1  # everything is loaded before the capture
        stream.synchronize()
        stream.begin_capture()
        x += 1
        del array  # given to a library before, so that its free waits for the device
        gc.collect()
        graph = stream.end_capture()
        graph.launch(stream)
        graph.launch(stream)
        stream.synchronize()
    assert bool((x == 2).all())


def test_frees_while_a_torch_graph_captures(torch, filled, nothing_stays):
    x = torch.zeros(N, device="cuda")
    array = filled()
    x.add_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
        del array
    graph.replay()
    torch.cuda.synchronize()
    assert bool((x == 2).all())


def test_an_array_whose_own_stream_captures_is_freed_later(cupy, nothing_stays):
    stream = cupy.cuda.Stream(non_blocking=True)
    array = arrays.new((N,), "float32", arrays.DEVICE, -1, stream.ptr)
    x = cupy.zeros(N, "float32")
    with stream:
        x += 0
        stream.synchronize()
        stream.begin_capture()
        x += 1
        del array
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
    assert bool((x == 1).all())
    arrays.new((1,), "float32", arrays.HOST)  # the next occasion
    stream.synchronize()


def test_many_arrays_come_and_go(cupy, nothing_stays):
    for _ in range(200):
        taken = cupy.asarray(arrays.new((N,), "float32", arrays.DEVICE))
        taken += 1
    del taken


def test_arrays_on_both_gpus(two_gpus, cupy, torch):
    for device in (0, 1):
        cupy.cuda.runtime.setDevice(0)
        array = arrays.new((N,), "float32", arrays.DEVICE, device)
        assert cupy.cuda.runtime.getDevice() == 0
        assert array.device == f"cuda:{device}" and array.__dlpack_device__() == (2, device)
        tensor = torch.from_dlpack(array)
        assert tensor.device.index == device
        with cupy.cuda.Device(device):
            taken = cupy.asarray(array)
            taken[...] = device + 1
            cupy.cuda.runtime.deviceSynchronize()
            before = used_bytes(cupy, device)
        assert bool((tensor == device + 1).all())
        cupy.cuda.runtime.setDevice(0)
        del tensor, taken, array
        gc.collect()
        assert cupy.cuda.runtime.getDevice() == 0
        with cupy.cuda.Device(device):
            assert used_bytes(cupy, device) < before
    cupy.cuda.runtime.setDevice(0)
