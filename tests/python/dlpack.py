"""DLPack structs and capsules made by hand, so that a test can make every one that a producer might."""

import ctypes
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

CPU, CUDA, CUDA_HOST, MANAGED = 1, 2, 3, 13
READ_ONLY, IS_COPIED, PADDED = 1, 2, 4
FLOAT32, FLOAT64, INT32, UINT8, BOOL = (2, 32, 1), (2, 64, 1), (0, 32, 1), (1, 8, 1), (6, 8, 1)
BFLOAT16, COMPLEX64 = (4, 16, 1), (5, 64, 1)


class _Tensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
                ("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16), ("shape", ctypes.POINTER(c_int64)),
                ("strides", ctypes.POINTER(c_int64)), ("byte_offset", c_uint64)]


class _Legacy(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("manager_ctx", c_void_p), ("deleter", c_void_p)]


class _Versioned(ctypes.Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("manager_ctx", c_void_p), ("deleter", c_void_p),
                ("flags", c_uint64), ("tensor", _Tensor)]


assert (ctypes.sizeof(_Tensor), ctypes.sizeof(_Legacy), ctypes.sizeof(_Versioned)) == (48, 64, 80)

_NAMES = {_Legacy: b"dltensor", _Versioned: b"dltensor_versioned"}
_FUNCTION = ctypes.CFUNCTYPE(None, c_void_p)
_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [c_void_p, c_char_p, c_void_p]
_python.PyCapsule_GetName.restype = c_char_p
_python.PyCapsule_GetName.argtypes = [ctypes.py_object]

# A capsule that is being destroyed must not become a Python object again: its address is all that a destructor gets.
_get_name = ctypes.PyDLL(None).PyCapsule_GetName
_get_name.restype = c_char_p
_get_name.argtypes = [c_void_p]
_get_pointer = ctypes.PyDLL(None).PyCapsule_GetPointer
_get_pointer.restype = c_void_p
_get_pointer.argtypes = [c_void_p, c_char_p]

_python.PyCapsule_SetContext.argtypes = [ctypes.py_object, c_void_p]
_get_context = ctypes.PyDLL(None).PyCapsule_GetContext
_get_context.restype = c_void_p
_get_context.argtypes = [c_void_p]

# Every managed tensor that a capsule was made of, by its address. One that was taken out is nobody's business any more:
# what C still holds of it does nothing when it ends.
_alive = {}


@_FUNCTION
def _deleter(struct):
    if struct in _alive:
        _alive[struct]._delete(struct)


@_FUNCTION
def _destructor(capsule):
    struct = _get_context(capsule)
    if struct in _alive:
        _alive[struct]._destroy(capsule)


for _callback in (_deleter, _destructor):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))  # C may call them until the very end


def capsule_name(capsule):
    return _python.PyCapsule_GetName(capsule).decode()


class Managed:
    """One managed tensor, and how often its deleter has run.

    `version` None makes a legacy struct. `deleter` False leaves it NULL. `on_delete` is called by the deleter.
    """

    def __init__(self, pointer, shape=(), dtype=FLOAT32, device=(CPU, 0), strides=None, byte_offset=0, version=(1, 3),
                 flags=0, deleter=True, ndim=None, null_shape=False, on_delete=None, owner=None):
        self.deletions = 0
        self.owner = owner
        self._on_delete = on_delete
        self._struct = (_Legacy if version is None else _Versioned)()
        self._shape = (c_int64 * max(len(shape), 1))(*shape)
        self._strides = None if strides is None else (c_int64 * max(len(strides), 1))(*strides)
        tensor = self._struct.tensor
        tensor.data, tensor.byte_offset = pointer, byte_offset
        tensor.device_type, tensor.device_id = device
        tensor.ndim = len(shape) if ndim is None else ndim
        tensor.code, tensor.bits, tensor.lanes = dtype
        if not null_shape:
            tensor.shape = self._shape
        if strides is not None:
            tensor.strides = self._strides
        if version is not None:
            self._struct.major, self._struct.minor = version
            self._struct.flags = flags
        if deleter:
            self._struct.deleter = ctypes.cast(_deleter, c_void_p)

    @property
    def address(self):
        return ctypes.addressof(self._struct)

    def _delete(self, struct):
        assert struct == self.address
        self.deletions += 1
        self.owner = None
        if self._on_delete is not None:
            self._on_delete()

    @property
    def has_deleter(self):
        return bool(self._struct.deleter)

    def contents(self):
        """Every byte of the struct, of its shape and of its strides, none of which a consumer may change."""
        return bytes(self._struct), bytes(self._shape), None if self._strides is None else bytes(self._strides)

    def scramble(self):
        """Overwrite the tensor, as a producer may once a consumer has read it; the deleter stays."""
        tensor = self._struct.tensor
        tensor.data, tensor.ndim, tensor.byte_offset = 0, -1, 13
        for extents in (self._shape, self._strides or ()):
            for i in range(len(extents)):
                extents[i] = -77

    def _destroy(self, capsule):
        """The capsule's destructor: runs the deleter unless the capsule has been consumed."""
        name = _NAMES[type(self._struct)]
        if _get_name(capsule) == name and self._struct.deleter:
            self._delete(_get_pointer(capsule, name))

    def capsule(self, name=None):
        """A capsule of it, under the name that fits or another one."""
        _alive[self.address] = self  # capsules keep no reference; a test process is short
        self._name = (name or _NAMES[type(self._struct)].decode()).encode()
        capsule = _python.PyCapsule_New(self.address, self._name, ctypes.cast(_destructor, c_void_p))
        _python.PyCapsule_SetContext(capsule, self.address)
        return capsule
