"""Arrays of C's in the memory of another library, handed over by its own table, and streams of every library both ways."""

import gc

import arrays
import pytest

N = 1000
LEGACY, PER_THREAD = 1, 2


@pytest.fixture
def like(torch):
    """A tensor on the GPU; nothing is pending."""
    tensor = torch.ones(4, device="cuda")
    torch.cuda.synchronize()
    return tensor


# ----------------------------------------------------------------------------------------------- new arrays of torch's


def test_a_new_array_is_in_torchs_caching_allocator(torch, like):
    gc.collect()
    before = torch.cuda.memory_allocated()
    handle = arrays.new_like(like, (N, 1024))
    assert torch.cuda.memory_allocated() - before >= N * 1024 * 4
    made = arrays.give(handle)
    about = arrays.describe(handle)
    assert type(made) is torch.Tensor and made.device == like.device and tuple(made.shape) == (N, 1024)
    assert (about["pointer"], about["device"], about["stream"]) == (made.data_ptr(), (2, like.device.index), LEGACY)
    arrays.release(handle)
    del made
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_a_new_array_is_on_torchs_stream(torch, like, delays):
    """Filled there, and read by torch without a wait of anybody."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        handle = arrays.new_like(like, (N,))
        about = arrays.describe(handle)
        assert about["stream"] == side.cuda_stream
        delays.fill(about["stream"], about["pointer"], N, 3.0)
        assert not side.query()
        assert (arrays.give(handle) + 1).sum().item() == 4 * N
    arrays.release(handle)


def test_a_new_array_in_a_graph(torch, like, delays):
    """torch takes its memory from the graph's own pool."""
    delays.fill(LEGACY, like.data_ptr(), 1, 1.0, 0.0)  # the kernel is loaded
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        handle = arrays.new_like(like, (N,))
        about = arrays.describe(handle)
        delays.fill(about["stream"], about["pointer"], N, 5.0, 0.0)
        doubled = arrays.give(handle) * 2
    graph.replay()
    torch.cuda.synchronize()
    assert doubled.tolist() == [10.0] * N
    arrays.release(handle)


def test_torch_has_no_memory(torch, like):
    made = None
    with pytest.raises((MemoryError, RuntimeError), match="^the allocator of torch.Tensor: "):
        made = arrays.new_like(like, (1 << 45,))
    assert made is None
    assert arrays.give(arrays.new_like(like, (N,))).is_cuda


def test_new_arrays_like_cupys(cupy):
    """Memory of cai's own, on CuPy's stream."""
    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        like = cupy.ones(3)
        handle = arrays.new_like(like, (N,))
        assert arrays.describe(handle)["stream"] == side.ptr
        made = arrays.give_like(handle, like)
        assert type(made) is cupy.ndarray and made.data.ptr == arrays.describe(handle)["pointer"]
        made[...] = 4
        assert float(made.sum()) == 4 * N
    arrays.release(handle)
    del made


# ------------------------------------------------------------------------------------------------------ handing over


def test_pending_work_comes_before_what_torch_does(torch, like, delays):
    """On whatever stream torch works on, without a wait of the host."""
    producer, side = torch.cuda.Stream(), torch.cuda.Stream()
    handle = arrays.new_handle((N,), "float32", arrays.DEVICE, -1, producer.cuda_stream)
    pointer = arrays.describe(handle)["pointer"]
    delays.fill(producer.cuda_stream, pointer, N, 7.0, 200.0)
    with torch.cuda.stream(side):
        made = arrays.give_like(handle, like)
        assert not producer.query()
        assert made.data_ptr() == pointer and bool((made == 7).all())
    arrays.release(handle)
    del made
    gc.collect()


# ----------------------------------------------------------------------------------------------------------- streams


def test_streams_of_torch(torch):
    side = torch.cuda.Stream()
    assert arrays.read_stream(side) == side.cuda_stream
    assert arrays.read_stream(torch.cuda.default_stream()) == LEGACY
    assert torch.cuda.ExternalStream(int(arrays.make_stream(side.cuda_stream, side))).cuda_stream == side.cuda_stream


def test_streams_of_cupy(cupy):
    side = cupy.cuda.Stream(non_blocking=True)
    assert arrays.read_stream(side) == side.ptr
    assert [arrays.read_stream(stream) for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream.ptds)] == [LEGACY, PER_THREAD]
    assert cupy.cuda.Stream.from_external(arrays.make_stream(side.ptr, side)).ptr == side.ptr


def test_streams_of_numba(numba_cuda):
    stream = numba_cuda.stream()
    number = int(getattr(stream.handle, "value", stream.handle))
    assert arrays.read_stream(stream) == number
    assert arrays.read_stream(numba_cuda.default_stream()) == LEGACY
    assert arrays.read_stream(numba_cuda.per_thread_default_stream()) == PER_THREAD
    assert arrays.read_stream(numba_cuda.external_stream(int(arrays.make_stream(number, stream)))) == number


def test_streams_of_cuda_core(cuda_core):
    device = cuda_core.Device()
    device.set_current()
    stream = device.create_stream()
    assert arrays.read_stream(stream) == int(stream.handle)
    assert int(device.create_stream(arrays.make_stream(int(stream.handle), stream)).handle) == int(stream.handle)
