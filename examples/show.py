"""Runs pycai.saxpy on every kind of array that this machine has, hands arrays that C made to every library, and prints what
came of it; examples/run calls it.

Each row is one call s = a x + y. It is right if the values are, if the memory that the function saw is the array's own
(no copy), if no array is referenced more or less often afterwards, and if the current GPU is the one it was. A row that is
wrong makes the exit status 1. The second table is of arrays on their way out.
"""

import array
import contextlib
import functools
import gc
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import owntype
import pycai

A = 2.5

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@dataclass
class Row:
    """One call. `read` makes a NumPy array of s, `pointer` is where the library says that s lies, `run` calls saxpy, and
    `stream` is the library's context of a stream that all of it happens on."""

    producer: str
    s: Any
    x: Any
    y: Any
    expected: Any = None
    read: Callable = np.asarray
    pointer: int | None = None
    refused: type | None = None
    run: Callable = lambda row: pycai.saxpy(row.s, row.x, row.y, a=A)
    stream: Callable = contextlib.nullcontext


def values(shape, dtype="float32"):
    """Two arrays of inputs, and what saxpy makes of them."""
    rng = np.random.default_rng(1)
    x, y = rng.random(shape).astype(dtype), rng.random(shape).astype(dtype)
    return x, y, np.asarray(A * x.astype("float64") + y)


def optional(name):
    """A module, or None where it is not installed or cannot be used here."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library whose own libraries are missing may raise anything
        missing[name] = (
            "not installed" if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__} on import"
        )
        return None


missing = {}

# --------------------------------------------------------------------------------------------------------- host memory


def numpy_row(what, cut, shape, dtype="float32"):
    """Arrays cut out of larger ones, so that they are laid out as `cut` says."""
    x, y, _ = values(shape, dtype)
    s = cut(np.zeros_like(x))
    x, y = cut(x), cut(y)
    return Row(f"NumPy, {what}", s, x, y, A * x.astype("float64") + y, pointer=s.ctypes.data if s.size else None)


def numpy_rows():
    yield numpy_row("float32", lambda a: a, (4, 5, 6))
    yield numpy_row("float64", lambda a: a, (4, 5, 6), "float64")
    yield numpy_row("Fortran order", np.asfortranarray, (4, 5, 6))
    yield numpy_row("transposed", lambda a: a.transpose(2, 0, 1), (4, 5, 6))
    yield numpy_row("negative strides", lambda a: a[::-1, :, ::-1], (4, 5, 6))
    yield numpy_row("strided slices", lambda a: a[1:, ::2, 1::3], (4, 5, 6))
    yield numpy_row("0-d", lambda a: a, ())
    yield numpy_row("empty", lambda a: a[:0], (4, 5))
    x, y, expected = values((5, 6))
    s = np.zeros_like(x)
    yield Row("NumPy, three orders", s, np.asfortranarray(x), y[::-1].copy()[::-1], expected, pointer=s.ctypes.data)
    s = np.zeros_like(x)
    s.flags.writeable = False
    yield Row("NumPy, read-only s", s, x, y, refused=pycai.ReadOnlyAccessError)
    yield Row("NumPy, int32 s", np.zeros((5, 6), "int32"), x, y, refused=pycai.DtypeMismatchError)


def standard_library_rows():
    for code, dtype in (("f", "float32"), ("d", "float64")):
        x, y, expected = values(7, dtype)
        s = array.array(code, bytes(x.nbytes))
        yield Row(
            f"array.array('{code}')",
            s,
            array.array(code, x),
            array.array(code, y),
            expected,
            pointer=s.buffer_info()[0],
        )
    x, y, expected = values(7)
    memory = bytearray(x.nbytes)
    yield Row("memoryview of a bytearray", memoryview(memory).cast("f"), memoryview(x), memoryview(y), expected)
    yield Row(
        "memoryview of bytes as s", memoryview(bytes(x.nbytes)).cast("f"), x, y, refused=pycai.ReadOnlyAccessError
    )


def pyarrow_rows(pyarrow):
    x, y, expected = values(7)
    yield Row("PyArrow, inputs", np.zeros_like(x), pyarrow.array(x), pyarrow.array(y), expected)
    yield Row("PyArrow, s", pyarrow.array(x), pyarrow.array(x), pyarrow.array(y), refused=pycai.ReadOnlyAccessError)


def torch_rows(torch):
    x, y, expected = values((5, 6))
    s = torch.zeros(5, 6)
    yield Row("PyTorch, CPU", s, torch.from_numpy(x), torch.from_numpy(y), expected, pointer=s.data_ptr())
    s = torch.zeros(6, 5).t()
    yield Row("PyTorch, CPU, transposed", s, torch.from_numpy(x), torch.from_numpy(y), expected, pointer=s.data_ptr())
    yield Row(
        "PyTorch, CPU, s with gradient",
        torch.zeros(5, 6, requires_grad=True),
        torch.from_numpy(x),
        torch.from_numpy(y),
        refused=pycai.ReadOnlyAccessError,
    )


def jax_rows(jax):
    x, y, expected = values((5, 6))
    cpu = jax.devices("cpu")[0]
    jax_x, jax_y = jax.device_put(x, cpu), jax.device_put(y, cpu)
    yield Row("JAX, CPU, inputs", np.zeros_like(x), jax_x, jax_y, expected)
    yield Row("JAX, CPU, s", jax.device_put(x, cpu), jax_x, jax_y, refused=pycai.ReadOnlyAccessError)


# ---------------------------------------------------------------------------------------------------------- GPU memory


def torch_gpu_rows(torch):
    x, y, expected = values((50, 60))

    def put(values):
        return torch.as_tensor(values, device="cuda")

    def read(tensor):
        return tensor.cpu().numpy()

    s = put(np.zeros_like(x))
    yield Row("PyTorch", s, put(x), put(y), expected, read, s.data_ptr())
    s = put(np.zeros_like(x.T)).t()
    yield Row("PyTorch, transposed", s, put(x), put(y), expected, read, s.data_ptr())

    side = torch.cuda.Stream()

    def on_the_side(row):
        torch.cuda._sleep(20_000_000)
        row.x += 1  # pending on the side stream when saxpy is called
        pycai.saxpy(row.s, row.x, row.y, a=A)
        side.synchronize()

    s = put(np.zeros_like(x))
    arrays = s, put(x), put(y)
    torch.cuda.synchronize()
    yield Row(
        "PyTorch, side stream",
        *arrays,
        expected + A,
        read,
        s.data_ptr(),
        run=on_the_side,
        stream=lambda: torch.cuda.stream(side),
    )

    def captured(row):
        graph = torch.cuda.CUDAGraph()
        pycai.saxpy(row.s, row.x, row.y, a=A)
        with torch.cuda.graph(graph):
            pycai.saxpy(row.s, row.x, row.y, a=A)
        row.x += 1
        graph.replay()
        torch.cuda.synchronize()

    s = put(np.zeros_like(x))
    yield Row("PyTorch, graph replayed", s, put(x), put(y), expected + A, read, s.data_ptr(), run=captured)


def cupy_gpu_rows(cupy):
    x, y, expected = values((50, 60))

    def read(array):
        return array.get()

    s = cupy.zeros_like(cupy.asarray(x))
    yield Row("CuPy", s, cupy.asarray(x), cupy.asarray(y), expected, read, s.data.ptr)
    s = cupy.zeros((50, 60))
    yield Row(
        "CuPy, float64",
        s,
        cupy.asarray(x, "float64"),
        cupy.asarray(y, "float64"),
        A * x.astype("float64") + y.astype("float64"),
        read,
        s.data.ptr,
    )
    s = cupy.zeros((50, 60), "float32")[::-1]
    yield Row("CuPy, negative strides", s, cupy.asarray(x), cupy.asarray(y), expected, read, s.data.ptr)

    side = cupy.cuda.Stream(non_blocking=True)

    def on_the_side(row):
        for _ in range(100):
            row.x += 1  # pending on the side stream when saxpy is called
        pycai.saxpy(row.s, row.x, row.y, a=A)
        side.synchronize()

    def captured(row):
        pycai.saxpy(row.s, row.x, row.y, a=A)
        side.begin_capture()
        pycai.saxpy(row.s, row.x, row.y, a=A)
        graph = side.end_capture()
        row.x += 1
        graph.launch(side)
        side.synchronize()

    for what, run, added in (("side stream", on_the_side, 100), ("graph replayed", captured, 1)):
        s = cupy.zeros((50, 60), "float32")
        arrays = s, cupy.asarray(x), cupy.asarray(y)
        cupy.cuda.Device().synchronize()
        yield Row(f"CuPy, {what}", *arrays, expected + added * A, read, s.data.ptr, run=run, stream=lambda: side)

    pool = cupy.cuda.MemoryPool(cupy.cuda.malloc_managed)
    with cupy.cuda.using_allocator(pool.malloc):
        s, managed_x, managed_y = cupy.zeros((50, 60), "float32"), cupy.asarray(x), cupy.asarray(y)
    yield Row("CuPy, managed memory", s, managed_x, managed_y, expected, read, s.data.ptr)
    if cupy.cuda.runtime.getDeviceCount() > 1:
        other = 1 - cupy.cuda.runtime.getDevice()
        with cupy.cuda.Device(other):
            s, other_x, other_y = cupy.zeros((50, 60), "float32"), cupy.asarray(x), cupy.asarray(y)
        yield Row("CuPy, not the current GPU", s, other_x, other_y, expected, read, s.data.ptr)
    yield Row("CuPy s, NumPy inputs", cupy.zeros((50, 60), "float32"), x, y, refused=pycai.DeviceMismatchError)


def numba_gpu_rows(cuda):
    x, y, expected = values((50, 60))
    s = cuda.to_device(np.zeros_like(x))
    yield Row(
        "Numba",
        s,
        cuda.to_device(x),
        cuda.to_device(y),
        expected,
        lambda array: array.copy_to_host(),
        s.__cuda_array_interface__["data"][0],
    )


def jax_gpu_rows(jax, cupy):
    x, y, expected = values((50, 60))
    gpu = jax.devices("gpu")[0]
    jax_x, jax_y = jax.device_put(x, gpu), jax.device_put(y, gpu)
    if cupy is not None:
        s = cupy.zeros((50, 60), "float32")
        yield Row("JAX inputs, CuPy s", s, jax_x, jax_y, expected, lambda array: array.get(), s.data.ptr)
    yield Row("JAX, s", jax.device_put(x, gpu), jax_x, jax_y, refused=pycai.ReadOnlyAccessError)


def cuda_core_gpu_rows(_, cupy):
    from cuda.core.utils import StridedMemoryView

    x, y, expected = values((50, 60))
    s = cupy.zeros((50, 60), "float32")
    views = [
        StridedMemoryView.from_any_interface(array, stream_ptr=-1) for array in (s, cupy.asarray(x), cupy.asarray(y))
    ]
    yield Row("cuda.core, views", *views, expected, lambda _: s.get(), s.data.ptr)


def mixed_gpu_rows(torch, cupy):
    x, y, expected = values((50, 60))
    s = torch.zeros(50, 60, device="cuda")
    yield Row(
        "PyTorch s, CuPy inputs",
        s,
        cupy.asarray(x),
        cupy.asarray(y),
        expected,
        lambda array: array.cpu().numpy(),
        s.data_ptr(),
    )


# ------------------------------------------------------------------------------------------------------------ the table


def host_rows():
    yield from numpy_rows()
    yield from standard_library_rows()
    for name, rows in (("pyarrow", pyarrow_rows), ("torch", torch_rows), ("jax", jax_rows)):
        module = optional(name)
        if module is not None:
            yield from rows(module)


def gpu_of(name, module, has_gpu):
    """The module if it sees a GPU, else None."""
    if module is None:
        return None
    try:
        if has_gpu(module):
            return module
        missing[f"{name} on the GPU"] = "sees none"
    except Exception as error:  # every library says it in its own way
        missing[f"{name} on the GPU"] = f"sees none: {type(error).__name__}"
    return None


@functools.cache
def gpu_libraries():
    """The libraries that see a GPU."""
    questions = {
        "torch": lambda torch: torch.cuda.is_available(),
        "cupy": lambda cupy: cupy.cuda.runtime.getDeviceCount() > 0,
        "numba.cuda": lambda cuda: cuda.is_available(),
        "jax": lambda jax: len(jax.devices("gpu")) > 0,
    }
    found = {name: gpu_of(name, optional(name), question) for name, question in questions.items()}
    return {name: module for name, module in found.items() if module is not None}


def gpu_rows():
    torch, cupy, numba, jax = (gpu_libraries().get(name) for name in ("torch", "cupy", "numba.cuda", "jax"))
    if torch is not None:
        yield from torch_gpu_rows(torch)
    if cupy is not None:
        yield from cupy_gpu_rows(cupy)
    if numba is not None:
        yield from numba_gpu_rows(numba)
    if jax is not None:
        yield from jax_gpu_rows(jax, cupy)
    if cupy is not None and optional("cuda.core") is not None:
        yield from cuda_core_gpu_rows(None, cupy)
    if torch is not None and cupy is not None:
        yield from mixed_gpu_rows(torch, cupy)


def current_device():
    """The number of the current GPU, from whichever library knows it; None without one."""
    if "cupy" in sys.modules and "cupy" not in missing and "cupy on the GPU" not in missing:
        return sys.modules["cupy"].cuda.runtime.getDevice()
    return None


def refusal(row):
    """The result of a call that has to be refused."""
    try:
        row.run(row)
    except row.refused as error:
        return f"refused: {type(error).__name__}", "-", True
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}", "-", False
    return "WRONG: not refused", "-", False


def references(row):
    """The reference counts of the row's arrays."""
    gc.collect()
    return [sys.getrefcount(item) for item in (row.s, row.x, row.y)]


def references_again(row, before):
    """The same after a call. Arrays whose producer tells no stream come back when the kernel is done, a moment later."""
    deadline = time.monotonic() + 10
    while references(row) != before and time.monotonic() < deadline:
        time.sleep(0.001)
    return references(row)


def call(row, description, before):
    """The result of a call, the largest error, and whether all of it is right."""
    device = current_device()
    try:
        row.run(row)
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}", "-", False
    after = references_again(row, before)
    result = np.asarray(row.read(row.s))
    error = float(np.max(np.abs(result - row.expected), initial=0))
    tolerance = 4 * np.finfo(result.dtype).eps * float(np.max(np.abs(row.expected), initial=1))
    if result.shape != row.expected.shape or not error <= tolerance:
        return "WRONG: the values", f"{error:.1e}", False
    if row.pointer is not None and row.pointer != description["pointer"]:
        return "WRONG: a copy", f"{error:.1e}", False
    if current_device() != device:
        return f"WRONG: device {device} was current, {current_device()} is", f"{error:.1e}", False
    if after != before:
        return f"WRONG: reference counts {before} became {after}", f"{error:.1e}", False
    return "right", f"{error:.1e}", True


def cells(row):
    """The row as text, and whether it is right."""
    with row.stream():
        before = references(row)
        description = pycai.describe(row.s)
        result, error, right = call(row, description, before) if row.refused is None else refusal(row)
    where = description["memory"] + (f" {description['device']}" if description["memory"] == "CUDA" else "")
    order = description["order"]
    if order != "none needed":
        order += f" {description['stream']:#x}"
    return [row.producer, where, description["protocol"], order, result, error], right


# -------------------------------------------------------------------------------------------------------------- the way out


@dataclass
class Out:
    """One array that C made, in the hands of a library. `use` takes the array and gives the values as NumPy sees them, and
    the address that the library works on."""

    what: str
    make: Callable
    library: str
    use: Callable
    expected: Any


def own_buffer(device=False):
    """The example's own class, filled with sevens by the first library that comes along."""
    return owntype.Buffer(4, device=device)


def host_out_rows():
    sevens = np.full(4, 7, "float32")

    def fill(module, convert=np.asarray, address=lambda array: array.data_ptr()):
        def use(buffer):
            np.asarray(buffer)[:] = 7
            array = module.from_dlpack(buffer)
            return convert(array), address(array)

        return use

    yield Out("owntype.Buffer", own_buffer, "NumPy", fill(np, address=lambda array: array.ctypes.data), sevens)
    yield Out("owntype.Buffer", own_buffer, "memoryview", lambda buffer: (np.frombuffer(buffer, "float32"), buffer.ptr),
              np.zeros(4))
    torch, jax = optional("torch"), optional("jax")
    if torch is not None:
        yield Out("owntype.Buffer", own_buffer, "PyTorch", fill(torch), sevens)
    if jax is not None:  # which copies what is not aligned as it likes
        yield Out("owntype.Buffer", own_buffer, "JAX", fill(jax.dlpack, address=lambda array: None), sevens)


def like(made, x):
    """A result that is of the library of x."""
    if type(made) is not type(x):
        raise AssertionError(f"{type(made).__name__} came back for {type(x).__name__}")
    return made


def result_row(library, x, use):
    """axpy(x, x) is three times x, in the library of x; `use` as in Out."""
    return Out("axpy(x, y)", lambda: like(pycai.axpy(x, x), x), library, use, np.arange(0, 12, 3))


def host_result_rows():
    x = np.arange(4, dtype="float32")
    yield result_row("NumPy", x, lambda array: (array, array.ctypes.data))
    torch, jax = optional("torch"), optional("jax")
    if torch is not None:
        yield result_row("PyTorch", torch.from_numpy(x), tensor_of)
    if jax is not None:
        yield result_row("JAX", jax.device_put(x, jax.devices("cpu")[0]), jax_array_of)


def gpu_result_rows():
    x = np.arange(4, dtype="float32")
    torch, cupy, jax = (gpu_libraries().get(name) for name in ("torch", "cupy", "jax"))
    if torch is not None:
        yield result_row("PyTorch", torch.from_numpy(x).cuda(), tensor_of)
    if cupy is not None:
        yield result_row("CuPy", cupy.asarray(x), lambda array: (array.get(), array.data.ptr))
    if jax is not None:
        yield result_row("JAX", jax.device_put(x, jax.devices("gpu")[0]), jax_array_of)


def libraries_on_the_gpu():
    """How each library takes an array of a GPU: its name, and a function as Out.use."""
    for name, module in gpu_libraries().items():
        if name == "cupy":
            yield "CuPy, asarray", lambda array, m=module: (m.asarray(array).get(), m.asarray(array).data.ptr)
            yield "CuPy, from_dlpack", lambda array, m=module: (m.from_dlpack(array).get(), m.from_dlpack(array).data.ptr)
        elif name == "torch":
            yield "PyTorch, as_tensor", lambda array, m=module: tensor_of(m.as_tensor(array, device="cuda"))
            yield "PyTorch, from_dlpack", lambda array, m=module: tensor_of(m.from_dlpack(array))
        elif name == "numba.cuda":
            yield "Numba", lambda array, m=module: numba_array_of(m.as_cuda_array(array))
        elif name == "jax":
            yield "JAX", lambda array, m=module: jax_array_of(m.dlpack.from_dlpack(array))


def tensor_of(tensor):
    return tensor.cpu().numpy(), tensor.data_ptr()


def numba_array_of(array):
    return array.copy_to_host(), array.__cuda_array_interface__["data"][0]


def jax_array_of(array):
    return np.asarray(array), array.unsafe_buffer_pointer()


def gpu_out_rows():
    functions = [
        ("return_cuda_array_interface()", pycai.return_cuda_array_interface, np.zeros((3, 4, 5))),
        ("return_…_with_memory_copy()", pycai.return_cuda_array_interface_with_memory_copy, np.arange(1.0, 6.0)),
        ("owntype.Buffer, device=True", lambda: own_buffer(True), np.zeros(4)),
    ]
    for library, use in libraries_on_the_gpu():
        for what, make, expected in functions:
            yield Out(what, make, library, use, expected)
    cupy = gpu_libraries().get("cupy")
    if cupy is not None:
        for name, dtype in (("float", "float32"), ("int", "int32")):
            function = getattr(pycai, f"receive_and_return_cuda_array_interface_{name}")
            array = cupy.arange(5, dtype=dtype)
            yield Out(f"receive_and_return_…_{name}(s)", lambda array=array, f=function: same(f(array), array), "CuPy",
                      lambda array: (array.get(), array.data.ptr), np.arange(5))


def same(returned, given):
    """The very object that was given."""
    if returned is not given:
        raise AssertionError("another object came back")
    return returned


def out_result(row):
    """The result of a row, and whether it is right: the values, no copy, and everything freed afterwards."""
    blocks = owntype.live()
    try:
        made = row.make()
        address = getattr(made, "ptr", None)
        values, used = row.use(made)
        right_values = np.shape(values) == np.shape(row.expected) and np.array_equal(values, row.expected)
        del made, values
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}", False
    gc.collect()
    if not right_values:
        return "WRONG: the values", False
    if None not in (address, used) and address != used:
        return "WRONG: a copy", False
    if owntype.live() != blocks:
        return "WRONG: not freed", False
    return "right", True


def print_out_rows(rows):
    """Print the second table; how many rows it has, and how many are wrong."""
    n = wrong = 0
    print_row(["made in C", "used by", "result"])
    print_row(["-" * width for width in WIDTHS[:3]])
    for row in rows:
        result, right = out_result(row)
        print_row([row.what, row.library, result])
        n += 1
        wrong += not right
    print()
    return n, wrong


HEADER = ["producer", "memory", "protocol used", "order", "result", "largest error"]
WIDTHS = [30, 12, 20, 34, 30, 13]


def print_row(cells):
    print("  ".join(text.ljust(width) for text, width in zip(cells, WIDTHS)).rstrip(), flush=True)


def main():
    print_row(HEADER)
    print_row(["-" * width for width in WIDTHS])
    wrong = n = 0
    has_gpu = any(map(os.path.exists, ("/dev/nvidia0", "/dev/dxg")))
    for rows in [host_rows] + ([gpu_rows] if pycai.has_kernel and has_gpu else []):
        for row in rows():
            text, right = cells(row)
            print_row(text)
            n += 1
            wrong += not right
    print()
    has_gpu_rows = pycai.has_kernel and has_gpu
    rows = [*host_out_rows(), *host_result_rows()]
    if has_gpu_rows:
        rows += [*gpu_out_rows(), *gpu_result_rows()]
    out, out_wrong = print_out_rows(rows)
    n, wrong = n + out, wrong + out_wrong
    if not has_gpu:
        print("no GPU here: host arrays alone")
    elif not pycai.has_kernel:
        print("pycai was built without nvcc or the CUDA runtime: host arrays alone")
    for name, why in sorted(missing.items()):
        print(f"left out: {name} ({why})")
    print(f"{n - wrong} rows right, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
