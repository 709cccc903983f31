"""Arrays out by DLPack's C exchange table: the five functions of the table that lies on the type."""

import ctypes
import gc
import sys
import weakref

import numpy as np
import pytest

import checks
import children
import dlpack
import emulated
import faults
import loans
import probe as probe_module
from dlpack import READ_ONLY, Managed
from outward import NEW, OLD, SIX, Capsule, fill, seen_on, shown, wrapped

NAME = "__dlpack_c_exchange_api__"
FOUR_OLD = np.frombuffer(OLD, "f4")


class Api(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("prev_api", ctypes.c_void_p),
                *((name, ctypes.c_void_p) for name in ("allocator", "from_object", "to_object", "borrow", "work_stream"))]


def api_of(type_):
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return Api.from_address(get(getattr(type_, NAME), b"dlpack_exchange_api"))


def owned(arrays, owner, readonly=False):
    """An Array that nobody else holds, of memory whose end is noted."""
    return shown(arrays, SIX, owner=owner, readonly=readonly)


# ----------------------------------------------------------------------------------------------------------- the table


def test_pitfall_67_the_table_is_on_the_type(arrays):
    """A capsule of that name, with every function in it."""
    assert NAME in vars(arrays.Array)
    capsule = vars(arrays.Array)[NAME]
    assert dlpack.capsule_name(capsule) == "dlpack_exchange_api"
    api = api_of(arrays.Array)
    assert (api.major, api.minor, api.prev_api) == (1, 3, None)
    assert all([api.allocator, api.from_object, api.to_object, api.borrow, api.work_stream])


def test_pitfall_67_the_table_stays_where_it_is(arrays):
    """For the process' lifetime: the capsule has no destructor, and another module of the same library has the same."""
    first = ctypes.addressof(api_of(arrays.Array))
    other = checks.load(arrays.__name__)
    assert ctypes.addressof(api_of(other.Array)) == first
    del other
    gc.collect()
    assert ctypes.addressof(api_of(arrays.Array)) == first
    assert api_of(arrays.Array).major == 1


# ---------------------------------------------------------------------------------------------------- the owning call


@pytest.mark.parametrize("kind, device", [("HOST", (1, 0)), ("DEVICE", (2, 0)), ("MANAGED", (13, 0)), ("PINNED", (3, 0))])
def test_given_tensors(arrays, kind, device):
    array = arrays.new((2, 3), "int16", getattr(arrays, kind))
    seen = Capsule(arrays.table_give(array))
    assert (seen.data, seen.device, seen.dtype, seen.shape, seen.strides, seen.byte_offset, seen.version, seen.flags) == (
        array.ptr, device, (0, 16, 1), (2, 3), (3, 1), 0, (1, 3), 0)
    seen.consume()()


def test_devices_of_given_tensors(arrays):
    assert Capsule(arrays.table_give(arrays.new((2,), "int8", arrays.DEVICE, 1))).device == (2, 1)
    assert Capsule(arrays.table_give(arrays.new((2,), "int8", arrays.MANAGED, 1))).device == (13, 0)


def test_given_tensors_say_readonly(arrays):
    assert Capsule(arrays.table_give(owned(arrays, 1, readonly=True))).flags == READ_ONLY


@pytest.mark.parametrize("on_thread", [False, True])
def test_given_tensors_own(arrays, on_thread):
    array = owned(arrays, 3)
    capsule = arrays.table_give(array)
    del array
    assert arrays.deleted() == []
    arrays.delete_managed(capsule, on_thread)
    assert arrays.deleted() == [3]


def test_given_tensors_are_ordered_before_legacy(arrays):
    """Which is what current_work_stream answers."""
    stream = emulated.create_stream()
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 0, stream), FOUR_OLD)
    emulated.launch_write(stream, array.ptr, NEW)
    capsule = arrays.table_give(array)
    assert emulated.read(array.ptr, 16) == OLD
    seen = seen_on(1, array.ptr)
    emulated.synchronize(1)
    assert seen == [NEW]
    Capsule(capsule).consume()()


# -------------------------------------------------------------------------------------------------- the borrowing call


def test_lent_tensors(arrays):
    source = np.arange(24, dtype="i2").reshape(4, 6)[::-1, ::2]
    handle = wrapped(arrays, source)
    assert arrays.table_lend(arrays.give(handle)) == (source.ctypes.data, (1, 0), (4, 3), (-6, 2))


@pytest.mark.parametrize("kind, device", [("DEVICE", (2, 1)), ("MANAGED", (13, 0)), ("PINNED", (3, 0))])
def test_devices_of_lent_tensors(arrays, kind, device):
    array = arrays.new((4,), "float32", getattr(arrays, kind), 1)
    assert arrays.table_lend(array) == (array.ptr, device, (4,), (1,))


def test_readonly_arrays_are_not_lent(arrays):
    """A bare tensor could not say so."""
    array = owned(arrays, 1, readonly=True)
    with pytest.raises(arrays.ReadOnlyAccessError, match="read-only"):
        arrays.table_lend(array)


def test_lent_tensors_are_ordered_before_legacy(arrays):
    stream = emulated.create_stream()
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 0, stream), FOUR_OLD)
    emulated.launch_write(stream, array.ptr, NEW)
    pointer = arrays.table_lend(array)[0]
    assert emulated.read(array.ptr, 16) == OLD
    seen = seen_on(1, pointer)
    emulated.synchronize(1)
    assert seen == [NEW]


@pytest.mark.parametrize("call", ["table_lend", "table_give"])
def test_pinned_memory_goes_out_when_it_is_written(arrays, call):
    """Its consumer may be on the host, where there is no stream to wait on."""
    stream = emulated.create_stream()
    array = fill(arrays.new((4,), "float32", arrays.PINNED, 0, stream), FOUR_OLD)
    emulated.launch_write(stream, array.ptr, NEW)
    kept = getattr(arrays, call)(array)
    assert emulated.read(array.ptr, 16) == NEW
    del kept


@pytest.mark.parametrize("call", ["table_lend", "table_give"])
def test_what_legacy_does_counts_as_use(arrays, call):
    """A consumer launches on legacy, as it was told; the memory is freed behind that."""
    stream = emulated.create_stream()
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 0, stream), FOUR_OLD)
    capsule = getattr(arrays, call)(array)
    seen = seen_on(1, array.ptr)
    pointer = array.ptr
    del array
    if call == "table_give":
        Capsule(capsule).consume()()
    reused = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    if reused.ptr == pointer:
        emulated.launch_write(stream, pointer, NEW)
    emulated.run_all()
    assert seen == [OLD]


@pytest.mark.parametrize("call", ["table_lend", "table_give"])
@pytest.mark.parametrize("kind", [emulated.BLOCKING, emulated.NON_BLOCKING])
@pytest.mark.parametrize("mode", [emulated.GLOBAL, emulated.RELAXED])
def test_refused_under_a_capture(arrays, call, kind, mode):
    """The answer would be legacy, which a captured stream cannot be ordered with. The capture is intact."""
    stream = emulated.create_stream(kind)
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE, 0, stream)
    emulated.begin_capture(stream, mode)
    with pytest.raises(arrays.StreamCaptureError):
        getattr(arrays, call)(arrays.give(handle))
    emulated.end_capture(stream)


def test_host_arrays_make_no_cuda_call(arrays):
    array = arrays.new((4,), "float32", arrays.HOST)
    emulated.clear_calls()
    arrays.table_lend(array)
    Capsule(arrays.table_give(array)).consume()()
    assert arrays.table_stream(arrays.Array, 1, 0) == 0
    assert emulated.call_names() == []


# ------------------------------------------------------------------------------------------------- current_work_stream


@pytest.mark.parametrize("device, stream", [((1, 0), 0), ((2, 0), 1), ((2, 1), 1), ((13, 0), 1)])
def test_the_work_stream_is_legacy(arrays, device, stream):
    assert arrays.table_stream(arrays.Array, *device) == stream


# --------------------------------------------------------------------------------------------------- objects of tensors


def test_made_objects(arrays):
    """The tensor is taken over: its deleter runs once, with the object's end."""
    source = SIX.copy()
    managed = Managed(source.ctypes.data, (2, 3))
    capsule = managed.capsule()
    array = arrays.table_make(arrays.Array, capsule)
    assert type(array) is arrays.Array
    assert (array.shape, array.strides, array.dtype, array.ptr, array.readonly, array.device) == (
        (2, 3), (12, 4), "float32", source.ctypes.data, False, "cpu")
    del capsule
    gc.collect()
    assert managed.deletions == 0
    assert (np.from_dlpack(array) == SIX).all()
    del array
    gc.collect()
    assert managed.deletions == 1


@pytest.mark.parametrize("strides, byte_offset, first, text", [((1, 2), 0, 0, (4, 8)), ((-3, -1), 20, 20, (-12, -4)),
                                                               (None, 4, 4, (12, 4))])
def test_made_objects_of_any_layout(arrays, strides, byte_offset, first, text):
    source = np.zeros(12, "f4")
    managed = Managed(source.ctypes.data, (2, 3), strides=strides, byte_offset=byte_offset)
    array = arrays.table_make(arrays.Array, managed.capsule())
    assert (array.ptr - source.ctypes.data, array.strides) == (first, text)


@pytest.mark.parametrize("flags, readonly", [(0, False), (1, True), (1 << 3, False), (1 << 5, False), (0xFFFF_FFF0, False),
                                             (2, False)])
def test_flags_of_made_objects(arrays, flags, readonly):
    """Unknown ones are neither passed on nor taken for flags of cai's own, which has others behind DLPack's."""
    memory = emulated.allocate(16)
    managed = Managed(memory, (4,), device=(2, 0), flags=flags)
    array = arrays.table_make(arrays.Array, managed.capsule())
    assert array.readonly is readonly
    handle = arrays.keep(array)
    assert Capsule(array.__dlpack__(max_version=(1, 0))).flags & ~3 == 0
    assert arrays.from_capsule(array._capsule) is not None
    assert arrays.describe(arrays.from_capsule(array._capsule))["flags"] & arrays.FREE_IN_ORDER == 0
    arrays.release(handle)


def test_made_objects_on_a_device_are_on_legacy(arrays):
    """No function of the table orders, so that the tensor's work is on the stream that the table names."""
    memory = emulated.allocate(16)
    array = arrays.table_make(arrays.Array, Managed(memory, (4,), device=(2, 0)).capsule())
    assert array.__cuda_array_interface__["stream"] == 1
    assert array.device == "cuda:0"


REFUSED = {
    "major": ({"version": (2, 0)}, "InvalidVersionError"), "ndim": ({"ndim": -1}, "InvalidShapeError"),
    "many": ({"ndim": 65, "null_shape": True}, None), "shape": ({"null_shape": True}, None),
    "negative": ({"shape": (2, -3)}, "InvalidShapeError"), "overflow": ({"shape": (1 << 62, 1 << 62)}, "InvalidShapeError"),
    "dtype": ({"dtype": (77, 32, 1)}, "UnknownDtypeError"), "null": ({"pointer": None}, None)}


@pytest.mark.parametrize("case", REFUSED)
def test_pitfall_65_a_tensor_that_is_refused_is_still_the_callers(arrays, case):
    """An exception, no object, and the deleter has not run: the caller's own clean-up is the only one."""
    fields, error = REFUSED[case]
    source = SIX.copy()
    managed = Managed(**{"pointer": source.ctypes.data, "shape": (2, 3), **fields})
    capsule = managed.capsule()
    made, refusal = checks.catch(arrays.table_make, arrays.Array, capsule)
    assert made is None and refusal is not None
    assert error is None or refusal.type is getattr(arrays, error)
    assert dlpack.capsule_name(capsule) == "dltensor_versioned"
    assert managed.deletions == 0
    del capsule
    gc.collect()
    assert managed.deletions == 1


def test_pitfall_65_without_memory_the_tensor_is_still_the_callers(arrays):
    """The nth allocation fails: the object is made and owns, or there is an exception and nothing happened."""
    import faults

    checks.catch(arrays.table_make, arrays.Array, Managed(SIX.ctypes.data, (2, 3)).capsule())
    for nth in range(1, 100):
        managed = Managed(SIX.ctypes.data, (2, 3))
        capsule = managed.capsule()
        sys._getframe()
        made, allocations = faults.call_failing(arrays.table_make, nth, arrays.Array, capsule)
        if isinstance(made, BaseException):
            assert type(made) in (MemoryError, RuntimeError), made
            assert (managed.deletions, dlpack.capsule_name(capsule)) == (0, "dltensor_versioned")
        else:
            assert type(made) is arrays.Array
            assert (managed.deletions, dlpack.capsule_name(capsule)) == (0, "used_dltensor_versioned")
        del made, capsule
        gc.collect()
        assert managed.deletions == 1
        if allocations < nth:
            break
    else:
        raise AssertionError("never passes")
    assert nth > 1


def test_made_objects_without_a_deleter(arrays):
    managed = Managed(SIX.ctypes.data, (2, 3), deleter=False)
    array = arrays.table_make(arrays.Array, managed.capsule())
    assert array.shape == (2, 3)
    del array
    gc.collect()
    assert managed.deletions == 0


# --------------------------------------------------------------------------------------------------------- allocating


@pytest.mark.parametrize("device, name", [((1, 0), "cpu"), ((2, 0), "cuda:0"), ((2, 1), "cuda:1"), ((13, 0), "cuda:0"),
                                          ((3, 0), "cpu")])
def test_allocated_tensors(arrays, device, name):
    before = emulated.count_allocations()
    capsule = arrays.table_allocate(arrays.Array, (2, 3), "int16", device)
    seen = Capsule(capsule)
    assert (seen.device, seen.shape, seen.strides, seen.dtype, seen.flags, seen.version) == (
        device, (2, 3), (3, 1), (0, 16, 1), 0, (1, 3))
    assert seen.data != 0
    array = arrays.table_make(arrays.Array, capsule)
    assert (array.device, array.nbytes) == (name, 12)
    del array
    gc.collect()
    assert emulated.count_allocations() == before
    assert emulated.get_device() == 0


@pytest.mark.parametrize("device_type", [1, 3, 13])
def test_the_number_of_memory_that_has_no_device_says_nothing(arrays, device_type):
    """There is no device 7."""
    seen = Capsule(arrays.table_allocate(arrays.Array, (4,), "float32", (device_type, 7)))
    assert seen.data != 0
    assert seen.device[0] == device_type


def test_allocated_tensors_end_without_python(arrays):
    before = emulated.count_allocations()
    capsule = arrays.table_allocate(arrays.Array, (4,), "float32", (2, 0))
    assert emulated.count_allocations() == before + 1
    arrays.delete_managed(capsule, True)
    assert emulated.count_allocations() == before


def test_pitfall_59_allocated_tensors_are_freed_without_the_gil(arrays):
    """Behind everything on their device, since nobody knows who has used them."""
    capsule = arrays.table_allocate(arrays.Array, (4,), "float32", (2, 0))
    loans.fill_later(emulated.create_stream(), Capsule(capsule).data, NEW)
    emulated.set_blocking_hook(faults.wait_hook())
    arrays.delete_managed(capsule, False)
    emulated.set_blocking_hook(None)
    waits, with_gil = faults.count_waits()
    assert waits > 0
    if arrays.__name__ == "arrays":  # the limited API cannot tell whether it is attached
        assert with_gil == 0


@pytest.mark.parametrize("shape, device, kind", [((2,), (99, 0), "ValueError"), ((-2,), (1, 0), "ValueError"),
                                                 ((1 << 62, 8), (1, 0), "ValueError")])
def test_pitfall_67_allocations_that_fail_say_so(arrays, shape, device, kind):
    """By the function that the caller passes, with the name of an exception; once."""
    with pytest.raises(RuntimeError, match=f"^{kind}: ."):
        arrays.table_allocate(arrays.Array, shape, "float32", device)


def test_pitfall_67_no_memory_is_a_memory_error(arrays):
    emulated.fail("cudaMallocAsync", 1, emulated.OUT_OF_MEMORY)
    with pytest.raises(RuntimeError, match="^MemoryError: "):
        arrays.table_allocate(arrays.Array, (4,), "float32", (2, 0))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("call", ["table_lend", "table_give"])
def test_pitfall_67_every_failing_call_sets_an_exception(arrays, call):
    stream = emulated.create_stream()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    checks.catch(getattr(arrays, call), array)
    for nth in range(1, 50):
        emulated.fail(None, nth, 999)
        given, refusal = checks.catch(getattr(arrays, call), array)
        came = emulated.count_failures() == 0
        emulated.clear_failures()
        if given is None:
            assert (refusal.type, refusal.code) == (arrays.CudaCallError, 999)
        elif call == "table_give":
            Capsule(given).consume()()
        if not came:
            break
    assert 2 < nth < 49
    emulated.set_device(0)


def test_what_comes_back_is_what_went_out(arrays):
    """Out by the table, in by the table."""
    stream = emulated.create_stream()
    array = arrays.new((2, 3), "float32", arrays.DEVICE, 0, stream)
    made = arrays.table_make(arrays.Array, arrays.table_give(array))
    assert (made.ptr, made.shape, made.device) == (array.ptr, (2, 3), "cuda:0")
    view = probe_module.acquire(array, "adopt", {"protocols": probe_module.VIA_EXCHANGE})
    assert (view.describe()["pointer"], view.describe()["stream"]) == (array.ptr, 1)
    view.release()


def test_tvm_takes_arrays_by_the_table(arrays):
    """The one consumer on the host that calls the table from C."""
    tvm_ffi = checks.need("tvm_ffi")
    array = owned(arrays, 31)
    made = tvm_ffi.from_dlpack(array)
    assert Capsule(made.__dlpack__()).data == SIX.ctypes.data
    del array
    gc.collect()
    assert arrays.deleted() == []
    del made
    gc.collect()
    assert arrays.deleted() == [31]


# --------------------------------------------------------------------------------------------------- the state it needs


def test_the_state_is_found_by_the_interpreter(arrays):
    """The function that makes objects is told nothing but a tensor."""
    gone = weakref.ref(checks.load(arrays.__name__))
    gc.collect()
    assert gone() is None
    fresh = checks.load(arrays.__name__)
    array = fresh.table_make(fresh.Array, Managed(SIX.ctypes.data, (2, 3)).capsule())
    assert type(array) is fresh.Array


def test_a_module_that_ends_takes_its_state_along(arrays):
    """Another one of the same library that was loaded before still makes objects by its table."""
    later = checks.load(arrays.__name__)
    assert later.table_make(later.Array, Managed(SIX.ctypes.data, (2, 3)).capsule()).shape == (2, 3)
    del later
    gc.collect()
    array = arrays.table_make(arrays.Array, Managed(SIX.ctypes.data, (2, 3)).capsule())
    assert array.shape == (2, 3)


def test_a_state_without_a_module_takes_no_table_away(arrays):
    """It shares the module's table, and makes an Array type of its own."""
    arrays.stateless((3,))
    array = arrays.table_make(arrays.Array, Managed(SIX.ctypes.data, (2, 3)).capsule())
    assert type(array) is arrays.Array


def test_an_interpreter_without_the_module():
    """An exception, and the tensor is still the caller's."""
    children.run("""
        import gc
        import numpy
        import checks
        import arrays
        from dlpack import Managed

        source = numpy.zeros(3, "f4")
        module = checks.load("arrays_second")
        capsules = []
        made = arrays.table_make(module.Array, Managed(source.ctypes.data, (3,)).capsule())
        assert type(made) is module.Array

        class Proxy:
            __dlpack_c_exchange_api__ = module.Array.__dlpack_c_exchange_api__

        del module, made
        gc.collect()
        managed = Managed(source.ctypes.data, (3,))
        capsule = managed.capsule()
        try:
            arrays.table_make(Proxy, capsule)
        except RuntimeError as error:
            assert "not loaded" in str(error)
        else:
            raise AssertionError
        assert managed.deletions == 0
        del capsule
        assert managed.deletions == 1
    """)
