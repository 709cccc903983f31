"""The emulator from Python: memory, streams, captures, recorded calls and scripted failures, by ctypes.

The library is the one that the probe modules are linked with, so that both see one runtime.
"""

import ctypes
import sys
import weakref
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p

import pools
import probe  # noqa: F401  loads the emulator's library

_library = ctypes.CDLL("libcai_emulator.so")

LEGACY, PER_THREAD = 1, 2
BLOCKING, NON_BLOCKING = 0, 1
GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
FREED = 0xDB

SUCCESS = 0
INVALID_VALUE = 1
OUT_OF_MEMORY = 2
INVALID_HANDLE = 400
CAPTURE_UNSUPPORTED = 900
CAPTURE_INVALIDATED = 901
CAPTURE_ISOLATION = 905
CAPTURE_IMPLICIT = 906


class CudaError(Exception):
    """A call of a test, not of cai, failed."""

    def __init__(self, name, code):
        super().__init__(f"{name} answered {code}")
        self.code = code


class _Call(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("result", c_int), ("thread", c_ulonglong), ("current_device", c_int),
                ("device", c_int), ("stream", c_void_p), ("event", c_void_p), ("pointer", c_void_p),
                ("source", c_void_p), ("size", c_size_t), ("flags", c_uint)]


_KERNEL = ctypes.CFUNCTYPE(None, c_void_p)
_HOOK = ctypes.CFUNCTYPE(None, c_char_p, c_void_p)

_library.emulator_has_context.restype = c_bool
_library.emulator_is_pending.restype = c_bool
_library.emulator_is_pending.argtypes = [c_void_p]
_library.emulator_launch.argtypes = [c_void_p, _KERNEL, c_void_p, c_size_t]
_library.emulator_schedule.argtypes = [c_ulonglong, c_size_t]
_library.emulator_get_call.argtypes = [c_size_t, ctypes.POINTER(_Call)]
_library.emulator_get_violation.argtypes = [c_size_t, c_char_p, c_size_t]
_library.emulator_fail.argtypes = [c_char_p, c_int, c_int]
_library.emulator_count_calls.argtypes = [c_char_p]
_library.emulator_set_blocking_hook.argtypes = [c_void_p, c_void_p]
for _name in ("count_pending", "schedule", "run_all", "count_calls", "count_failures", "count_violations",
              "count_allocations", "count_streams", "count_events", "count_graphs", "count_executable_graphs",
              "pool_bytes"):
    getattr(_library, f"emulator_{_name}").restype = c_size_t

count_pending = _library.emulator_count_pending
count_allocations = _library.emulator_count_allocations
count_streams = _library.emulator_count_streams
count_events = _library.emulator_count_events
has_context = _library.emulator_has_context
is_pending = _library.emulator_is_pending
run_all = _library.emulator_run_all
schedule = _library.emulator_schedule
set_device_count = _library.emulator_set_device_count


def cuda(name, *arguments):
    """Make one runtime call; a result other than success raises."""
    code = getattr(_library, f"emulator_{name}")(*arguments)
    if code != SUCCESS:
        _library.emulator_cudaGetLastError()
        raise CudaError(name, code)


_life = [0]


# Modules whose states have a pool: events and streams in it are of the emulator as it was when they were made.
_WITH_STATE = ("probe", "probe_limited", "arrays", "arrays_limited", "arrays_second", "owntype", "author_view", "pycai")
_loaded = weakref.WeakSet()


def has_state(module):
    """Note a module with a state of its own, beside those that are imported by their names."""
    if not module.__name__.endswith("_host"):  # built without CUDA: its pool has no events
        _loaded.add(module)


def empty_pools():
    """Have everything given back that is to be given back late, and the pools' events and streams destroyed."""
    clear_failures()
    run_all()
    for module in {*_loaded, *(sys.modules[name] for name in _WITH_STATE if name in sys.modules)}:
        pools.drain(module)


def reset():
    """Everything back to the start; kernels that never ran are forgotten."""
    _library.emulator_set_blocking_hook(None, None)
    empty_pools()
    _library.emulator_reset()
    _kernels.clear()
    _life[0] += 1


def life():
    """How often everything was put back to the start: whoever outlives that must not touch emulated memory."""
    return _life[0]


# ---------------------------------------------------------------------------------------------------------- memory


def allocate(nbytes, kind="device", device=0):
    """Emulated memory of a kind: device, managed or pinned. Its address, which is that of host memory."""
    pointer = c_void_p()
    with current_device(device):
        if kind == "device":
            cuda("cudaMalloc", ctypes.byref(pointer), c_size_t(nbytes))
        elif kind == "managed":
            cuda("cudaMallocManaged", ctypes.byref(pointer), c_size_t(nbytes), c_uint(1))
        else:
            cuda("cudaMallocHost", ctypes.byref(pointer), c_size_t(nbytes))
    return pointer.value


def free(pointer, kind="device"):
    cuda("cudaFreeHost" if kind == "pinned" else "cudaFree", c_void_p(pointer))


def read(pointer, nbytes):
    """What the memory holds now, whether or not work on it is pending."""
    return ctypes.string_at(pointer, nbytes)


def write(pointer, data):
    ctypes.memmove(pointer, bytes(data), len(data))


# --------------------------------------------------------------------------------------------------------- devices


def get_device():
    device = c_int()
    cuda("cudaGetDevice", ctypes.byref(device))
    return device.value


def set_device(device):
    cuda("cudaSetDevice", c_int(device))


class current_device:
    """A device made current for a while."""

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        self.previous = get_device()
        set_device(self.device)

    def __exit__(self, *exception):
        set_device(self.previous)


# --------------------------------------------------------------------------------------- streams, kernels, captures

_kernels = {}


@_KERNEL
def _run_kernel(arguments):
    _kernels[ctypes.cast(arguments, ctypes.POINTER(c_ulonglong))[0]]()


def create_stream(flags=NON_BLOCKING, device=0):
    stream = c_void_p()
    with current_device(device):
        cuda("cudaStreamCreateWithFlags", ctypes.byref(stream), c_uint(flags))
    return stream.value


def destroy_stream(stream):
    cuda("cudaStreamDestroy", c_void_p(stream))


def synchronize(stream):
    cuda("cudaStreamSynchronize", c_void_p(stream))


def launch(stream, function):
    """Enqueue a Python function as a kernel: it runs when something forces the stream, and not before."""
    number = c_ulonglong(len(_kernels) + 1)
    _kernels[number.value] = function
    code = _library.emulator_launch(c_void_p(stream), _run_kernel, ctypes.byref(number), ctypes.sizeof(number))
    if code != SUCCESS:
        raise CudaError("emulator_launch", code)


def launch_write(stream, pointer, data):
    """Enqueue a kernel that writes `data` to memory."""
    launch(stream, lambda: write(pointer, data))


def begin_capture(stream, mode=THREAD_LOCAL):
    cuda("cudaStreamBeginCapture", c_void_p(stream), c_int(mode))


def end_capture(stream):
    """End a capture that is intact: the graph. One that was broken meanwhile raises."""
    graph = c_void_p()
    cuda("cudaStreamEndCapture", c_void_p(stream), ctypes.byref(graph))
    return graph.value


def replay(graph, stream):
    """Run a graph on a stream, to its end, and destroy it."""
    executable = c_void_p()
    cuda("cudaGraphInstantiate", ctypes.byref(executable), c_void_p(graph), c_ulonglong(0))
    cuda("cudaGraphLaunch", executable, c_void_p(stream))
    synchronize(stream)
    cuda("cudaGraphExecDestroy", executable)
    cuda("cudaGraphDestroy", c_void_p(graph))


def is_capturing(stream):
    status = c_int()
    cuda("cudaStreamIsCapturing", c_void_p(stream), ctypes.byref(status))
    return status.value != 0


# ------------------------------------------------------------------------------------------- records and failures


def calls(name=None):
    """The recorded calls, oldest first; of one name, or all."""
    found, record, index = [], _Call(), 0
    while _library.emulator_get_call(index, ctypes.byref(record)) == 0:
        index += 1
        if name is None or record.name.decode() == name:
            found.append({field: getattr(record, field) for field, _ in _Call._fields_} | {"name": record.name.decode()})
    return found


def call_names():
    return [call["name"] for call in calls()]


def clear_calls():
    _library.emulator_clear_calls()


def fail(name, nth=1, code=INVALID_VALUE):
    """The nth call from now of that function (None: of any) fails."""
    assert _library.emulator_fail(None if name is None else name.encode(), nth, code) == 0


def count_failures():
    """Scripted failures that have not happened yet."""
    return _library.emulator_count_failures()


def clear_failures():
    _library.emulator_fail_clear()


def violations():
    """Wrong uses that a real runtime might not detect, as texts."""
    found, text = [], ctypes.create_string_buffer(256)
    for index in range(_library.emulator_count_violations()):
        _library.emulator_get_violation(index, text, len(text))
        found.append(text.value.decode())
    return found


class watch_blocking:
    """Record, for every call that blocks the host, whether its thread held the GIL."""

    def __init__(self):
        check = ctypes.pythonapi.PyGILState_Check
        self.seen = []

        @_HOOK
        def hook(name, context):
            self.seen.append(name.decode())

        self._hook, self._check = hook, check

    def __enter__(self):
        _library.emulator_set_blocking_hook(ctypes.cast(self._hook, c_void_p), None)
        return self.seen

    def __exit__(self, *exception):
        _library.emulator_set_blocking_hook(None, None)


def set_blocking_hook(address):
    """Call the C function at that address whenever a call is about to block the host; None for no more."""
    _library.emulator_set_blocking_hook(c_void_p(address), None)
