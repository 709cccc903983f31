"""Fixtures of the GPU suite: which libraries and GPUs there are, the CUDA runtime, and kernels that take long."""

import ctypes
import functools
import gc
import importlib
import importlib.util
import os
import pathlib
import sys

import numpy as np
import pytest

REQUIRED = os.environ.get("CAI_REQUIRE_GPU") == "1"


def count_gpus():
    """How many GPUs the CUDA runtime sees, asked without any array library."""
    try:
        runtime = ctypes.CDLL(next(iter(_runtime_libraries())))
    except (OSError, StopIteration):
        return 0
    count = ctypes.c_int()
    return count.value if runtime.cudaGetDeviceCount(ctypes.byref(count)) == 0 else 0


@functools.cache
def _runtime_libraries():
    """The runtime that the extension modules are linked with: asked before any library has loaded another one."""
    import probe_cuda  # noqa: F401  linked with the runtime

    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if "libcudart" in line}


def pytest_collection_modifyitems(config, items):
    if count_gpus() == 0 and not REQUIRED:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the CUDA runtime sees no GPU"))


def pytest_sessionstart(session):
    if REQUIRED and count_gpus() == 0:
        pytest.exit("a GPU is required, and the CUDA runtime sees none", returncode=1)


def require(name):
    """A library that the suite compares with; with --gpu a missing one is a failure, not a skip."""
    if REQUIRED:
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(scope="session")
def torch():
    return require("torch")


@pytest.fixture(scope="session")
def cupy():
    return require("cupy")


@pytest.fixture(scope="session")
def jax():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return require("jax")


@pytest.fixture(scope="session")
def numba_cuda():
    return require("numba.cuda")


@pytest.fixture(scope="session")
def cuda_core():
    return require("cuda.core")


@pytest.fixture
def two_gpus(cupy):
    """Skips on machines with one GPU."""
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("the machine has one GPU")


class CudaError(Exception):
    """A call of a test, not of cai, failed."""

    def __init__(self, name, code):
        super().__init__(f"{name} answered {code}")
        self.code = code


class Graph:
    """An executable graph, from the end of a capture."""

    def __init__(self, cuda, graph):
        self._cuda, self._executable = cuda, ctypes.c_void_p()
        cuda.call("cudaGraphInstantiate", ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        cuda.call("cudaGraphDestroy", graph)

    def run(self, stream):
        """Launch it and wait until it is done."""
        self._cuda.call("cudaGraphLaunch", self._executable, ctypes.c_void_p(stream))
        self._cuda.synchronize(stream)

    def destroy(self):
        self._cuda.call("cudaGraphExecDestroy", self._executable)


class Runtime:
    """The CUDA runtime by ctypes: what a test does itself, beside cai and the array libraries.

    Streams are numbers. Those of the kinds "blocking" and "non-blocking" live as long as the session, since arrays and
    views may not outlive theirs.
    """

    NOT_READY = 600
    BLOCKING, NON_BLOCKING = 0, 1
    GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2

    def __init__(self):
        self._library = ctypes.CDLL(min(_runtime_libraries()))
        self._streams, self._pinned = {}, {}

    def function(self, name):
        return getattr(self._library, name)

    def call(self, name, *arguments):
        """Make a call; a result other than success raises, and is not left behind as the last error."""
        code = self.function(name)(*arguments)
        if code != 0:
            self.function("cudaGetLastError")()
            raise CudaError(name, code)

    def number(self, name):
        """What a call of one int * answers."""
        value = ctypes.c_int(-1)
        self.call(name, ctypes.byref(value))
        return value.value

    def device(self):
        return self.number("cudaGetDevice")

    def set_device(self, device):
        self.call("cudaSetDevice", device)

    def synchronize_devices(self):
        current = self.device()
        for device in range(self.number("cudaGetDeviceCount")):
            self.set_device(device)
            self.call("cudaDeviceSynchronize")
        self.set_device(current)

    # -------------------------------------------------------------------------------------------------------- memory

    def allocate(self, size):
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value

    def free(self, pointer):
        self.call("cudaFree", ctypes.c_void_p(pointer))

    def _copy(self, target, source, size):
        self.call("cudaMemcpy", ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size), 4)

    def write(self, pointer, n, value):
        """Fill with floats, and wait until they are there for every stream."""
        values = np.full(n, value, "float32")
        self._copy(pointer, values.ctypes.data, values.nbytes)
        self.call("cudaStreamSynchronize", ctypes.c_void_p(1))

    def read(self, pointer, n):
        """The floats that are there now; waits for nobody but legacy."""
        values = np.empty(n, "float32")
        self._copy(values.ctypes.data, pointer, values.nbytes)
        return values

    def pinned(self, n):
        """Floats in pinned memory, all 0: the same memory every time, which lives as long as the session."""
        if n not in self._pinned:
            pointer = ctypes.c_void_p()
            self.call("cudaMallocHost", ctypes.byref(pointer), ctypes.c_size_t(4 * n))
            self._pinned[n] = np.ctypeslib.as_array((ctypes.c_float * n).from_address(pointer.value))
        self._pinned[n][:] = 0
        return self._pinned[n]

    def copy_out(self, target, pointer, stream):
        """Enqueue a copy into pinned memory, from whatever device."""
        arguments = ctypes.c_void_p(target.ctypes.data), ctypes.c_void_p(pointer), ctypes.c_size_t(target.nbytes)
        self.call("cudaMemcpyAsync", *arguments, 4, ctypes.c_void_p(stream))

    # ------------------------------------------------------------------------------------------------------- streams

    def stream(self, kind, which=0, device=0):
        """The number of a stream of that kind: the same one for the same arguments."""
        if kind in ("legacy", "per-thread"):
            return {"legacy": 1, "per-thread": 2}[kind]
        if (kind, which, device) not in self._streams:
            handle, current = ctypes.c_void_p(), self.device()
            self.set_device(device)
            flags = self.BLOCKING if kind == "blocking" else self.NON_BLOCKING
            self.call("cudaStreamCreateWithFlags", ctypes.byref(handle), ctypes.c_uint(flags))
            self.set_device(current)
            self._streams[kind, which, device] = handle.value
        return self._streams[kind, which, device]

    def synchronize(self, stream):
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def busy(self, stream):
        """Whether work is pending there."""
        code = self.function("cudaStreamQuery")(ctypes.c_void_p(stream))
        if code == 0:
            return False
        self.function("cudaGetLastError")()
        if code != self.NOT_READY:
            raise CudaError("cudaStreamQuery", code)
        return True

    def order(self, before, after):
        """Let one stream of the current device wait for another; in a capture this is a fork or a join."""
        event = ctypes.c_void_p()
        self.call("cudaEventCreateWithFlags", ctypes.byref(event), ctypes.c_uint(2))
        self.call("cudaEventRecord", event, ctypes.c_void_p(before))
        self.call("cudaStreamWaitEvent", ctypes.c_void_p(after), event, ctypes.c_uint(0))
        self.call("cudaEventDestroy", event)

    # ------------------------------------------------------------------------------------------------------ captures

    def begin_capture(self, stream, mode=GLOBAL):
        self.call("cudaStreamBeginCapture", ctypes.c_void_p(stream), mode)

    def is_intact(self, stream):
        """Whether the stream captures, and nothing has broken that."""
        status = ctypes.c_int()
        self.call("cudaStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
        return status.value == 1

    def end_capture(self, stream):
        graph = ctypes.c_void_p()
        self.call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        return Graph(self, graph)

    def abandon_captures(self):
        """End what a test that failed has left, so that it fails alone."""
        for stream in self._streams.values():
            status, graph = ctypes.c_int(), ctypes.c_void_p()
            self.function("cudaStreamIsCapturing")(ctypes.c_void_p(stream), ctypes.byref(status))
            if status.value != 0:
                self.function("cudaStreamEndCapture")(ctypes.c_void_p(stream), ctypes.byref(graph))
            if graph.value:
                self.call("cudaGraphDestroy", graph)
        self.function("cudaGetLastError")()


@pytest.fixture(scope="session")
def cuda():
    return Runtime()


_NOTHING = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None)


class Delays:
    """Kernels that take long; arguments as in delays.cu."""

    def __init__(self):
        folder = pathlib.Path(importlib.util.find_spec("probe_cuda").origin).parent
        self._library = ctypes.CDLL(str(folder / "libdelays.so"))

    def fill(self, stream, pointer, n, value, milliseconds=50.0):
        assert self._library.delayed_fill(ctypes.c_void_p(stream), ctypes.c_void_p(pointer), ctypes.c_longlong(n),
                                          ctypes.c_float(value), ctypes.c_double(milliseconds)) == 0

    def copy(self, stream, target, source, n, milliseconds=50.0):
        assert self._library.delayed_copy(ctypes.c_void_p(stream), ctypes.c_void_p(target), ctypes.c_void_p(source),
                                          ctypes.c_longlong(n), ctypes.c_double(milliseconds)) == 0

    def warm_up(self, cuda):
        """Launch each kernel, and have the host called, on each device: the first time loads and makes things, which takes
        long and may wait for the device."""
        for device in range(cuda.number("cudaGetDeviceCount")):
            cuda.set_device(device)
            pointer = cuda.allocate(8)
            self.fill(1, pointer, 1, 0.0, 0.0)
            self.copy(1, pointer + 4, pointer, 1, 0.0)
            cuda.call("cudaLaunchHostFunc", ctypes.c_void_p(1), _NOTHING, None)
            cuda.synchronize(1)
            cuda.free(pointer)
        cuda.set_device(0)


@pytest.fixture(scope="session")
def delays(cuda):
    delays = Delays()
    delays.warm_up(cuda)
    return delays


@pytest.fixture
def unchanged():
    """A function that runs a callable and demands that the reference counts of objects do not change by it."""

    def check(function, *objects):
        gc.collect()
        before = [sys.getrefcount(item) for item in objects]
        result = function()
        gc.collect()
        assert [sys.getrefcount(item) for item in objects] == before
        return result

    return check
