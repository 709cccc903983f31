"""What every test of a reader asserts beside its subject: afterwards nothing is left, and nothing was given back twice.

`Checks.accepts` borrows an array and gives it back; `Checks.refuses` expects an exception. Both compare what was there
before with what is there afterwards, and count the deletions of every managed tensor that the producer made.
"""

import contextlib
import ctypes
import gc
import importlib.util
import sys
import time
import types

import numpy as np
import pytest

import emulated

GIVEN_BACK_WITHIN = 5  # seconds, for memory that is given back late


def load(name):
    """A new module object, with a state and a type cache of its own."""
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    emulated.has_state(module)
    return module


def need(name):
    """Import a library that the test is about, or skip. What it brought is out of the garbage collector's way."""
    module = pytest.importorskip(name, reason=f"{name} is not installed here", exc_type=ImportError)
    gc.freeze()
    return module


def fields(probe, request):
    """A request with the names of constants in place of their values: require="WRITABLE NONEMPTY"."""
    request = dict(request)
    for key in ("require", "memory", "protocols"):
        if isinstance(request.get(key), str):
            names, request[key] = request[key].split(), 0
            for name in names:
                request[key] |= getattr(probe, name)
    return request


def class_of(probe, name):
    """An exception class by its name: the module's own, or a builtin."""
    return getattr(probe, name, None) or getattr(__import__("builtins"), name)


def exchange_capture_mode(mode):
    """Set the thread's mode; the one before."""
    value = ctypes.c_int(mode)
    emulated.cuda("cudaThreadExchangeStreamCaptureMode", ctypes.byref(value))
    return value.value


def capture_mode():
    """The thread's mode, which waits change for a moment: nobody may find it changed."""
    mode = exchange_capture_mode(emulated.GLOBAL)
    exchange_capture_mode(mode)
    return mode


def cuda_state():
    return {"device": emulated.get_device(), "capture mode": capture_mode(), "events": emulated.count_events(),
            "streams": emulated.count_streams(), "allocations": emulated.count_allocations()}


def words(error):
    try:
        return str(error)
    except Exception:
        return "no words"


class Refusal:
    """An exception without its traceback, which would keep the frames of the producer alive."""

    def __init__(self, error):
        self.type, self.message, self.args = type(error), words(error), error.args
        self.code, self.name = getattr(error, "code", None), getattr(error, "name", None)
        self.cause = None if error.__cause__ is None else type(error.__cause__)
        self.causes = []  # of the whole chain: (class, text)
        seen, link = set(), error.__cause__ or error.__context__
        while link is not None and id(link) not in seen:
            seen.add(id(link))
            self.causes.append((type(link), words(link)))
            link = link.__cause__ or link.__context__


def catch(function, *arguments):
    """Call: (result, None), or (None, Refusal). No reference to the exception survives."""
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, Refusal(error)


def parts(source):
    """The objects of a producer whose reference counts must not change, the producer first."""
    found = [source]
    overrides = getattr(source, "__dict__", {}).get("overrides", {})
    found += [value for value in overrides.values() if type(value) in (tuple, list, dict) or hasattr(value, "__dict__")]
    return found


SHARED = (int, str, bytes, type(None), type(Ellipsis), type, types.BuiltinFunctionType)  # anybody may refer to them


def measure(objects):
    """Reference counts of what only this test refers to, and what the emulator holds."""
    gc.collect()
    own = [item for item in objects if not isinstance(item, SHARED) and not (type(item) is tuple and not item)]
    return [sys.getrefcount(item) for item in own], cuda_state()


def deletions(source, managed):
    """How often the deleters ran of what a producer made, and of further managed tensors."""
    return [item.deletions for item in [*getattr(source, "made", ()), *managed] if item.has_deleter]


class Checks:
    """The two checks, bound to one build of the probe."""

    def __init__(self, probe):
        self.probe = probe

    def settle(self, done):
        """Whether it becomes true, since what is given back late has to arrive by itself."""
        deadline = time.monotonic() + GIVEN_BACK_WITHIN
        while not done() and time.monotonic() < deadline:
            emulated.run_all()
            catch(self.probe.acquire, None)
            time.sleep(0.001)
        return done()

    @contextlib.contextmanager
    def accepts(self, source, order="adopt", managed=(), watch=(), **request):
        """Borrow: the view's description, with the view itself in `handle`. Given back at the end of the block."""
        watched = [*parts(source), *managed, *watch]
        before = measure(watched)
        handle = self.probe.acquire(source, order, fields(self.probe, request))
        view = types.SimpleNamespace(**handle.describe(), handle=handle)
        try:
            assert handle.object() is source
            assert view.byte_offset == 0
            yield view
        finally:
            status = handle.release()
        assert status == "OK"
        assert handle.object() is None
        view.mask = view.descr = None
        # A tensor's deleter lets go of its owner, so that this shows early deletions as well as late ones.
        self.settle(lambda: set(deletions(source, managed)) <= {1} and measure(watched) == before)
        assert set(deletions(source, managed)) <= {1}
        assert measure(watched) == before

    def refuses(self, error, source, order="adopt", match="", cause=None, managed=(), watch=(), **request):
        """Refused with exactly that class (or one of several), by a message that names argument and producer."""
        watched = [*parts(source), *managed, *watch]
        before = measure(watched)
        view, refusal = catch(self.probe.acquire, source, order, fields(self.probe, request))
        assert view is None, "the array was accepted"
        expected = error if isinstance(error, tuple) else (error,)
        assert refusal.type in [class_of(self.probe, name) for name in expected], (refusal.type, refusal.message)
        if issubclass(refusal.type, self.probe.CAIError):
            argument = request.get("name", "x")
            assert refusal.message.startswith("array: " if argument is None else f"argument '{argument}': ")
            assert type(source).__qualname__ in refusal.message
            assert "\n" not in refusal.message
        assert match in refusal.message
        if cause is not None:
            assert refusal.cause is cause
        assert set(deletions(source, managed)) <= {1}
        assert measure(watched) == before
        return refusal


def read(view):
    """The elements that a view describes, as a NumPy array: through its pointer, shape and strides and nothing else."""
    dtype = np.dtype(view.dtype)
    if view.size == 0:
        return np.empty(view.shape, dtype)
    spans = [(extent - 1) * stride * dtype.itemsize for extent, stride in zip(view.shape, view.strides)]
    low = sum(span for span in spans if span < 0)
    high = sum(span for span in spans if span > 0) + dtype.itemsize
    block = (ctypes.c_char * (high - low)).from_address(view.pointer + low)
    strides = [stride * dtype.itemsize for stride in view.strides]
    return np.ndarray(view.shape, dtype, block, -low, strides).copy()
