"""Work that is pending on streams of the emulator: fills, and reads that say later what they have seen."""

from ctypes import c_int, c_size_t, c_void_p

import emulated
import loans

NBYTES = loans.NBYTES
UNREAD = 0x77


def fill_later(stream, pointer, value, device=0):
    """Enqueue a fill with a byte value; 0, 1 and 2 are the device's streams."""
    with emulated.current_device(device):
        loans.fill_later(stream, pointer, bytes([value]))


def read_later(stream, pointer, device=0, copy=None):
    """Enqueue a read of NBYTES, into `copy` if memory for it is there already."""
    if copy is None:
        copy = emulated.allocate(NBYTES, device=device)
    emulated.write(copy, bytes([UNREAD]) * NBYTES)
    with emulated.current_device(device):
        emulated.cuda("cudaMemcpyAsync", c_void_p(copy), c_void_p(pointer), c_size_t(NBYTES), c_int(4),
                      c_void_p(stream))
    return Seen(copy)


def synchronize(stream, device=0):
    """Wait for a stream of a device, and for nothing else."""
    with emulated.current_device(device):
        emulated.synchronize(stream)


class Seen:
    """What a read that was enqueued has seen: None until it has run, then the value of the fill, or all bytes."""

    def __init__(self, copy):
        self._copy = copy

    @property
    def value(self):
        found = emulated.read(self._copy, NBYTES)
        if len(set(found)) > 1:
            return found
        return None if found[0] == UNREAD else found[0]
