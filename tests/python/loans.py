"""Arrays lent by every kind of producer, each of which uses its memory again the moment it gets it back.

That is what real allocators do, so that memory that comes back too early is seen: a consumer whose work is still
pending then reads POISON.
"""

import sys
import types
import weakref
from ctypes import c_int, c_size_t, c_void_p

import numpy as np

import dlpack
import emulated
import producers
import tables

NBYTES = 16
OLD, NEW, USED, POISON, _UNREAD = (bytes([value]) * NBYTES for value in (0x11, 0x22, 0x33, 0xEE, 0x77))



def fill_later(stream, pointer, pattern):
    """Enqueue a fill with a pattern: work that runs no Python code, as a GPU's does not."""
    emulated.cuda("cudaMemsetAsync", c_void_p(pointer), c_int(pattern[0]), c_size_t(NBYTES), c_void_p(stream))


# What a producer tells about its work: its stream; that no order is needed; nothing; nothing, but it orders its work
# before the stream that it is passed.
KNOWN, READY, SILENT, ASKED = "known", "ready", "silent", "asked"

STREAM_KINDS = ("0", "legacy", "per-thread", "blocking", "non-blocking")


def make_stream(kind, device=0):
    """A stream of one of STREAM_KINDS, as the number that a producer or a consumer says."""
    fixed = {"0": 0, "legacy": emulated.LEGACY, "per-thread": emulated.PER_THREAD}
    if kind in fixed:
        return fixed[kind]
    flags = {"blocking": emulated.BLOCKING, "non-blocking": emulated.NON_BLOCKING}
    return emulated.create_stream(flags[kind], device)


def normal(stream):
    """The number that cai gives for a stream: never 0."""
    return stream or emulated.LEGACY


# ------------------------------------------------------------------------------------------------- exchange tables


class Tensor(tables.Array):
    """What torch.Tensor is to cai: its table lends, and it has no read-only state. Only inside `torch_imported`."""

    __dlpack_c_exchange_api__ = tables.make_table()
    requires_grad = False

    def is_conj(self):
        return False

    def is_neg(self):
        return False


class Owning(tables.Array):
    """An array of a library other than torch, whose table tells its stream."""

    __dlpack_c_exchange_api__ = tables.make_table()


class OwningSilent(tables.Array):
    """An array whose table has no current_work_stream."""

    __dlpack_c_exchange_api__ = tables.make_table(tells_stream=False)


class torch_imported:
    """A context in which Tensor is torch's own type."""

    def __enter__(self):
        self._before = sys.modules.get("torch")
        sys.modules["torch"] = types.SimpleNamespace(Tensor=Tensor)

    def __exit__(self, *exception):
        if self._before is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = self._before


_DEVICE_TYPES = {"device": dlpack.CUDA, "managed": dlpack.MANAGED, "pinned": dlpack.CUDA_HOST}


def table_array(array_type, data=OLD, kind="device", device=0, shape=None, dtype=dlpack.FLOAT32, **kwargs):
    """An instance of Tensor, Owning or OwningSilent in emulated memory, by default one of float32."""
    memory = producers.Memory(np.frombuffer(data, "u1"), kind, device)
    where = (_DEVICE_TYPES[kind], device if kind == "device" else 0)
    array = array_type(memory.pointer, (len(data) // 4,) if shape is None else shape, dtype, where, **kwargs)
    array.memory, array.pointer = memory, memory.pointer
    return array


# ------------------------------------------------------------------------------------------------------ the loans


def _interface(version, /, **overrides):
    def make(loan):
        fields = {"stream": loan.stream, **overrides} if version >= 3 else overrides
        return producers.Interface(np.frombuffer(OLD, "f4"), version=version, kind=loan.kind, device=loan.device,
                                   overrides=fields)

    return make


def _table(array_type, stream=...):
    def make(loan):
        tables.set_stream(loan.stream if stream is ... else stream)
        return table_array(array_type, OLD, loan.kind, loan.device)

    return make


def _dlpack(**kwargs):
    def make(loan):
        return producers.DLPack(np.frombuffer(OLD, "f4"), kind=loan.kind, device=loan.device, stream=loan.stream,
                                tensor={"on_delete": loan.take_back, "owner": None}, **kwargs)

    return make


def _capsule(loan):
    loan.memory = producers.Memory(np.frombuffer(OLD, "f4"), loan.kind, loan.device)
    where = (_DEVICE_TYPES[loan.kind], loan.device if loan.kind == "device" else 0)
    return dlpack.Managed(loan.memory.pointer, (4,), device=where, on_delete=loan.take_back).capsule()


_SOURCES = {
    "interface-v3": (KNOWN, _interface(3)),
    "torch": (KNOWN, _table(Tensor)),
    "table": (KNOWN, _table(Owning)),
    "interface-v3-no-stream": (READY, _interface(3, stream=None)),
    "interface-v2": (SILENT, _interface(2)),
    "interface-v1": (SILENT, _interface(1)),
    "interface-v0": (SILENT, _interface(0, version=...)),
    "table-null-stream": (SILENT, _table(Owning, stream=0)),
    "table-no-stream": (SILENT, _table(OwningSilent)),
    "dlpack": (ASKED, _dlpack()),
    "dlpack-legacy": (ASKED, _dlpack(legacy=True)),
    "capsule": (SILENT, _capsule),
}


def sources(*tells):
    """The names of the kinds of producers that tell so much of their work."""
    return [name for name, (told, _) in _SOURCES.items() if told in tells]


ALL = sources(KNOWN, READY, SILENT, ASKED)


class Seen:
    """What a read that was enqueued has seen: equal to [] until it has run, to [pattern] afterwards."""

    def __init__(self, copy):
        self._copy = copy

    def _now(self):
        found = emulated.read(self._copy, NBYTES)
        return [] if found == _UNREAD else [found]

    def __eq__(self, other):
        return self._now() == other

    def __repr__(self):
        return repr(self._now())


class Loan:
    """One array of a kind of producer, with NEW being written by work that is pending on `stream`.

    A producer that needs no order has NEW there already. `give()` is called once and hands out the only reference.
    When the array comes back, its memory is used again: on the producer's stream if that was told, else at once.
    """

    def __init__(self, source, stream=emulated.LEGACY, kind="device", device=0, pending=True):
        self.tells, make = _SOURCES[source]
        self.stream, self.kind, self.device = stream, kind, device
        self.given_back = 0
        self._life = emulated.life()
        self._copies = [emulated.allocate(NBYTES, device=device) for _ in range(4)]  # cannot be made in a capture
        for copy in self._copies:
            emulated.write(copy, _UNREAD)
        self._array = make(self)
        self.pointer = self.memory.pointer if source == "capsule" else self._array.pointer
        if self.tells != ASKED and source != "capsule":
            weakref.finalize(self._array, self.take_back).atexit = False
        if self.tells == READY or not pending:
            emulated.write(self.pointer, NEW)
        else:
            with emulated.current_device(device):
                fill_later(self.work_stream, self.pointer, NEW)
        emulated.clear_calls()

    @property
    def work_stream(self):
        """Where the producer really works: its stream, or legacy where it tells none."""
        return self.stream if self.tells in (KNOWN, ASKED) else emulated.LEGACY

    def give(self):
        array = self._array
        del self._array
        return array

    def is_given_back_late(self, order):
        """Whether a release keeps it until the consumer's work is done, there being no stream that could wait for it."""
        return self.tells in (SILENT, ASKED) and order not in ("block", "none")

    def take_back(self):
        self.given_back += 1
        if self._life != emulated.life():
            return  # kept by a traceback of a test that failed
        if self.tells == KNOWN and self.kind != "pinned":
            with emulated.current_device(self.device):
                fill_later(self.stream, self.pointer, POISON)
        else:
            emulated.write(self.pointer, POISON)

    def now(self):
        """What the memory holds now."""
        return emulated.read(self.pointer, NBYTES)

    def read_later(self, stream):
        """Enqueue a read on a stream: [] until it has run, then what it saw in a list."""
        with emulated.current_device(self.device):
            copy = self._copies.pop()
            emulated.cuda("cudaMemcpyAsync", c_void_p(copy), c_void_p(self.pointer), c_size_t(NBYTES), c_int(4),
                          c_void_p(stream))
        return Seen(copy)

    def write_later(self, stream):
        """Enqueue a write of USED on a stream."""
        with emulated.current_device(self.device):
            fill_later(stream, self.pointer, USED)

    def synchronize(self, stream):
        """Wait for a stream of the array's device, and for nothing else."""
        with emulated.current_device(self.device):
            emulated.synchronize(stream)
