"""What is on this machine: the libraries, the GPU, streams, and arrays from every producer."""

import array
import contextlib
import functools
import importlib
import math
import os

from measure import Cannot

SHAPES = {1: (64,), 2: (8, 8), 8: (2, 2, 2, 2, 2, 2, 1, 1)}


class Dictionary:
    """An object whose CUDA Array Interface is a plain dict."""

    def __init__(self, interface):
        self.__cuda_array_interface__ = interface


class World:
    """Libraries are imported when a case asks for them. Streams: the producer's and the consumer's, by handle."""

    def __init__(self, modules):
        self.modules = modules  # those that were built, or the Cannot of each
        self.has_gpu = not isinstance(modules["floor"], Exception) and modules["floor"].device_count() > 0
        self.legacy = 1
        if self.has_gpu:
            floor = modules["floor"]
            self.producer, self.consumer = floor.new_stream(), floor.new_stream()
            self.device_memory = floor.use_cuda(self.consumer)
            modules["cai"].use_cuda(self.consumer, self.device_memory)

    @functools.cache  # noqa: B019  there is one of these in a run
    def library(self, name):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError)
            raise Cannot(f"{name} is not installed" if missing else f"{name}: {error}") from None
        if name == "torch":
            self._tell_floor_of_torch(module)
        return module

    def _tell_floor_of_torch(self, torch):
        table = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
        if table is None:
            raise Cannot(f"torch {torch.__version__} has no table of DLPack's exchange API")
        self.built("floor").use_torch(table)

    def built(self, name):
        module = self.modules[name]
        if isinstance(module, Exception):
            raise module
        return module

    def need_gpu(self):
        if not self.has_gpu:
            raise Cannot("there is no GPU")

    # ------------------------------------------------------------------------------------------------------- arrays

    def arrays(self, producer, ndim, count, stream=1):
        """New arrays; those of Numba and of the dicts are bound to a stream."""
        make = getattr(self, "_" + producer.replace("-", "_").replace(".", "_"))
        return [make(SHAPES[ndim], stream) for _ in range(count)]

    def _numpy(self, shape, _):
        return self.library("numpy").zeros(shape, "float32")

    @functools.cache  # noqa: B019  there is one of these in a run
    def _derived(self):
        return type("Derived", (self.library("numpy").ndarray,), {})

    def _numpy_derived(self, shape, _):
        return self._numpy(shape, None).view(self._derived())

    def _memoryview(self, shape, _):
        return memoryview(bytearray(4 * math.prod(shape))).cast("f", shape)

    def _array_array(self, shape, _):
        return array.array("f", bytes(4 * math.prod(shape)))

    def _torch_cpu(self, shape, _):
        return self.library("torch").zeros(shape)

    def _jax_cpu(self, shape, _):
        jax = self.library("jax")
        return jax.device_put(self._numpy(shape, None), jax.devices("cpu")[0])

    def _array_host(self, *_):
        return self.built("cai").array_host()

    def _torch_cuda(self, shape, _):
        return self.library("torch").zeros(shape, device="cuda")

    def _cupy(self, shape, _):
        return self.library("cupy").zeros(shape, "float32")

    def _numba(self, shape, stream):
        cuda = self.library("numba.cuda")
        bound = cuda.legacy_default_stream() if stream == self.legacy else cuda.external_stream(stream)
        return cuda.to_device(self._numpy(shape, None), stream=bound)

    def _jax_cuda(self, shape, _):
        jax = self.library("jax")
        return jax.device_put(self._numpy(shape, None), jax.devices("cuda")[0])

    def _dict(self, shape, stream):
        data = (self.device_memory, False)
        interface = {"shape": shape, "typestr": "<f4", "data": data, "version": 3, "strides": None, "stream": stream}
        return Dictionary(interface)

    def _array_cuda(self, *_):
        return self.built("cai").array_cuda()

    # ------------------------------------------------------------------------------------------------------ streams

    def on_stream(self, library, stream):
        """A function that makes a context in which a stream is the library's current one."""
        if library == "torch":
            cuda = self.library("torch").cuda
            return functools.partial(cuda.stream, cuda.ExternalStream(stream))
        if library == "cupy":
            external = self.library("cupy").cuda.ExternalStream(stream)
            return lambda: external
        return contextlib.nullcontext

    def settle(self):
        self.built("floor").synchronize()
