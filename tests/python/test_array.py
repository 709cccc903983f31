"""Array, the object that C's arrays become: its attributes, and how it lives among Python's other objects."""

import copy
import gc
import pickle
import sys
import weakref

import numpy as np
import pytest

import checks
import children
import emulated
from outward import KINDS, shown, wrapped


def test_attributes_of_a_device_array(arrays):
    array = arrays.new((2, 3, 4), "float32", arrays.DEVICE, 1)
    assert type(array) is arrays.Array
    assert array.shape == (2, 3, 4) and type(array.shape) is tuple
    assert array.strides == (48, 16, 4) and type(array.strides) is tuple
    assert array.dtype == "float32" and np.dtype(array.dtype) == np.float32
    assert (array.ndim, array.size, array.itemsize, array.nbytes) == (3, 24, 4, 96)
    assert array.device == "cuda:1"
    assert array.readonly is False
    assert array.ptr == array.__cuda_array_interface__["data"][0] != 0
    assert type(array.stream) is arrays.Stream
    assert len(array) == 2


@pytest.mark.parametrize("kind, device, dlpack_device", [
    ("HOST", "cpu", (1, 0)), ("DEVICE", "cuda:0", (2, 0)), ("NO_POOL", "cuda:0", (2, 0)),
    ("MANAGED", "cuda:0", (13, 0)), ("PINNED", "cpu", (3, 0))])
def test_device_of_every_kind_of_memory(arrays, kind, device, dlpack_device):
    array = arrays.new((4,), "int32", getattr(arrays, kind))
    assert array.device == device
    assert array.__dlpack_device__() == dlpack_device
    assert (array.stream is None) == (kind == "HOST")


def test_devices_of_dlpack_are_numbered_for_device_memory_alone(arrays):
    assert arrays.new((4,), "int32", arrays.DEVICE, 1).__dlpack_device__() == (2, 1)
    assert arrays.new((4,), "int32", arrays.MANAGED, 1).__dlpack_device__() == (13, 0)


@pytest.mark.parametrize("name", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
                                  "float16", "float32", "float64", "complex64", "complex128"])
def test_dtype_is_a_name_that_numpy_takes(arrays, name):
    array = arrays.new((3,), name, arrays.HOST)
    assert array.dtype == name
    assert array.itemsize == np.dtype(name).itemsize
    assert array.nbytes == 3 * np.dtype(name).itemsize


def test_dtype_that_numpy_does_not_know(arrays):
    array = arrays.new((3,), "bfloat16", arrays.HOST)
    assert (array.dtype, array.itemsize, array.nbytes, array.strides) == ("bfloat16", 2, 6, (2,))


def test_strides_are_bytes_and_may_be_negative(arrays):
    source = np.arange(24, dtype="i2").reshape(4, 6)[::-1, ::2]
    array = shown(arrays, source)
    assert array.strides == source.strides == (-12, 4)
    assert array.ptr == source.ctypes.data
    assert (array.size, array.nbytes) == (12, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_arrays(arrays, kind):
    array = arrays.new((2, 0, 3), "float64", getattr(arrays, kind))
    assert (array.shape, array.size, array.nbytes, array.ptr, len(array)) == ((2, 0, 3), 0, 0, 0, 2)


def test_arrays_of_no_dimensions(arrays):
    array = arrays.new((), "float64", arrays.HOST)
    assert (array.shape, array.strides, array.ndim, array.size, array.nbytes) == ((), (), 0, 1, 8)
    with pytest.raises(TypeError, match="len"):
        len(array)


def test_many_dimensions(arrays):
    shape = (1,) * 63 + (2,)
    array = arrays.new(shape, "uint8", arrays.HOST)
    assert array.shape == shape and array.ndim == 64 and array.size == 2
    with pytest.raises(ValueError):
        arrays.new((1,) * 65, "uint8", arrays.HOST)


@pytest.mark.parametrize("shape", [(-1,), (1 << 62, 8), (1 << 40, 1 << 40), (2, -3)])
def test_shapes_that_are_none(arrays, shape):
    with pytest.raises(arrays.InvalidShapeError):
        arrays.new(shape, "float32", arrays.HOST)


@pytest.mark.parametrize("name, kind", [("cudaMallocAsync", "DEVICE"), ("cudaMalloc", "NO_POOL"),
                                        ("cudaMallocManaged", "MANAGED"), ("cudaHostAlloc", "PINNED")])
def test_no_memory(arrays, name, kind):
    """What CUDA says of too little memory is Python's MemoryError."""
    if name == "cudaHostAlloc":
        arrays.new((1,), "uint8", arrays.PINNED)
        name = next(call for call in emulated.call_names() if call in ("cudaHostAlloc", "cudaMallocHost"))
    emulated.fail(name, 1, emulated.OUT_OF_MEMORY)
    with pytest.raises(MemoryError):
        arrays.new((4,), "float32", getattr(arrays, kind))
    assert emulated.count_failures() == 0


def test_readonly(arrays):
    source = np.zeros(3, "f4")
    assert shown(arrays, source).readonly is False
    assert shown(arrays, source, readonly=True).readonly is True


@pytest.mark.parametrize("name", ["shape", "strides", "dtype", "ndim", "size", "nbytes", "itemsize", "device", "stream",
                                  "readonly", "ptr", "__cuda_array_interface__", "__array_interface__", "_capsule"])
def test_attributes_cannot_be_set(arrays, name):
    array = arrays.new((3,), "float32", arrays.MANAGED)
    with pytest.raises(AttributeError):
        setattr(array, name, None)
    with pytest.raises(AttributeError):
        delattr(array, name)


def test_no_instances_but_those_that_c_makes(arrays):
    for make in (arrays.Array, arrays.Stream):
        with pytest.raises(TypeError):
            make()
    with pytest.raises(TypeError):
        object.__new__(arrays.Array)


def test_the_types_belong_to_the_module(arrays):
    assert arrays.Array.__module__ == arrays.Stream.__module__ == arrays.__name__
    assert (arrays.Array.__name__, arrays.Stream.__name__) == ("Array", "Stream")


# ------------------------------------------------------------------------------------------------------------- repr


def test_repr(arrays):
    assert repr(arrays.new((3, 4), "float32", arrays.DEVICE, 1)) == "Array(shape=(3, 4), dtype=float32, device='cuda:1')"
    assert repr(arrays.new((3,), "int8", arrays.HOST)) == "Array(shape=(3,), dtype=int8, device='cpu')"
    assert repr(arrays.new((), "bool", arrays.HOST)) == "Array(shape=(), dtype=bool, device='cpu')"


def test_repr_says_what_is_unusual(arrays):
    source = np.zeros((2, 3), "f4").T
    assert repr(shown(arrays, source)) == "Array(shape=(3, 2), strides=(4, 12), dtype=float32, device='cpu')"
    assert repr(shown(arrays, source[:1], readonly=True)) == (
        "Array(shape=(1, 2), strides=(4, 12), dtype=float32, device='cpu', readonly)")
    assert str(shown(arrays, np.zeros(3, "f4"), readonly=True)) == (
        "Array(shape=(3,), dtype=float32, device='cpu', readonly)")


def test_repr_touches_no_device(arrays):
    array = arrays.new((3,), "float32", arrays.DEVICE)
    emulated.clear_calls()
    repr(array), array.shape, array.dtype, array.device, array.ptr, len(array)
    assert emulated.call_names() == []


# ------------------------------------------------------------------------------------------------ among Python objects


def test_equal_means_identical(arrays):
    handle = arrays.new_handle((3,), "float32", arrays.HOST)
    one, other = arrays.give(handle), arrays.give(handle)
    assert one is not other and one.ptr == other.ptr
    assert one == one and one != other
    assert hash(one) == hash(one)
    assert {one: 1, other: 2}[one] == 1


@pytest.mark.parametrize("kind", ["HOST", "DEVICE"])
@pytest.mark.parametrize("what", [*[lambda array, n=n: pickle.dumps(array, n)
                                    for n in range(pickle.HIGHEST_PROTOCOL + 1)], copy.copy, copy.deepcopy],
                         ids=[*[f"pickle{n}" for n in range(pickle.HIGHEST_PROTOCOL + 1)], "copy", "deepcopy"])
def test_no_pickle_and_no_copy(arrays, kind, what):
    """Refused, and the message says why and what to do instead."""
    array = arrays.new((3,), "float32", getattr(arrays, kind))
    with pytest.raises(TypeError, match="neither pickled nor copied: it is memory.*from_dlpack"):
        what(array)


def test_weak_references(arrays):
    array = arrays.new((3,), "float32", arrays.HOST)
    gone = []
    reference = weakref.ref(array, gone.append)
    assert reference() is array
    del array
    assert reference() is None
    assert gone == [reference]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_freed_with_the_last_reference(arrays, kind):
    arrays.new((4,), "float32", getattr(arrays, kind))
    before = checks.cuda_state()
    array = arrays.new((4,), "float32", getattr(arrays, kind))
    assert (emulated.count_allocations() > before["allocations"]) == (kind != "HOST")
    del array
    assert checks.cuda_state() == before


def test_objects_of_one_array_share_it(arrays):
    handle = wrapped(arrays, np.zeros(3, "f4"), owner=7)
    one, other = arrays.give(handle), arrays.give(handle)
    arrays.release(handle)
    del one
    assert arrays.deleted() == []
    assert other.shape == (3,)
    del other
    assert arrays.deleted() == [7]


def test_reference_counts_of_types_and_module(arrays):
    watched = (arrays, arrays.Array, arrays.Stream)
    arrays.new((3,), "float32", arrays.DEVICE).stream
    gc.collect()
    before = [sys.getrefcount(item) for item in watched]
    for _ in range(10):
        array = arrays.new((3,), "float32", arrays.DEVICE)
        array.stream, array._capsule, array.__cuda_array_interface__, array.__dlpack__(), repr(array)
    del array
    gc.collect()
    assert [sys.getrefcount(item) for item in watched] == before


def test_an_array_outlives_its_module():
    """Its type keeps what it needs of it."""
    module = checks.load("arrays")
    array = module.new((2,), "float32", module.HOST)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert array.shape == (2,)
    assert np.from_dlpack(array).shape == (2,)
    del array
    gc.collect()
    assert gone() is None


def test_a_state_that_is_made_twice_at_once_is_made_once():
    """While the first is made another thread may make one: the code that imports a module stands in for it."""
    children.run("""
        import builtins, arrays

        def hook(name, *arguments, **keywords):
            if not made:
                made.append(None)
                made.append(arrays.stateless((2,)))
            return original(name, *arguments, **keywords)

        made, original, builtins.__import__ = [], builtins.__import__, hook
        made.append(arrays.stateless((2,)))
        builtins.__import__ = original
        assert len({type(array) for array in (*made[1:], arrays.stateless((2,)))}) == 1
        assert len(made) == 3
    """)


def test_a_stateless_array_has_a_type_of_its_own(arrays):
    """Where there is no module at hand the state lies in the interpreter's dict."""
    array = arrays.stateless((2, 3))
    assert array.shape == (2, 3)
    assert type(array) is not arrays.Array and type(array).__name__ == "Array"
    assert type(arrays.stateless((1,))) is type(array)


@pytest.mark.parametrize("shape, strides, in_bytes", [
    ((4, 1), (1, 2**63 - 1), (4, 0)), ((1, 4), (-(2**63), 1), (0, 4)), ((0, 2), (2**62, 1), (0, 4)),
    ((2, 1, 2), (3, 2**61, 1), (12, 0, 4)), ((4, 1), (1, 7), (4, 28))])
def test_strides_that_are_never_followed_are_0_where_their_bytes_overflow(arrays, shape, strides, in_bytes):
    memory = np.arange(6, dtype="f4")
    array = arrays.give(arrays.wrap(memory.ctypes.data, shape, strides, "float32", (1, 0), 0, None))
    assert array.strides == in_bytes
    assert memoryview(array).strides == in_bytes
    assert np.asarray(array).shape == shape
    assert np.asarray(array).sum() == {(2, 1, 2): 8, (0, 2): 0}.get(shape, 6)
    if in_bytes == (12, 0, 4):
        assert array.__array_interface__["strides"] == in_bytes
        assert f"strides={in_bytes}" in repr(array)


@pytest.mark.parametrize("device_type", [0, 4, 7, 10, 14])
def test_memory_of_devices_that_cai_does_not_know_is_refused(arrays, device_type):
    memory = np.zeros(4, "f4")
    with pytest.raises(arrays.DeviceMismatchError, match=f"got device type {device_type}$"):
        arrays.wrap(memory.ctypes.data, (4,), None, "float32", (device_type, 0), 0, 3)
    assert arrays.deleted() == []


# ---------------------------------------------------------------------------------------------------------- garbage


class Owner:
    """Owns memory, and can hold things."""

    def __init__(self):
        self.memory = np.zeros(3, "f4")


def test_owners_that_are_objects(arrays):
    owner = Owner()
    gone, before = weakref.ref(owner), sys.getrefcount(owner)
    array = shown(arrays, owner.memory, owner=owner)
    assert sys.getrefcount(owner) == before + 1
    del owner
    assert gone() is not None
    del array
    if arrays.__name__ == "arrays_limited":
        arrays.new((), "int8", arrays.HOST)  # an unknown thread puts it into the queue, which the next call empties
    assert gone() is None


def test_pitfall_58_an_array_and_its_owner_in_a_cycle(arrays):
    owner = Owner()
    owner.array = shown(arrays, owner.memory, owner=owner)
    gone, array_gone = weakref.ref(owner), weakref.ref(owner.array)
    del owner
    gc.collect()
    arrays.new((), "int8", arrays.HOST)
    assert (gone(), array_gone()) == (None, None)


def test_pitfall_58_a_cycle_of_several_arrays(arrays):
    """Each array owns the next, through objects."""
    owners = [Owner() for _ in range(5)]
    for owner, after in zip(owners, owners[1:] + owners[:1]):
        owner.array = shown(arrays, after.memory, owner=after)
    gone = [weakref.ref(owner) for owner in owners]
    del owners, owner, after
    gc.collect()
    arrays.new((), "int8", arrays.HOST)
    assert [reference() for reference in gone] == [None] * 5


def test_pitfall_58_what_c_holds_is_no_garbage(arrays):
    """An array that C, a capsule or a consumer holds too keeps its owner, cycle or not."""
    owner = Owner()
    handle = wrapped(arrays, owner.memory, owner=owner)
    owner.array = arrays.give(handle)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is not None
    assert arrays.give(handle).shape == (3,)
    capsule = gone().array.__dlpack__(max_version=(1, 0))
    arrays.release(handle)
    gc.collect()
    assert gone() is not None
    del capsule
    gc.collect()
    arrays.new((), "int8", arrays.HOST)
    assert gone() is None


def test_pitfall_58_a_stream_and_its_owner_in_a_cycle(arrays):
    owner = Owner()
    owner.stream = arrays.make_stream(77, owner)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_an_array_that_is_being_destroyed(arrays):
    """A finalizer that the collector runs after it has broken the cycle gets an exception, not a crash."""
    found = []

    class Late(Owner):
        def __del__(self):
            found.append(self.array.shape)

    owner = Late()
    owner.array = shown(arrays, owner.memory, owner=owner)
    del owner
    gc.collect()
    assert found == [(3,)]


def test_pending_exceptions_survive_the_end(arrays):
    """An array that ends while an exception is on its way, and whose owner's end raises one of its own."""

    class Raising(Owner):
        def __del__(self):
            try:
                raise ValueError("on the way out")
            except ValueError:
                pass

    def run():
        owner = Raising()
        array = shown(arrays, owner.memory, owner=owner)
        del owner
        raise KeyError(array.size)

    with pytest.raises(KeyError, match="3"):
        run()


def test_memory_in_use_is_not_poisoned_by_a_neighbour(arrays):
    """Arrays made and freed in turn never overlap."""
    kept = []
    for size in range(1, 40):
        array = arrays.new((size,), "uint8", arrays.DEVICE)
        emulated.write(array.ptr, bytes([size]) * size)
        kept.append(array)
        if size % 3 == 0:
            del kept[0]
    assert all(emulated.read(array.ptr, array.nbytes) == bytes([array.size]) * array.size for array in kept)
