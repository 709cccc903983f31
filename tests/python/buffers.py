"""A buffer exporter whose Py_buffer is written by hand: every field as a test wants it, right or wrong."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_ssize_t, c_uint, c_void_p

PyBUF_WRITABLE = 1


class _Buffer(ctypes.Structure):
    _fields_ = [("buf", c_void_p), ("obj", c_void_p), ("len", c_ssize_t), ("itemsize", c_ssize_t), ("readonly", c_int),
                ("ndim", c_int), ("format", c_char_p), ("shape", POINTER(c_ssize_t)), ("strides", POINTER(c_ssize_t)),
                ("suboffsets", POINTER(c_ssize_t)), ("internal", c_void_p)]


class _Slot(ctypes.Structure):
    _fields_ = [("slot", c_int), ("function", c_void_p)]


class _Spec(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("basicsize", c_int), ("itemsize", c_int), ("flags", c_uint),
                ("slots", POINTER(_Slot))]


_GET = ctypes.PYFUNCTYPE(c_int, ctypes.py_object, POINTER(_Buffer), c_int)
_RELEASE = ctypes.PYFUNCTYPE(None, ctypes.py_object, POINTER(_Buffer))
_TPFLAGS_DEFAULT, _TPFLAGS_BASETYPE = 1 << 18, 1 << 10  # Py_TPFLAGS_HAVE_VERSION_TAG is all that the default has
_incref = ctypes.pythonapi.Py_IncRef
_incref.argtypes = [ctypes.py_object]


@_GET
def _get_buffer(exporter, buffer, flags):
    exporter.asked.append(flags)
    exporter.fill(buffer.contents)
    _incref(exporter)
    return 0


@_RELEASE
def _release_buffer(exporter, buffer):
    exporter.releases += 1
    if exporter.on_release is not None:
        exporter.on_release()


_slots = (_Slot * 3)(_Slot(1, ctypes.cast(_get_buffer, c_void_p)), _Slot(2, ctypes.cast(_release_buffer, c_void_p)),
                     _Slot(0, None))
_spec = _Spec(b"buffers._Exporter", object.__basicsize__, 0, _TPFLAGS_DEFAULT | _TPFLAGS_BASETYPE, _slots)
_from_spec = ctypes.pythonapi.PyType_FromSpec
_from_spec.restype = ctypes.py_object
_from_spec.argtypes = [POINTER(_Spec)]


def _integers(values):
    return None if values is None else (c_ssize_t * max(len(values), 1))(*values)


class Exporter(_from_spec(ctypes.byref(_spec))):
    """Exports `pointer` with those fields. `asked` holds the flags of every request, `releases` counts."""

    def __init__(self, pointer, shape=(), format=b"f", itemsize=4, strides=None, readonly=False, suboffsets=None,
                 ndim=None, length=None, null_shape=False, on_release=None):
        self.asked, self.releases, self.on_release = [], 0, on_release
        self._pointer, self._format, self._itemsize, self._readonly = pointer, format, itemsize, readonly
        self._shape, self._strides, self._suboffsets = _integers(shape), _integers(strides), _integers(suboffsets)
        self._null_shape = null_shape
        self._ndim = len(shape) if ndim is None else ndim
        self._length = length
        if length is None:
            self._length = itemsize
            for extent in shape:
                self._length *= extent

    @property
    def deletions(self):
        return self.releases

    def fill(self, buffer):
        buffer.buf, buffer.obj, buffer.len, buffer.itemsize = self._pointer, id(self), self._length, self._itemsize
        buffer.readonly, buffer.ndim, buffer.format = self._readonly, self._ndim, self._format
        pointer = POINTER(c_ssize_t)
        buffer.shape = None if self._null_shape else ctypes.cast(self._shape, pointer)
        buffer.strides = None if self._strides is None else ctypes.cast(self._strides, pointer)
        buffer.suboffsets = None if self._suboffsets is None else ctypes.cast(self._suboffsets, pointer)
        buffer.internal = None
