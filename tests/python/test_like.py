"""Arrays in the library of another array: handed over by its exchange table, and made in memory of its allocator."""

import ctypes
import gc
import sys
import types
import weakref

import numpy as np
import pytest

import checks
import dlpack
import emulated
import faults
import loans
import producers
import tables
from outward import NEW, OLD, SIX, Capsule, fill, seen_on, wrapped

FOUR_OLD = np.frombuffer(OLD, "f4")
NAME = "__dlpack_c_exchange_api__"


class Library(tables.Array):
    """The array of a library that is no torch, with a table of every function."""

    __dlpack_c_exchange_api__ = tables.make_table(makes=True, allocates=True)


class WithoutStream(tables.Array):
    __dlpack_c_exchange_api__ = tables.make_table(tells_stream=False, makes=True, allocates=True)


@pytest.fixture(autouse=True)
def behaving():
    """Tables that work, and say legacy."""
    tables.set_stream(emulated.LEGACY)
    tables.behave(Library)
    yield
    tables.set_stream(0)
    tables.behave(Library)


def like(array_type=Library, kind="device", device=0):
    return loans.table_array(array_type, OLD, kind, device)


def on_device(arrays, stream=emulated.LEGACY, device=0):
    """A handle of an array of OLD on a GPU, whose work is on that stream."""
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE, device, stream)
    emulated.run_all()
    emulated.write(arrays.describe(handle)["pointer"], OLD)
    return handle


def flush(arrays):
    """A call of cai, which empties the queue of what unknown threads gave up; late returns have arrived."""
    emulated.run_all()
    arrays.new((), "int8", arrays.HOST)
    gc.collect()


class Counted:
    """torch.from_dlpack, counted; the table goes past it."""

    def __init__(self, torch, monkeypatch):
        self.calls, self.original = 0, torch.from_dlpack
        monkeypatch.setattr(torch, "from_dlpack", self)

    def __call__(self, array):
        self.calls += 1
        return self.original(array)


# --------------------------------------------------------------------------------------------------- torch's own table


def test_torch_gets_its_tensor_by_its_table(arrays, monkeypatch):
    torch = checks.need("torch")
    counted, source = Counted(torch, monkeypatch), SIX.copy()
    handle = wrapped(arrays, source, owner=6)
    made = arrays.give_like(handle, torch.zeros(1))
    assert counted.calls == 0
    assert type(made) is torch.Tensor and made.data_ptr() == source.ctypes.data
    assert made.tolist() == source.tolist() and made.stride() == (3, 1)
    made[1, 2] = 9
    assert source[1, 2] == 9
    arrays.release(handle)
    assert arrays.deleted() == []
    del made
    gc.collect()
    assert arrays.deleted() == [6]


def test_strided_arrays_for_torch(arrays):
    torch = checks.need("torch")
    source = np.arange(24, dtype="i2").reshape(4, 6)[1:, ::2].T
    made = arrays.give_like(wrapped(arrays, source), torch.zeros(1))
    assert made.dtype is torch.int16 and made.tolist() == source.tolist() and made.stride() == (2, 6)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float64", "complex64", "complex128"])
def test_dtypes_for_torch(arrays, monkeypatch, dtype):
    torch = checks.need("torch")
    counted, source = Counted(torch, monkeypatch), np.array([0, 1, 1]).astype(dtype)
    made = arrays.give_like(wrapped(arrays, source), torch.zeros(1))
    assert made.dtype is getattr(torch, dtype) and made.tolist() == source.tolist() and counted.calls == 0


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 64])
def test_shapes_for_torch(arrays, shape):
    torch = checks.need("torch")
    made = arrays.give_like(wrapped(arrays, np.zeros(shape, "f4")), torch.zeros(1))
    assert tuple(made.shape) == shape and made.dtype is torch.float32


def test_like_a_parameter(arrays):
    """The table knows no subclasses: a tensor, without a gradient."""
    torch = checks.need("torch")
    made = arrays.give_like(wrapped(arrays, SIX), torch.nn.Parameter(torch.zeros(1)))
    assert type(made) is torch.Tensor and made.requires_grad is False


def test_readonly_arrays_go_to_torch_as_torch_imports_them(arrays, monkeypatch):
    """By from_dlpack, which decides: torch has no read-only tensors, and takes them as if they could be written."""
    torch = checks.need("torch")
    counted = Counted(torch, monkeypatch)
    made = arrays.give_like(wrapped(arrays, SIX, readonly=True), torch.zeros(1))
    assert counted.calls == 1
    assert made.data_ptr() == SIX.ctypes.data


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_unusual_dtypes_go_to_torch_as_torch_imports_them(arrays, monkeypatch, dtype):
    torch = checks.need("torch")
    counted = Counted(torch, monkeypatch)
    made = arrays.give_like(arrays.new_handle((3,), dtype, arrays.HOST), torch.zeros(1))
    assert made.dtype is getattr(torch, dtype) and counted.calls == 1


@pytest.mark.parametrize("what", ["negative strides", "dtype", "vectors", "pinned", "managed"])
def test_pitfall_65_what_torch_refuses_is_freed(arrays, what):
    """torch's table leaks what it refuses; what it may refuse does not go there."""
    torch = checks.need("torch")
    dtype = {"dtype": "float6_e2m3fn", "vectors": "int4"}.get(what, "uint8")
    device = {"pinned": (3, 0), "managed": (13, 0)}.get(what, (1, 0))
    strides = (-1,) if what == "negative strides" else None
    handle = arrays.wrap(SIX.ctypes.data + 8, (4,), strides, dtype, device, 0, 7)
    made, refusal = checks.catch(arrays.give_like, handle, torch.zeros(1))
    assert made is None and issubclass(refusal.type, Exception)
    arrays.release(handle)
    flush(arrays)
    assert arrays.deleted() == [7]


def test_an_object_of_another_library_goes_to_torch(arrays):
    """Kept by C, and by the tensor then."""
    torch = checks.need("torch")
    source = np.arange(6.0)
    pointer, before = source.ctypes.data, sys.getrefcount(source)
    handle = arrays.keep(source)
    made = arrays.give_like(handle, torch.zeros(1))
    arrays.release(handle)
    assert made.data_ptr() == pointer and sys.getrefcount(source) > before
    del made
    flush(arrays)
    assert sys.getrefcount(source) == before


# ---------------------------------------------------------------------------------------------------- any other table


def test_what_a_table_is_given(arrays):
    handle = wrapped(arrays, np.arange(12, dtype="i4").reshape(3, 4)[:, ::2], owner=2)
    made = arrays.give_like(handle, like())
    assert type(made) is Library
    about = arrays.describe(handle)
    assert made.describe() == {"pointer": about["pointer"], "shape": (3, 2), "strides": (4, 2), "dtype": (0, 32, 1),
                               "device": (1, 0), "flags": 0}
    arrays.release(handle)
    assert arrays.deleted() == []
    del made
    assert arrays.deleted() == [2]


@pytest.mark.parametrize("meet", [lambda arrays, array: arrays.release(arrays.keep(array)),
                                  lambda arrays, array: arrays.give_like(wrapped(arrays, SIX), array)],
                         ids=["taken", "like"])
def test_the_table_is_found_once_and_for_all(arrays, meet):
    """By the type's cache, whatever filled it."""
    kind = type("Kind", (Library,), {})
    first = like(kind)
    meet(arrays, first)  # known from here on
    type.__setattr__(kind, NAME, None)
    assert type(arrays.give_like(wrapped(arrays, SIX), first)) is Library


@pytest.mark.parametrize("first", ["like", "taken"])
def test_a_type_first_met_as_like_is_read_as_ever(arrays, first):
    """What is remembered of it says nothing about protocols that have not been tried."""
    class Kind:
        """Speaks DLPack and the CUDA Array Interface, and is of a library without from_dlpack."""

        def __init__(self):
            self.asked = []

        def __dlpack__(self, **arguments):
            self.asked.append("dlpack")
            return SIX.__dlpack__(**arguments)

        def __dlpack_device__(self):
            return (1, 0)

    array = Kind()
    if first == "like":
        with pytest.raises(arrays.InterfaceNotImplementedError):
            arrays.give_like(wrapped(arrays, SIX), array)
    handle = arrays.keep(array)
    assert arrays.describe(handle)["pointer"] == SIX.ctypes.data
    assert array.asked == ["dlpack"]
    arrays.release(handle)


def test_numpys_own_arrays_are_not_asked_for_their_library(arrays, monkeypatch):
    """Only its subclasses are, which may be of another one."""
    class Namespace:
        from_dlpack = staticmethod(lambda array: ("made", array.shape))

    class Derived(np.ndarray):
        def __array_namespace__(self):
            return Namespace

    asked = []
    original = np.from_dlpack
    monkeypatch.setattr(np, "from_dlpack", lambda array: asked.append(array.shape) or original(array))
    made = arrays.give_like(wrapped(arrays, SIX), np.zeros(2))
    assert type(made) is np.ndarray and made.ctypes.data == SIX.ctypes.data
    assert asked == [SIX.shape]
    assert arrays.give_like(wrapped(arrays, SIX), np.zeros(2).view(Derived)) == ("made", SIX.shape)


def test_a_users_subclass_is_of_its_bases_library(arrays, monkeypatch):
    library = types.ModuleType("library")
    library.from_dlpack = np.from_dlpack
    library.Base = type("Base", (), {"__module__": "library.core"})
    monkeypatch.setitem(sys.modules, "library", library)

    class Mine(library.Base):
        pass

    array = arrays.new_handle((2, 3), "float32", arrays.HOST)
    assert type(arrays.give_like(array, Mine())) is np.ndarray


def test_an_object_of_the_same_type_comes_back(arrays):
    source = like()
    handle = arrays.keep(source)
    assert arrays.give_like(handle, like()) is source
    assert tables.done()["made"] == 0


def test_like_an_array_of_cai(arrays):
    """Without a detour: this extension's Array, whatever the array came from."""
    array = arrays.new((2,), "float32", arrays.HOST)
    made = arrays.give_like(arrays.keep(SIX), array)
    assert type(made) is arrays.Array and made.ptr == SIX.ctypes.data and made.readonly is False


def test_like_an_array_of_another_extension(arrays):
    second = checks.load("arrays_second")
    made = arrays.give_like(wrapped(arrays, SIX, owner=3), second.new((2,), "float32", second.HOST))
    assert type(made) is second.Array and made.ptr == SIX.ctypes.data
    del made
    flush(second)
    assert arrays.deleted() == [3]


def test_pitfall_64_a_table_that_makes_nothing(arrays):
    """NULL in the place of the function: the library's from_dlpack, which this one has not."""
    handle = wrapped(arrays, SIX, owner=4)
    with pytest.raises(arrays.InterfaceNotImplementedError):
        arrays.give_like(handle, like(loans.Owning))
    arrays.release(handle)
    gc.collect()
    assert arrays.deleted() == [4]


@pytest.mark.parametrize("what", [LookupError("odd"), KeyboardInterrupt(), MemoryError()])
def test_types_that_cannot_be_inspected(arrays, what):
    """They have no table; what must not be passed over is raised."""

    class Meta(type):
        def __getattribute__(self, name):
            if name == NAME:
                raise what
            return super().__getattribute__(name)

    class Namespace:
        from_dlpack = staticmethod(lambda array: "made")

    class Like(metaclass=Meta):
        __array_namespace__ = staticmethod(lambda: Namespace)

    made, refusal = checks.catch(arrays.give_like, wrapped(arrays, SIX), Like())
    assert made == "made" if type(what) is LookupError else refusal.type is type(what)


MAKING = {"FAILS": (LookupError, 0), "FAILS_SILENTLY": (RuntimeError, 0), "GIVES_NULL": (RuntimeError, 0),
          "CONSUMES_AND_FAILS": (LookupError, 1)}


@pytest.mark.parametrize("how", MAKING)
def test_pitfall_65_a_table_that_fails(arrays, how):
    """The tensor may have been taken, or not: it is not deleted by us, so that it leaks at worst, and never twice."""
    error, deletions = MAKING[how]
    handle = wrapped(arrays, SIX, owner=8)
    tables.behave(Library, making=getattr(tables, how))
    made, refusal = checks.catch(arrays.give_like, handle, like())
    assert made is None and refusal.type is error
    if error is RuntimeError:
        assert refusal.message == "managed_tensor_to_py_object_no_sync failed without an exception"
    arrays.release(handle)
    flush(arrays)
    assert arrays.deleted() == [8] * deletions


# -------------------------------------------------------------------------------------------------------------- order


def test_an_array_that_went_out_may_outlive_its_producers_stream(arrays):
    stream = emulated.create_stream()
    handle = arrays.keep(producers.Interface(SIX, stream=stream), "adopt")
    made = arrays.give_like(handle, like())
    assert type(made) is Library
    emulated.run_all()
    emulated.destroy_stream(stream)
    arrays.release(handle)
    del made
    flush(arrays)
    assert emulated.violations() == []


@pytest.mark.parametrize("told", ["another", "legacy", "unknown", "per-thread"])
def test_pending_work_comes_before_what_the_library_does(arrays, told):
    """On the stream that its table says that it works on, by an event: the host waits for nothing."""
    mine = emulated.create_stream()
    stream = {"another": emulated.create_stream(), "per-thread": 2}.get(told, emulated.LEGACY)
    tables.set_stream(0 if told == "unknown" else stream)
    handle = on_device(arrays, mine)
    pointer = arrays.describe(handle)["pointer"]
    loans.fill_later(mine, pointer, NEW)
    source = like()
    emulated.clear_calls()
    made = arrays.give_like(handle, source)
    assert tables.asked_for() == (1, 2, 0)
    assert not any("Synchronize" in name for name in emulated.call_names())
    assert emulated.read(pointer, 16) == OLD
    seen = seen_on(stream, pointer)
    emulated.synchronize(stream)
    assert seen == [NEW]
    assert made.describe()["pointer"] == pointer


def test_a_table_that_tells_no_stream(arrays):
    mine = emulated.create_stream()
    handle = on_device(arrays, mine)
    loans.fill_later(mine, arrays.describe(handle)["pointer"], NEW)
    arrays.give_like(handle, like(WithoutStream))
    seen = seen_on(emulated.LEGACY, arrays.describe(handle)["pointer"])
    emulated.synchronize(emulated.LEGACY)
    assert seen == [NEW]


def test_the_same_stream_needs_no_order(arrays):
    mine = emulated.create_stream()
    tables.set_stream(mine)
    handle, source = on_device(arrays, mine), like()
    emulated.clear_calls()
    made = arrays.give_like(handle, source)
    assert emulated.call_names() == []
    assert made.describe()["device"] == (2, 0)


def test_the_stream_of_the_arrays_own_device_is_asked_for(arrays):
    mine = emulated.create_stream(device=1)
    handle = on_device(arrays, mine, device=1)
    made = arrays.give_like(handle, like())
    assert tables.asked_for() == (1, 2, 1)
    assert made.describe()["device"] == (2, 1)
    assert emulated.get_device() == 0


def test_arrays_without_pending_work_need_no_order(arrays):
    pointer = emulated.allocate(16)
    arrays.give_like(arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, None), like())
    assert tables.asked_for()[0] == 0


def test_pitfall_67_a_table_that_does_not_know_its_stream(arrays):
    handle = on_device(arrays)
    tables.set_stream(-1)
    made, refusal = checks.catch(arrays.give_like, handle, like())
    assert made is None and (refusal.type, refusal.message) == (RuntimeError, "no stream today")
    assert tables.done()["made"] == 0
    before = emulated.count_allocations()
    arrays.release(handle)
    emulated.run_all()
    assert emulated.count_allocations() == before - 1


def test_pitfall_51_a_capture_is_not_broken(arrays):
    """The library captures, and the array's work is not in its graph."""
    mine, theirs = emulated.create_stream(), emulated.create_stream()
    handle, source = on_device(arrays, mine), like()
    tables.set_stream(theirs)
    emulated.begin_capture(theirs)
    with pytest.raises(arrays.StreamCaptureError):
        arrays.give_like(handle, source)
    assert tables.done()["made"] == 0
    emulated.end_capture(theirs)
    assert type(arrays.give_like(handle, source)) is Library


def test_pitfall_56_the_memory_is_freed_behind_everybody(arrays):
    """The library may have used it on any stream of its own."""
    side = emulated.create_stream()
    handle = on_device(arrays)
    made = arrays.give_like(handle, like())
    seen = seen_on(side, made.describe()["pointer"])
    arrays.release(handle)
    assert seen == []
    del made
    assert seen == [OLD]


# ------------------------------------------------------------------------------------------------ new arrays of torch's


@pytest.mark.parametrize("shape", [(2, 3), (), (0,), (5, 0), (1,) * 64])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "complex64", "bfloat16", "float8_e4m3fn"])
def test_a_new_tensor_of_torchs(arrays, shape, dtype):
    torch = checks.need("torch")
    handle = arrays.new_like(torch.zeros(1), shape, dtype)
    made = arrays.give(handle)
    assert type(made) is torch.Tensor and made.dtype is getattr(torch, dtype) and tuple(made.shape) == shape
    assert made.is_contiguous() and made.device.type == "cpu"
    about = arrays.describe(handle)
    assert (about["shape"], about["device"], about["stream"], about["flags"]) == (shape, (1, 0), 0, 0)
    assert about["pointer"] == (made.data_ptr() if made.numel() else 0)
    assert arrays.give(handle) is made and arrays.give_like(handle, torch.zeros(1)) is made


def test_what_c_writes_is_in_the_tensor(arrays):
    torch = checks.need("torch")
    handle = arrays.new_like(torch.zeros(1), (2, 3))
    ctypes.memmove(arrays.describe(handle)["pointer"], SIX.tobytes(), SIX.nbytes)
    assert arrays.give(handle).tolist() == SIX.tolist()
    assert (arrays.give(handle) @ torch.ones(3)).tolist() == [3.0, 12.0]


def test_the_tensor_and_the_array_live_on_their_own(arrays):
    torch = checks.need("torch")
    handle = arrays.new_like(torch.zeros(1), (6,))
    made = arrays.give(handle)
    ctypes.memmove(made.data_ptr(), SIX.tobytes(), SIX.nbytes)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is not None and gone().tolist() == list(range(6))
    kept = arrays.give(handle)
    arrays.release(handle)
    flush(arrays)
    assert kept.tolist() == list(range(6))
    del kept
    gc.collect()
    assert gone() is None


def test_new_tensors_are_released_on_any_thread(arrays):
    torch = checks.need("torch")
    handle = arrays.new_like(torch.zeros(1), (6,))
    gone = weakref.ref(arrays.give(handle))
    assert arrays.release_on_thread(handle, True) < 5
    flush(arrays)
    assert gone() is None


def test_new_tensors_like_odd_ones(arrays):
    """Only where they lie counts: not what they show, and not what they are for."""
    torch = checks.need("torch")
    complex_ones = torch.ones(2, dtype=torch.complex64)
    for odd in (torch.nn.Parameter(torch.zeros(2)), torch.zeros(2, requires_grad=True), complex_ones.conj(),
                complex_ones.conj().imag, torch.zeros(4, 4).t()[::2]):
        made = arrays.give(arrays.new_like(odd, (2, 3), "float64"))
        assert type(made) is torch.Tensor and made.dtype is torch.float64 and made.requires_grad is False


def test_new_tensors_that_torch_does_not_make(arrays):
    """torch's own words, in their first line."""
    torch = checks.need("torch")
    made, refusal = checks.catch(arrays.new_like, torch.zeros(1), (2,), "bcomplex32")
    assert made is None and refusal.type is MemoryError
    assert refusal.message.startswith("the allocator of torch.Tensor: ") and "\n" not in refusal.message
    made, refusal = checks.catch(arrays.new_like, torch.zeros(1), (1 << 50,))
    assert made is None and refusal.type is MemoryError
    made, refusal = checks.catch(arrays.new_like, torch.zeros(2, 2).to_sparse(), (2,))
    assert made is None and refusal.type is RuntimeError


SHAPES = {"negative": ((2, -1), "InvalidShapeError"), "too large": ((1 << 62, 1 << 62), "InvalidShapeError")}


@pytest.mark.parametrize("what", SHAPES)
@pytest.mark.parametrize("source", ["torch", "numpy"])
def test_shapes_that_are_none(arrays, source, what):
    shape, error = SHAPES[what]
    of = checks.need("torch").zeros(1) if source == "torch" else np.zeros(1)
    made, refusal = checks.catch(arrays.new_like, of, shape)
    assert made is None and refusal.type is getattr(arrays, error)


# ------------------------------------------------------------------------------------------- new arrays by other tables


@pytest.mark.parametrize("array_type", [Library, loans.Tensor])
def test_memory_of_the_librarys_own(arrays, array_type, monkeypatch):
    """On the device of `like`, on the stream that the library works on now; no call of CUDA is made for it."""
    monkeypatch.setattr(loans.Tensor, NAME, Library.__dict__[NAME])
    mine, pointer = emulated.create_stream(device=1), emulated.allocate(16, device=1)
    with loans.torch_imported():
        source = like(array_type, device=1)
        tables.set_stream(mine)
        tables.behave(array_type, memory=pointer)
        emulated.clear_calls()
        handle = arrays.new_like(source, (2, 2), "int32")
        assert emulated.call_names() == []
        about = arrays.describe(handle)
        assert (about["pointer"], about["shape"], about["device"], about["stream"], about["flags"]) == (
            pointer, (2, 2), (2, 1), mine, 0)
        made = arrays.give(handle)
        assert type(made) is array_type and made.describe()["strides"] == (2, 1)
        assert tables.done() == {"allocated": 1, "given": 1, "made": 1, "freed": 0}
        arrays.release(handle)
        del made
        flush(arrays)
        assert tables.done()["freed"] == 1


def test_a_library_that_tells_no_stream(arrays):
    """Legacy is assumed, and the memory goes back when the work there is done."""
    pointer = emulated.allocate(16)
    tables.behave(WithoutStream, memory=pointer)
    handle = arrays.new_like(like(WithoutStream), (4,))
    assert arrays.describe(handle)["stream"] == emulated.LEGACY
    loans.fill_later(emulated.LEGACY, pointer, NEW)
    arrays.release(handle)
    flush(arrays)
    assert tables.done()["freed"] == 1 and emulated.read(pointer, 16) == NEW


def test_work_on_another_stream_is_told(arrays):
    """The library's stream, on which it reads and frees, goes on behind it."""
    theirs, mine, pointer = emulated.create_stream(), emulated.create_stream(), emulated.allocate(16)
    tables.set_stream(theirs)
    tables.behave(Library, memory=pointer)
    handle = arrays.new_like(like(), (4,))
    loans.fill_later(mine, pointer, NEW)
    assert arrays.used_on(handle, mine) == "OK"
    seen = seen_on(theirs, pointer)
    emulated.synchronize(theirs)
    assert seen == [NEW]


def test_pitfall_51_new_arrays_under_a_capture(arrays):
    """The library knows what memory its graph gets; the capture goes on."""
    mine, pointer = emulated.create_stream(), emulated.allocate(16)
    source = like()
    tables.set_stream(mine)
    tables.behave(Library, memory=pointer)
    emulated.begin_capture(mine)
    handle = arrays.new_like(source, (4,))
    loans.fill_later(arrays.describe(handle)["stream"], pointer, NEW)
    made = arrays.give(handle)
    arrays.release(handle)
    graph = emulated.end_capture(mine)
    assert emulated.read(pointer, 16) != NEW
    emulated.replay(graph, mine)
    assert emulated.read(made.describe()["pointer"], 16) == NEW


ALLOCATING = {"FAILS": (MemoryError, "the allocator of test_like.Library: no memory today"),
              "FAILS_SILENTLY": (RuntimeError, "managed_tensor_allocator failed without an exception"),
              "GIVES_NULL": (RuntimeError, "managed_tensor_allocator failed without an exception"),
              "FAILS_TWICE": (MemoryError, "the allocator of test_like.Library: no memory today"),
              "FAILS_AND_RAISES": (LookupError, "no memory for Python")}


@pytest.mark.parametrize("how", ALLOCATING)
def test_pitfall_67_an_allocator_that_fails(arrays, how):
    """By SetError once, as the contract says, or not at all, or twice, or with an exception on top."""
    tables.behave(Library, allocating=getattr(tables, how))
    made, refusal = checks.catch(arrays.new_like, like(), (4,))
    assert made is None and (refusal.type, refusal.message) == ALLOCATING[how]


@pytest.mark.parametrize("how", MAKING)
def test_pitfall_65_memory_of_which_no_object_is_made(arrays, how):
    error, deletions = MAKING[how]
    pointer = emulated.allocate(16)
    tables.behave(Library, making=getattr(tables, how), memory=pointer)
    made, refusal = checks.catch(arrays.new_like, like(), (4,))
    assert made is None and refusal.type is error
    assert tables.done() == {"allocated": 1, "given": 1, "made": 0, "freed": deletions}


def test_an_allocator_that_gives_something_else(arrays):
    tables.behave(Library, allocating=tables.GIVES_ANOTHER, memory=emulated.allocate(32))
    made, refusal = checks.catch(arrays.new_like, like(), (4,))
    assert made is None and refusal.type is arrays.IncompleteInterfaceError
    flush(arrays)
    assert tables.done() == {"allocated": 1, "given": 1, "made": 1, "freed": 1}


@pytest.mark.parametrize("missing", [{"allocates": False}, {"makes": False}, {"lends": False}, {"owns": False}])
def test_pitfall_64_tables_with_gaps(arrays, missing):
    """Where the library's memory cannot be made, or no object of it, it is cai's own."""
    members = {"makes": True, "allocates": True, **missing}
    kind = type("Kind", (tables.Array,), {NAME: tables.make_table(**members)})
    tables.behave(Library, memory=emulated.allocate(16))
    made = arrays.give(arrays.new_like(like(kind), (4,)))
    assert type(made) is (Library if members["allocates"] and members["makes"] else arrays.Array)
    assert tables.done()["made"] == (type(made) is Library)


def test_the_table_is_asked_where_the_array_lies(arrays):
    """By the owning call where it does not lend; that tensor goes back at once."""
    kind = type("Kind", (tables.Array,), {NAME: tables.make_table(lends=False, makes=True, allocates=True)})
    source = like(kind, device=1)
    tables.behave(Library, memory=emulated.allocate(16, device=1))
    assert arrays.describe(arrays.new_like(source, (4,)))["device"] == (2, 1)
    assert source.counts() == {"lent": 0, "owned": 1, "deleted": 1}


@pytest.mark.parametrize("lends", [True, False])
@pytest.mark.parametrize("raises", [LookupError("odd"), KeyboardInterrupt(), None])
def test_likes_that_cannot_be_asked(arrays, lends, raises):
    kind = type("Kind", (tables.Array,), {NAME: tables.make_table(lends=lends, makes=True, allocates=True)})
    source = kind(0x1000, (4,), dlpack.FLOAT32, (2, 0), raises=raises, fail_silently=raises is None)
    made, refusal = checks.catch(arrays.new_like, source, (4,))
    assert made is None and refusal.type is (RuntimeError if raises is None else type(raises))
    assert tables.done()["allocated"] == 0


# --------------------------------------------------------------------------------------------------- without a table


def test_new_arrays_like_numpys(arrays):
    """Host memory of cai's own, which NumPy imports."""
    handle = arrays.new_like(np.zeros(1), (2, 3), "int16")
    about = arrays.describe(handle)
    assert (about["device"], about["stream"], about["flags"]) == ((1, 0), 0, 0)
    assert type(arrays.give(handle)) is arrays.Array
    made = arrays.give_like(handle, np.zeros(1))
    assert type(made) is np.ndarray and (made.dtype, made.shape) == ("int16", (2, 3)) and made.flags.writeable


def test_new_arrays_like_jaxs(arrays):
    jax = checks.need("jax")
    source = checks.need("jax.numpy").zeros(1)
    handle = arrays.new_like(source, (2, 3))
    ctypes.memmove(arrays.describe(handle)["pointer"], SIX.tobytes(), SIX.nbytes)
    made = arrays.give_like(handle, source)
    assert isinstance(made, jax.Array) and made.tolist() == SIX.tolist()


def interface(stream, kind="device", device=0):
    return producers.Interface(np.zeros(4, "f4"), kind=kind, device=device, overrides={"stream": stream})


@pytest.mark.parametrize("kind, where", [("device", (2, 1)), ("managed", (13, 1)), ("pinned", (3, 0))])
def test_new_arrays_lie_where_the_other_one_does(arrays, kind, where):
    handle = arrays.new_like(interface(emulated.LEGACY, kind, 1), (2,), "int8")
    assert arrays.describe(handle)["device"] == where
    assert emulated.get_device() == 0


@pytest.mark.parametrize("told, stream", [(None, 1), (1, 1), (2, 2), ("handle", "handle")])
def test_new_arrays_are_on_the_others_stream(arrays, told, stream):
    """Which lives as long as the other array, if it is a handle."""
    number = emulated.create_stream()
    source = interface(number if told == "handle" else told)
    gone = weakref.ref(source)
    handle = arrays.new_like(source, (2,))
    assert arrays.describe(handle)["stream"] == (number if stream == "handle" else stream)
    del source
    gc.collect()
    assert (gone() is not None) == (told == "handle")
    arrays.release(handle)
    flush(arrays)
    assert gone() is None


def test_new_arrays_are_on_the_stream_of_an_object_that_has_dlpack_too(arrays):
    """As CuPy's, whose type is read by __dlpack__ where nobody wants to know a stream: every time."""
    number = emulated.create_stream()

    class Array(producers.Interface):
        def __dlpack_device__(self):
            return dlpack.CUDA, 0

        def __dlpack__(self, **keywords):
            return dlpack.Managed(self.pointer, (4,), device=(dlpack.CUDA, 0)).capsule()

    source = Array(np.zeros(4, "f4"), overrides={"stream": number})
    for _ in range(3):
        handle = arrays.new_like(source, (2,))
        assert arrays.describe(handle)["stream"] == number
        arrays.release(handle)


def test_new_arrays_like_cais_own(arrays):
    """On its stream, and not on the one that its table tells for every array."""
    mine = emulated.create_stream()
    handle = arrays.new_like(arrays.new((3,), "float32", arrays.DEVICE, 0, mine), (2,))
    assert arrays.describe(handle)["stream"] == mine
    assert type(arrays.give(handle)) is arrays.Array


def test_pitfall_51_memory_of_cais_own_under_a_capture(arrays):
    mine = emulated.create_stream()
    source = interface(mine)
    emulated.begin_capture(mine)
    with pytest.raises(arrays.StreamCaptureError):
        arrays.new_like(source, (2,))
    emulated.end_capture(mine)


@pytest.mark.parametrize("what", [None, 1, "text", object(), 0])
def test_new_arrays_like_what_is_no_array(arrays, what):
    made, refusal = checks.catch(arrays.new_like, what, (2,))
    assert made is None and refusal.type is arrays.InterfaceNotImplementedError
    assert refusal.message.startswith("argument 'like': ") and type(what).__name__ in refusal.message


def test_memory_that_cai_cannot_allocate(arrays):
    made, refusal = checks.catch(arrays.new_like, interface(1), (1 << 58,), "int8")
    assert made is None and refusal.type in (MemoryError, arrays.CudaCallError)


def test_values_are_filled_where_they_are_read(arrays):
    handle = arrays.new_like(np.zeros(1), (2, 3))
    array = fill(arrays.give(handle))
    assert Capsule(array.__dlpack__()).data == arrays.describe(handle)["pointer"]
    assert np.from_dlpack(array).tolist() == SIX.tolist()


# ------------------------------------------------------------------------------------------------------- failing steps


def until_it_passes(attempt):
    """Try with every number; an attempt answers whether its failure came about."""
    assert any(not attempt(nth) for nth in range(1, 300)), "never passes"


class Plain:
    """An object with an attribute, and no Python code that could itself be what fails."""

    def __init__(self, stream, kind="device"):
        self.memory = producers.Memory(SIX, kind)
        self.__cuda_array_interface__ = {"shape": (6,), "typestr": "<f4", "data": (self.memory.pointer, False), "version": 3,
                                         "strides": None, "stream": stream}


LIKES = {"table": like, "numpy": lambda: np.zeros(1), "handle": lambda: Plain(emulated.create_stream()),
         "managed": lambda: Plain(1, "managed")}


@pytest.mark.parametrize("name", LIKES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_the_nth_allocation_of_a_new_array_fails(arrays, name, known):
    """Nothing is left, but for a tensor of which the table could make no object."""
    module = arrays

    def attempt(nth):
        nonlocal module
        source = LIKES[name]()
        module = arrays if known else checks.load(arrays.__name__)
        if known:
            module.new_like(source, (4,))
        flush(module)
        tables.behave(Library)
        before = sys.getrefcount(source), emulated.count_allocations()
        sys._getframe()
        result, allocations = faults.call_failing(module.new_like, nth, source, (4,))
        assert not isinstance(result, BaseException) or type(result) is MemoryError, result
        failed = isinstance(result, BaseException)
        del result
        flush(module)
        done = tables.done()
        assert (sys.getrefcount(source), emulated.count_allocations()) == before
        assert done["freed"] == (done["made"] if failed else done["allocated"])
        return allocations >= nth

    until_it_passes(attempt)


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_the_nth_allocation_of_handing_over_fails(arrays, known):
    """MemoryError; the array is freed once, unless the table was given it."""

    def attempt(nth):
        source = like()
        module = arrays if known else checks.load(arrays.__name__)
        if known:
            module.give_like(wrapped(module, SIX), source)
        module.forget_deleted()
        tables.behave(Library)
        handle = wrapped(module, SIX, owner=3)
        sys._getframe()
        result, allocations = faults.call_failing(module.give_like, nth, handle, source)
        assert type(result) in (MemoryError, Library)
        given = tables.done()["given"]
        made = type(result) is Library
        del result
        module.release(handle)
        flush(module)
        assert module.deleted() == ([3] if made or not given else [])
        return allocations >= nth

    until_it_passes(attempt)


def test_the_nth_cuda_call_of_handing_over_fails(arrays):
    """CudaCallError, before the table is given anything."""
    mine, theirs, source = emulated.create_stream(), emulated.create_stream(), like()
    tables.set_stream(theirs)

    def attempt(nth):
        pointer = emulated.allocate(16)
        handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 3)
        arrays.set_stream(handle, mine, -1)
        arrays.forget_deleted()
        tables.behave(Library)
        emulated.fail(None, nth, 999)
        made, refusal = checks.catch(arrays.give_like, handle, source)
        came = emulated.count_failures() == 0
        emulated.clear_failures()
        assert made is not None or refusal.type is arrays.CudaCallError
        assert tables.done()["made"] == (made is not None)
        del made
        arrays.release(handle)
        flush(arrays)
        assert arrays.deleted() == [3] and emulated.get_device() == 0
        return came

    until_it_passes(attempt)
