"""Producers of emulated CUDA arrays: the CUDA Array Interface and DLPack, right or wrong in any field."""

import numpy as np

import dlpack
import emulated

_DLPACK_DTYPES = {"f4": dlpack.FLOAT32, "f8": dlpack.FLOAT64, "i4": dlpack.INT32, "u1": dlpack.UINT8,
                  "b1": dlpack.BOOL, "c8": dlpack.COMPLEX64}


class Memory:
    """A block of emulated memory, filled from a NumPy array and readable as one."""

    def __init__(self, array, kind="device", device=0):
        self.array = np.ascontiguousarray(array)
        self.kind, self.device = kind, device
        self.pointer = emulated.allocate(max(self.array.nbytes, 1), kind, device)
        emulated.write(self.pointer, self.array.tobytes())

    def numpy(self):
        """What the memory holds now."""
        data = emulated.read(self.pointer, self.array.nbytes)
        return np.frombuffer(data, self.array.dtype).reshape(self.array.shape)

    def free(self):
        emulated.free(self.pointer, self.kind)


class _Array:
    """What all producers have: memory, and the layout of a NumPy array in it."""

    def __init__(self, array, kind="device", device=0, stream=None):
        array = np.asarray(array)
        self.memory = Memory(array, kind, device)
        self.device = device
        self.stream = stream
        self.shape, self.dtype = array.shape, array.dtype

    @property
    def pointer(self):
        return self.memory.pointer

    def numpy(self):
        return self.memory.numpy()


class Interface(_Array):
    """An array with __cuda_array_interface__. Fields in `overrides` replace those of the dict; `...` removes one.

    `fetches` counts how often the attribute was read.
    """

    def __init__(self, array, version=3, readonly=False, overrides=(), **kwargs):
        super().__init__(array, **kwargs)
        self.version, self.readonly = version, readonly
        self.overrides = dict(overrides)
        self.fetches = 0

    @property
    def __cuda_array_interface__(self):
        self.fetches += 1
        interface = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, self.readonly),
                     "version": self.version, "strides": None}
        if self.version >= 3:
            interface["stream"] = self.stream
        interface.update(self.overrides)
        return {key: value for key, value in interface.items() if value is not ...}


class DLPack(_Array):
    """An array with __dlpack__, whose work is on `stream`: it is ordered before the consumer's stream when it is asked.

    `asked` holds the keywords of every call, `made` the managed tensors. `tensor` replaces arguments of dlpack.Managed.
    """

    TYPES = {"device": dlpack.CUDA, "managed": dlpack.MANAGED, "pinned": dlpack.CUDA_HOST}
    refuses = ()

    def __init__(self, array, legacy=False, tensor=(), announce=None, **kwargs):
        super().__init__(array, **kwargs)
        self.legacy = legacy
        self.tensor = dict(tensor)
        kind = self.memory.kind
        self.announce = announce or (self.TYPES[kind], self.device if kind == "device" else 0)
        self.asked, self.made = [], []

    def __dlpack_device__(self):
        return self.announce

    def __dlpack__(self, *, stream=None, max_version=None):
        self.asked.append({"stream": stream, "max_version": max_version, "device": emulated.get_device()})
        if stream in self.refuses:
            raise BufferError(f"stream {stream} is refused")
        if stream not in (None, -1) and self.stream not in (None, stream):
            self._order(self.stream, stream)
        fields = {"pointer": self.pointer, "shape": self.shape, "dtype": _DLPACK_DTYPES[self.dtype.str[1:]],
                  "device": self.announce, "owner": self}
        fields["version"] = None if self.legacy or max_version is None else (1, 3)
        managed = dlpack.Managed(**{**fields, **self.tensor})
        self.made.append(managed)
        return managed.capsule()

    @staticmethod
    def _order(producer, consumer):
        from ctypes import byref, c_uint, c_void_p

        event = c_void_p()
        emulated.cuda("cudaEventCreateWithFlags", byref(event), c_uint(2))
        emulated.cuda("cudaEventRecord", event, c_void_p(producer))
        emulated.cuda("cudaStreamWaitEvent", c_void_p(consumer), event, c_uint(0))
        emulated.cuda("cudaEventDestroy", event)

    @property
    def deletions(self):
        return [managed.deletions for managed in self.made]


def refusing(*streams, base=DLPack):
    """A new type whose objects refuse streams, as JAX -1 and torch 2: of a type that did so more is remembered."""
    return type("Refusing", (base,), {"refuses": streams})


class Both(Interface, DLPack):
    """Both protocols, as most libraries have."""
