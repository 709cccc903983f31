"""Fixtures of the GPU suite: which libraries and GPUs there are, and kernels that take long on purpose."""

import ctypes
import gc
import importlib
import importlib.util
import os
import pathlib
import sys

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


def _runtime_libraries():
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


@pytest.fixture(scope="session")
def delays():
    return Delays()


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
