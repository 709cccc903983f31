"""Streams as Python objects: those of other libraries as arguments, and Stream, which cai hands out."""

import ctypes
import gc
import inspect
import operator
import sys
import warnings
import weakref

import numpy as np
import pytest

import checks
import emulated

HANDLE = 0x7F00_1234_5678


class Protocol:
    """A stream with __cuda_stream__ as a method."""

    def __init__(self, answer, **attributes):
        self.answer, self.calls = answer, 0
        self.__dict__.update(attributes)

    def __cuda_stream__(self):
        self.calls += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Attributes:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Integral:
    """What cuda.bindings' CUstream is: no int, but one can be made of it."""

    def __init__(self, value, index=False):
        self.value = value
        if index:
            self.__class__ = Indexable

    def __int__(self):
        return self.value


class Indexable:
    def __index__(self):
        return self.value


# ------------------------------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize("given, number", [(None, 1), (0, 1), (1, 1), (2, 2), (HANDLE, HANDLE),
                                           ((1 << 64) - 1, (1 << 64) - 1)])
def test_pitfall_69_numbers_and_none(arrays, given, number):
    """0, which is the legacy stream to CUDA, is never passed on: it becomes 1."""
    assert arrays.read_stream(given) == number


@pytest.mark.parametrize("type_", [np.int64, np.uint64])
def test_pitfall_69_numbers_of_numpy(arrays, type_):
    """As such, and as handles."""
    assert arrays.read_stream(type_(HANDLE)) == HANDLE
    assert arrays.read_stream(type_(0)) == 1
    assert arrays.read_stream(Attributes(ptr=type_(HANDLE))) == HANDLE
    assert arrays.read_stream(Protocol((0, type_(HANDLE)))) == HANDLE


def is_index(thing):
    """Whether the library that the thing is from takes it for an integer; NumPy did so with its bool until 2.3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            operator.index(thing)
        except TypeError:
            return False
    return True


NO_NUMBERS = [np.float32(1), np.float64(1), np.int64(-1), np.zeros(3), np.str_("1")]
NO_NUMBERS += [] if is_index(np.bool_(True)) else [np.bool_(True)]


@pytest.mark.parametrize("thing", NO_NUMBERS, ids=repr)
def test_pitfall_69_things_of_numpy_that_are_no_numbers(arrays, thing):
    for stream in (thing, Attributes(ptr=thing), Protocol((0, thing))):
        with pytest.raises(arrays.InvalidStreamError):
            arrays.read_stream(stream)


@pytest.mark.parametrize("answer", [(0, HANDLE), [0, HANDLE], (Indexable, HANDLE), (0, Integral(HANDLE)),
                                    (0, Integral(HANDLE, index=True))],
                         ids=["tuple", "list", "version", "int", "index"])
def test_pitfall_68_the_protocol(arrays, answer):
    if answer[0] is Indexable:
        answer = (Integral(0, index=True), answer[1])
    stream = Protocol(answer)
    before = sys.getrefcount(stream), sys.getrefcount(answer)
    assert arrays.read_stream(stream) == HANDLE
    assert stream.calls == 1
    assert (sys.getrefcount(stream), sys.getrefcount(answer)) == before


def test_pitfall_69_null_streams_of_the_protocol(arrays):
    assert arrays.read_stream(Protocol((0, 0))) == 1


def test_pitfall_68_the_protocol_as_an_attribute(arrays):
    """As it was before it became a method."""
    assert arrays.read_stream(Attributes(__cuda_stream__=(0, HANDLE))) == HANDLE


@pytest.mark.parametrize("name", ["cuda_stream", "ptr", "handle"])
@pytest.mark.parametrize("value", [HANDLE, Integral(HANDLE), Integral(HANDLE, index=True)], ids=["number", "int", "index"])
def test_older_attributes(arrays, name, value):
    assert arrays.read_stream(Attributes(**{name: value})) == HANDLE
    assert arrays.read_stream(Attributes(**{name: 0})) == 1


def test_the_protocol_comes_first(arrays):
    assert arrays.read_stream(Protocol((0, HANDLE), cuda_stream=3, ptr=4, handle=5)) == HANDLE
    assert arrays.read_stream(Attributes(cuda_stream=3, ptr=4, handle=5)) == 3
    assert arrays.read_stream(Attributes(ptr=4, handle=5)) == 4


def test_attributes_are_looked_up_on_the_instance(arrays):
    class Proxy:
        def __getattr__(self, name):
            return getattr(inner, name)

    inner = Protocol((0, HANDLE))
    assert arrays.read_stream(Proxy()) == HANDLE


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("answer", [0, None, (0,), (0, 1, 2), (), "01", HANDLE, ("0", HANDLE), (None, HANDLE), (0, None),
                                    (0, -1), (0, 1 << 64), (0, True), (0, 1.0), (0, b"1"), (False, HANDLE)])
def test_pitfall_68_answers_that_are_none(arrays, answer):
    with pytest.raises(arrays.InvalidStreamError) as refusal:
        arrays.read_stream(Protocol(answer))
    assert isinstance(refusal.value, ValueError)
    pair = type(answer) is tuple and len(answer) == 2 and type(answer[0]) is int
    assert f"test_stream_objects.Protocol, whose __cuda_stream__ gives {'the handle ' if pair else ''}" in str(refusal.value)
    assert repr(answer[1] if pair else answer) in str(refusal.value)


@pytest.mark.parametrize("version", [1, 2, -1, 99])
def test_pitfall_68_other_versions(arrays, version):
    with pytest.raises(arrays.InvalidVersionError, match=f"whose __cuda_stream__ is of version {version}, not 0$"):
        arrays.read_stream(Protocol((version, HANDLE)))


@pytest.mark.parametrize("what", [ValueError("own"), KeyError("own"), MemoryError(), KeyboardInterrupt()])
def test_the_streams_own_exception_is_raised(arrays, what):
    refusal = checks.catch(arrays.read_stream, Protocol(what))[1]
    assert (refusal.type, refusal.args) == (type(what), what.args)


@pytest.mark.parametrize("thing", [True, False, -1, 1 << 64, "1", b"1", 1.0, object(), (0, HANDLE), [], {}, print],
                         ids=lambda thing: type(thing).__name__ + str(thing)[:4])
def test_pitfall_69_things_that_are_no_streams(arrays, thing):
    with pytest.raises(arrays.InvalidStreamError, match="expected a CUDA stream") as refusal:
        arrays.read_stream(thing)
    assert f"got {type(thing).__name__} {thing!r}" in str(refusal.value)


@pytest.mark.parametrize("value", ["1", b"1", bytearray(b"1"), 1.0, True, None, -1, 1 << 64, object()])
@pytest.mark.parametrize("name", ["cuda_stream", "ptr", "handle"])
def test_handles_that_are_none(arrays, name, value):
    """Text and floats are no handles, though int() makes numbers of them."""
    with pytest.raises(arrays.InvalidStreamError) as refusal:
        arrays.read_stream(Attributes(**{name: value}))
    assert f"Attributes, whose {name} is {value!r}, which is no handle" in str(refusal.value)


@pytest.mark.parametrize("pointer", [ctypes.c_char_p(b"1"), ctypes.c_float(1), ctypes.c_bool(True), ctypes.c_int(-1),
                                     (ctypes.c_int * 1)(1)], ids=lambda pointer: type(pointer).__name__)
def test_things_of_ctypes_that_are_no_handles(arrays, pointer):
    with pytest.raises(arrays.InvalidStreamError):
        arrays.read_stream(Attributes(handle=pointer))


@pytest.mark.parametrize("words", ["x" * 5000, "two\nlines", None], ids=["long", "lines", "raises"])
def test_messages_whatever_the_values_repr_is(arrays, words):
    class Odd:
        def __repr__(self):
            return words

    with pytest.raises(arrays.InvalidStreamError) as refusal:
        arrays.read_stream(Protocol(Odd()))
    shown = {"x": "x" * 95, "t": "two,"}.get(str(words)[0], "something without a repr")
    assert f"gives {shown}" in str(refusal.value) and len(str(refusal.value)) < 400


class Final:
    """A number whose reading ends the program, or finds no memory."""

    def __init__(self, what):
        self.what = what

    def __index__(self):
        raise self.what


@pytest.mark.parametrize("what", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_exceptions_of_numbers(arrays, what):
    """The cause of the refusal, or the exception itself where that must not be passed over."""
    for stream in (Attributes(ptr=Final(what)), Protocol((Final(what), 1)), Protocol((0, Final(what)))):
        refusal = checks.catch(arrays.read_stream, stream)[1]
        if what is ZeroDivisionError:
            assert (refusal.type, refusal.cause) == (arrays.InvalidStreamError, what)
        else:
            assert (refusal.type, refusal.causes) == (what, [])


@pytest.mark.parametrize("attribute", ["__dlpack__", "__cuda_array_interface__"])
def test_pitfall_69_pointers_of_arrays_are_no_handles(arrays, attribute):
    """CuPy, RMM and PyCUDA call an array's address `ptr` too. What has the protocol is a stream, whatever else it is."""
    with pytest.raises(arrays.InvalidStreamError, match="Attributes, which is an array$"):
        arrays.read_stream(Attributes(ptr=HANDLE, **{attribute: {}}))
    assert arrays.read_stream(Protocol((0, HANDLE), **{attribute: {}})) == HANDLE


def test_arrays_are_no_streams(arrays):
    """Not even those of integers, of which Python makes a number where they have one element."""
    with pytest.raises(arrays.InvalidStreamError):
        arrays.read_stream(np.zeros(3, "i8"))


# ----------------------------------------------------------------------------------------------------- of the libraries


def test_streams_of_cuda_bindings(arrays):
    driver = checks.need("cuda.bindings.driver")
    assert arrays.read_stream(Attributes(handle=driver.CUstream(HANDLE))) == HANDLE
    assert arrays.read_stream(Attributes(handle=driver.CUstream(0))) == 1
    assert arrays.read_stream(Protocol((0, driver.CUstream(HANDLE)))) == HANDLE


def test_streams_of_cuda_core(arrays):
    """The protocol, and `handle` as what came before it."""
    core = checks.need("cuda.core")
    for stream, number in ((core.LEGACY_DEFAULT_STREAM, 1), (core.PER_THREAD_DEFAULT_STREAM, 2)):
        assert arrays.read_stream(stream) == arrays.read_stream(Attributes(handle=stream.handle)) == number


@pytest.mark.filterwarnings("ignore:ExternalStream:DeprecationWarning")
def test_streams_of_cupy(arrays):
    """In by the protocol, and by `ptr` as before it; out by the protocol, which CuPy reads strictly."""
    cuda = checks.need("cupy").cuda
    for stream, number in ((cuda.Stream.null, 1), (cuda.Stream.ptds, 2), (cuda.ExternalStream(HANDLE), HANDLE)):
        assert arrays.read_stream(stream) == arrays.read_stream(Attributes(ptr=stream.ptr)) == number
    if hasattr(cuda.Stream, "from_external"):
        assert cuda.Stream.from_external(arrays.make_stream(HANDLE)).ptr == HANDLE


def numba_stream(driver, number):
    """As numba-cuda makes one, and as Numba itself does: around a ctypes.c_void_p, whose value for 0 is None."""
    if "context" in inspect.signature(driver.Stream).parameters:
        return driver.Stream(None, driver.drvapi.cu_stream(number), None)
    return driver.Stream(checks.need("cuda.bindings.driver").CUstream(number))


@pytest.mark.parametrize("number", [0, 1, 2, HANDLE])
def test_streams_of_numba(arrays, number):
    """Its default stream gives a member of an enumeration, and once gave None."""
    stream = numba_stream(checks.need("numba.cuda.cudadrv.driver"), number)
    assert arrays.read_stream(stream) == (number or 1)
    assert arrays.read_stream(Attributes(handle=stream.handle)) == (number or 1)


@pytest.mark.parametrize("number", [0, 1, 2, HANDLE])
def test_handles_of_older_numba(arrays, number):
    assert arrays.read_stream(Attributes(handle=ctypes.c_void_p(number))) == (number or 1)
    assert arrays.read_stream(Protocol((0, ctypes.c_void_p(number)))) == (number or 1)


def test_streams_of_torch(arrays):
    """torch.cuda.Stream, which cannot be made without a GPU, up to 2.9: `stream_id` is no handle, and 0 is legacy."""
    for number in (0, HANDLE):
        stream = Attributes(cuda_stream=number, stream_id=35, device_index=0, device_type=1, priority=0)
        assert arrays.read_stream(stream) == (number or 1)


def test_pitfall_69_streams_of_torch_for_other_devices(arrays):
    torch = checks.need("torch")
    with pytest.raises(arrays.InvalidStreamError, match="got torch.Stream "):
        arrays.read_stream(torch.Stream("cpu"))


# --------------------------------------------------------------------------------------------------------------- Stream


@pytest.mark.parametrize("number", [1, 2, HANDLE, (1 << 64) - 1])
def test_stream(arrays, number):
    stream = arrays.make_stream(number)
    assert type(stream) is arrays.Stream
    assert stream.__cuda_stream__() == (0, number)
    assert type(stream.__cuda_stream__()) is tuple
    assert stream.handle == int(stream) == stream.__index__() == number
    assert arrays.read_stream(stream) == number


def test_the_null_stream_is_legacy(arrays):
    stream = arrays.make_stream(0)
    assert stream.handle == 1 and stream.__cuda_stream__() == (0, 1)
    assert stream == arrays.make_stream(1) and hash(stream) == hash(arrays.make_stream(1))
    assert repr(stream) == "Stream(legacy)"


def test_streams_are_equal_by_handle(arrays):
    one, same, other = arrays.make_stream(HANDLE), arrays.make_stream(HANDLE, [1]), arrays.make_stream(2)
    assert one == same and one is not same and hash(one) == hash(same)
    assert one != other and not one == other
    assert {one: 1}[same] == 1
    assert one != HANDLE and one is not None and not one == "x"
    with pytest.raises(TypeError):
        one < other


def test_hash_is_never_minus_one(arrays):
    for number in ((1 << 64) - 1, (1 << 64) - 2, 1, 2):
        assert isinstance(hash(arrays.make_stream(number)), int)


def test_stream_repr(arrays):
    assert repr(arrays.make_stream(1)) == "Stream(legacy)"
    assert repr(arrays.make_stream(2)) == "Stream(per thread)"
    assert repr(arrays.make_stream(HANDLE)) == f"Stream({HANDLE:#x})"


def test_pitfall_68_the_owner_is_kept(arrays):
    class Owner:
        pass

    owner = Owner()
    gone, before = weakref.ref(owner), sys.getrefcount(owner)
    stream = arrays.make_stream(HANDLE, owner)
    assert sys.getrefcount(owner) == before + 1
    assert gc.is_tracked(stream) and owner in gc.get_referents(stream)
    del owner
    assert gone() is not None
    del stream
    assert gone() is None


def test_stream_attributes_cannot_be_set(arrays):
    with pytest.raises(AttributeError):
        arrays.make_stream(1).handle = 2


def test_the_stream_of_an_array_goes_into_other_libraries(arrays):
    """By the protocol, in whatever library has it; here our own second extension."""
    second = checks.load("arrays_second")
    mine = emulated.create_stream()
    stream = arrays.new((3,), "float32", arrays.DEVICE, 0, mine).stream
    assert second.read_stream(stream) == mine
    assert stream != second.make_stream(mine)  # another type
    assert ctypes.c_void_p(stream.handle).value == mine


def test_pitfall_69_arrays_are_no_streams(arrays):
    """Their `ptr` is the address of memory."""
    with pytest.raises(arrays.InvalidStreamError, match="which is an array"):
        arrays.read_stream(arrays.new((3,), "float32", arrays.HOST))
