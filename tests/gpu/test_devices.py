"""Two GPUs: an array's own device is current inside the call, and the old one afterwards."""

import numpy as np
import pycai
import pytest
import probe_cuda as probe

pytestmark = pytest.mark.usefixtures("two_gpus")

N = 256


def current(cupy):
    return cupy.cuda.runtime.getDevice()


@pytest.mark.parametrize("library", ["cupy", "torch", "jax", "numba_cuda"])
def test_arrays_on_device_1_while_device_0_is_current(library, cupy, request):
    values = np.arange(N, dtype="float32")
    with cupy.cuda.Device(1):
        s = cupy.zeros(N, "float32")
    if library == "cupy":
        with cupy.cuda.Device(1):
            x = cupy.asarray(values)
    elif library == "torch":
        x = request.getfixturevalue("torch").as_tensor(values, device="cuda:1")
    elif library == "jax":
        jax = request.getfixturevalue("jax")
        x = jax.device_put(values, jax.devices("gpu")[1]).block_until_ready()
    else:
        numba_cuda = request.getfixturevalue("numba_cuda")
        with numba_cuda.gpus[1]:
            x = numba_cuda.to_device(values)
    cupy.cuda.runtime.setDevice(0)
    pycai.saxpy(s, x, x)
    assert current(cupy) == 0
    description = probe.acquire(x).describe()
    assert description["device"] == (probe.DEVICE_CUDA, 1)
    assert current(cupy) == 0
    with cupy.cuda.Device(1):
        np.testing.assert_array_equal(s.get(), 3 * values)


def test_the_arrays_device_is_current_inside_a_call(cupy):
    with cupy.cuda.Device(1):
        x = cupy.ones(N, "float32")
    cupy.cuda.runtime.setDevice(0)
    seen = probe.call((x,), ({"name": "x"},), "adopt", lambda call: (current(cupy), call["device"]))
    assert seen == (1, (probe.DEVICE_CUDA, 1))
    assert current(cupy) == 0


def test_arrays_on_two_devices_are_refused(cupy):
    arrays = []
    for device in (0, 1):
        with cupy.cuda.Device(device):
            arrays.append(cupy.ones(N, "float32"))
    cupy.cuda.runtime.setDevice(0)
    with pytest.raises(pycai.DeviceMismatchError, match="argument 'x': expected an array on CUDA device 0.*device 1"):
        pycai.saxpy(arrays[0], arrays[1], arrays[0])
    assert current(cupy) == 0


class Told:
    """An array that tells a stream of its own device; CuPy tells one of the device that is current."""

    def __init__(self, array, stream):
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "version": 3, "stream": stream.ptr}


@pytest.mark.parametrize("order", ["wait", "block"])
def test_pending_work_of_device_1_is_waited_for_from_device_0(cupy, delays, order):
    with cupy.cuda.Device(1):
        x, seen = cupy.zeros(N, "float32"), cupy.zeros(N, "float32")
        producer, consumer = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.Device().synchronize()
        told = Told(x, producer)
        delays.fill(producer.ptr, x.data.ptr, N, 6.0)
        cupy.cuda.runtime.setDevice(0)
        view = probe.acquire(told, consumer.ptr if order == "wait" else "block")
        assert current(cupy) == 0
        cupy.cuda.runtime.setDevice(1)
        delays.copy(consumer.ptr, seen.data.ptr, x.data.ptr, N, 0.0)
        consumer.synchronize()
        assert bool((seen == 6).all())
    cupy.cuda.runtime.setDevice(0)
    assert view.release() == "OK"
    assert current(cupy) == 0


def test_torch_on_device_1_by_its_own_stream(torch, cupy):
    side = torch.cuda.Stream(device=1)
    x = torch.ones(N, device="cuda:1")
    torch.cuda.synchronize(1)
    cupy.cuda.runtime.setDevice(0)
    with torch.cuda.stream(side):
        torch.cuda.set_device(0)
        stream = probe.call((x,), ({"name": "x"},))["stream"]
    assert stream == side.cuda_stream
