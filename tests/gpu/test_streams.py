"""Streams and captures of the real libraries: the author's kernel runs where the array's work runs."""

import time

import numpy as np
import pycai
import pytest
import probe_cuda as probe

N = 1024


def launch_stream(*arrays, order="adopt"):
    """The stream that a call of these arrays launches on."""
    return probe.call(arrays, tuple({"name": f"a{i}"} for i in range(len(arrays))), order)["stream"]


# ------------------------------------------------------------------------------------------------------ side streams


def test_torch_side_stream_is_the_launch_stream(torch):
    side = torch.cuda.Stream()
    x = torch.ones(N, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        assert launch_stream(x) == side.cuda_stream
    assert launch_stream(x) == 1  # torch's default stream is the legacy one


def test_cupy_side_stream_is_the_launch_stream(cupy):
    x = cupy.ones(N, "float32")
    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        assert launch_stream(x) == side.ptr
    assert launch_stream(x) == 1


def test_numba_bound_stream_is_the_launch_stream(numba_cuda):
    stream = numba_cuda.stream()
    x = numba_cuda.to_device(np.ones(N, "float32"), stream=stream)
    stream.synchronize()
    assert launch_stream(x) == int(getattr(stream.handle, "value", stream.handle))


def test_torch_saxpy_runs_behind_pending_work_of_a_side_stream(torch, delays):
    side = torch.cuda.Stream()
    x, y, s = (torch.zeros(N, device="cuda") for _ in range(3))
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        delays.fill(side.cuda_stream, x.data_ptr(), N, 5.0)
        pycai.saxpy(s, x, y)
    side.synchronize()
    assert bool((s == 10).all())


def test_cupy_saxpy_runs_behind_pending_work_of_a_side_stream(cupy, delays):
    side = cupy.cuda.Stream(non_blocking=True)
    x, y, s = (cupy.zeros(N, "float32") for _ in range(3))
    cupy.cuda.Device().synchronize()
    with side:
        delays.fill(side.ptr, x.data.ptr, N, 5.0)
        pycai.saxpy(s, x, y)
    side.synchronize()
    assert bool((s == 10).all())


# ----------------------------------------------------------------------------------------------- different streams


def test_wait_sees_the_producers_pending_work(cupy, delays):
    producer = cupy.cuda.Stream(non_blocking=True)
    consumer = cupy.cuda.Stream(non_blocking=True)
    x, seen = cupy.zeros(N, "float32"), cupy.zeros(N, "float32")
    cupy.cuda.Device().synchronize()
    with producer:
        delays.fill(producer.ptr, x.data.ptr, N, 5.0)
        view = probe.acquire(x, consumer.ptr)
    assert view.describe()["stream"] == consumer.ptr
    delays.copy(consumer.ptr, seen.data.ptr, x.data.ptr, N, 0.0)
    assert view.release() == "OK"
    consumer.synchronize()
    assert bool((seen == 5).all())


def test_producers_later_work_comes_after_the_consumers(cupy, delays):
    producer = cupy.cuda.Stream(non_blocking=True)
    consumer = cupy.cuda.Stream(non_blocking=True)
    x, seen = cupy.ones(N, "float32"), cupy.zeros(N, "float32")
    cupy.cuda.Device().synchronize()
    with producer:
        view = probe.acquire(x, consumer.ptr)
        delays.copy(consumer.ptr, seen.data.ptr, x.data.ptr, N, 50.0)
        assert view.release() == "OK"
        x.fill(9)
    consumer.synchronize()
    producer.synchronize()
    assert bool((seen == 1).all())


def test_arguments_on_different_streams_are_ordered(cupy, torch, delays):
    side = torch.cuda.Stream()
    other = cupy.cuda.Stream(non_blocking=True)
    x = torch.zeros(N, device="cuda")
    y, s = cupy.zeros(N, "float32"), cupy.zeros(N, "float32")
    torch.cuda.synchronize()
    with torch.cuda.stream(side), other:
        delays.fill(side.cuda_stream, x.data_ptr(), N, 2.0)
        delays.fill(other.ptr, y.data.ptr, N, 3.0)
        pycai.saxpy(s, x, y)
        after = s + 0  # on `other`, the stream of the first argument
    other.synchronize()
    assert bool((after == 7).all())


def test_dlpack_source_is_not_reused_under_the_consumers_work(jax, cupy, delays):
    """JAX tells no stream, and hands memory out again the moment it is given back."""
    import jax.numpy as jnp

    consumer = cupy.cuda.Stream(non_blocking=True)
    seen = cupy.zeros(N, "float32")
    x = jnp.full(N, 3.0, dtype="float32").block_until_ready()
    pointer = x.unsafe_buffer_pointer()
    view = probe.acquire(x, consumer.ptr)
    delays.copy(consumer.ptr, seen.data.ptr, pointer, N, 50.0)
    del x
    assert view.release() == "OK"
    del view
    again = [jnp.full(N, 7.0, dtype="float32").block_until_ready() for _ in range(4)]
    assert pointer not in [array.unsafe_buffer_pointer() for array in again]
    consumer.synchronize()
    assert bool((seen == 3).all())
    for _ in range(1000):  # it is given back by itself, and then at once to whoever comes next
        again.append(jnp.full(N, 7.0, dtype="float32").block_until_ready())
        if again[-1].unsafe_buffer_pointer() == pointer:
            break
        time.sleep(0.001)
    assert again[-1].unsafe_buffer_pointer() == pointer  # the race was there to be lost


def test_block_returns_when_the_work_is_done(cupy, delays):
    side = cupy.cuda.Stream(non_blocking=True)
    x = cupy.zeros(N, "float32")
    cupy.cuda.Device().synchronize()
    with side:
        delays.fill(side.ptr, x.data.ptr, N, 4.0)
        view = probe.acquire(x, "block")
    assert side.done
    assert view.release() == "OK"


def test_adopt_and_none_do_not_wait(cupy, delays):
    side = cupy.cuda.Stream(non_blocking=True)
    x = cupy.zeros(N, "float32")
    cupy.cuda.Device().synchronize()
    for order in ("adopt", "none"):
        with side:
            delays.fill(side.ptr, x.data.ptr, N, 4.0)
            view = probe.acquire(x, order)
            assert not side.done
            assert view.release() == "OK"
            assert not side.done
        side.synchronize()


# --------------------------------------------------------------------------------------------------------- captures


def test_torch_graph_replays_saxpy(torch):
    x, y, s = (torch.zeros(N, device="cuda") for _ in range(3))
    pycai.saxpy(s, x, y)  # load the module before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pycai.saxpy(s, x, y, a=4.0)
    for value in (1.0, 2.0):
        x.fill_(value)
        y.fill_(10.0)
        graph.replay()
        torch.cuda.synchronize()
        assert bool((s == 4 * value + 10).all())


def test_cupy_capture_replays_saxpy(cupy):
    x, y, s = (cupy.zeros(N, "float32") for _ in range(3))
    pycai.saxpy(s, x, y)
    side = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with side:
        side.begin_capture()
        pycai.saxpy(s, x, y, a=4.0)
        graph = side.end_capture()
    for value in (1.0, 2.0):
        x.fill(value)
        y.fill(10.0)
        cupy.cuda.Device().synchronize()
        graph.launch(side)
        side.synchronize()
        assert bool((s == 4 * value + 10).all())


@pytest.mark.parametrize("what", ["dlpack only", "other stream"])
def test_what_a_capture_cannot_order_is_refused_and_leaves_it_intact(cupy, jax, what):
    import jax.numpy as jnp

    y, s = cupy.zeros(N, "float32"), cupy.zeros(N, "float32")
    outside = cupy.cuda.Stream(non_blocking=True)
    x = jnp.ones(N, dtype="float32").block_until_ready() if what == "dlpack only" else cupy.ones(N, "float32")
    pycai.saxpy(s, y, y)
    side = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with side:
        side.begin_capture()
        if what == "dlpack only":
            with pytest.raises(pycai.StreamCaptureError, match="argument 'x'"):
                pycai.saxpy(s, x, y)
        else:
            with pytest.raises(probe.StreamCaptureError, match="argument 'a0'"):
                launch_stream(x, order=outside.ptr)
        pycai.saxpy(s, y, y, a=4.0)
        graph = side.end_capture()
    y.fill(1.0)
    cupy.cuda.Device().synchronize()
    graph.launch(side)
    side.synchronize()
    assert bool((s == 5).all())


@pytest.mark.parametrize("mode", [0, 1, 2], ids=["global", "thread-local", "relaxed"])
def test_a_wait_breaks_no_capture_elsewhere(cupy, mode):
    x, s = cupy.ones(N, "float32"), cupy.zeros(N, "float32")
    pycai.saxpy(s, x, x)
    capturing = cupy.cuda.Stream(non_blocking=True)
    producer, consumer = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with capturing:
        capturing.begin_capture(mode)
    with producer:
        view = probe.acquire(x, consumer.ptr)
        assert view.release() == "OK"
    with capturing:
        pycai.saxpy(s, x, x, a=4.0)
        graph = capturing.end_capture()
    graph.launch(capturing)
    capturing.synchronize()
    assert bool((s == 5).all())
