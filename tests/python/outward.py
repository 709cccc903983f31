"""What a consumer sees of an array that goes out: the struct in a capsule, the elements, and what work on a stream saw."""

import ctypes
import types

import numpy as np

import dlpack
import emulated

SIX = np.arange(6, dtype="f4").reshape(2, 3)
OLD, NEW = bytes([0x11]) * 16, bytes([0x22]) * 16
KINDS = ("HOST", "DEVICE", "NO_POOL", "MANAGED", "PINNED")
ON_HOST = ("HOST", "MANAGED", "PINNED")  # kinds of memory that host code reaches

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
_STRUCTS = {"dltensor": dlpack._Legacy, "dltensor_versioned": dlpack._Versioned}
_USED = {"dltensor": b"used_dltensor", "dltensor_versioned": b"used_dltensor_versioned"}
# Called without the GIL, as a consumer written in C would on a thread of its own, and with it.
_WITHOUT_GIL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_WITH_GIL = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class Capsule(types.SimpleNamespace):
    """What a DLPack capsule says."""

    def __init__(self, capsule):
        name = dlpack.capsule_name(capsule)
        pointer = _get_pointer(capsule, name.encode())
        struct = _STRUCTS[name].from_address(pointer)
        tensor = struct.tensor
        versioned = name == "dltensor_versioned"
        super().__init__(
            capsule=capsule, name=name, struct=pointer, versioned=versioned, data=tensor.data or 0,
            version=(struct.major, struct.minor) if versioned else None, flags=struct.flags if versioned else None,
            device=(tensor.device_type, tensor.device_id), dtype=(tensor.code, tensor.bits, tensor.lanes),
            shape=tuple(tensor.shape[:tensor.ndim]), strides=tuple(tensor.strides[:tensor.ndim]),
            byte_offset=tensor.byte_offset, deleter=struct.deleter)

    def consume(self, gil=False):
        """Take the struct over: the function that ends it."""
        _set_name(self.capsule, _USED[self.name])
        delete = (_WITH_GIL if gil else _WITHOUT_GIL)(self.deleter)
        return lambda: delete(self.struct)


def fill(array, values=SIX):
    """Write values into the memory of a new C-contiguous array, at once: the pool's memory is there when its stream is."""
    emulated.run_all()
    emulated.write(array.ptr, np.ascontiguousarray(values).tobytes())
    return array


def seen_on(stream, pointer, nbytes=16):
    """Enqueue a read: a list of what it saw, empty until it has run."""
    seen = []
    emulated.launch(stream, lambda: seen.append(emulated.read(pointer, nbytes)))
    return seen


def wrapped(arrays, source, owner=None, readonly=False, device=None, flags=0, offset=0):
    """A handle of an array that shows a NumPy array's memory, or the same layout at another place (device)."""
    pointer = source.ctypes.data if device is None else device[2]
    strides = tuple(stride // source.itemsize for stride in source.strides)
    return arrays.wrap(pointer + offset, source.shape, strides, source.dtype.name, (1, 0) if device is None else device[:2],
                       flags | (arrays.READONLY if readonly else 0), owner)


def shown(arrays, *args, **kwargs):
    """The same as an Array, which is its only holder."""
    handle = wrapped(arrays, *args, **kwargs)
    array = arrays.give(handle)
    arrays.release(handle)
    return array
