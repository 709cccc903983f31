"""Arrays in by DLPack capsules: legacy and versioned, from __dlpack__ and passed as the argument itself."""

import ctypes
import enum
import gc
import sys
import types
import weakref

import numpy as np
import pytest

import checks
import dlpack
import emulated
from dlpack import CPU, CUDA, CUDA_HOST, MANAGED, Managed, capsule_name
from producers import Both, DLPack, Memory, refusing

pytestmark = pytest.mark.filterwarnings("error")

SIX = np.arange(6, dtype="f4").reshape(2, 3)
FOUR = np.arange(4, dtype="f4")

WAYS = ["legacy", "versioned", "legacy_capsule", "versioned_capsule"]
every_way = pytest.mark.parametrize("way", WAYS)
versioned_ways = pytest.mark.parametrize("way", ["versioned", "versioned_capsule"])
legacy_ways = pytest.mark.parametrize("way", ["legacy", "legacy_capsule"])


def offer(way, array=SIX, **fields):
    """One tensor in a way of WAYS: what to pass, and the managed tensors beside those that a producer has in `made`.

    `fields` replace those of dlpack.Managed; "pointer" may be a distance from where the memory begins.
    """
    if not way.endswith("capsule"):
        return DLPack(array, legacy=way == "legacy", tensor=fields), []
    source = DLPack(array)
    managed = Managed(**{"pointer": source.pointer, "shape": array.shape, "device": (CUDA, 0),
                         "dtype": dlpack.FLOAT32, "version": None if way.startswith("legacy") else (1, 3),
                         "owner": source.memory, **fields})
    return managed.capsule(), [managed]


def made(source, managed):
    """The one managed tensor of an offer that has been acquired."""
    (one,) = managed or source.made
    return one


class Index:
    """An integer by __index__ alone."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


# By the first order a tensor is deleted inside the release, by the second one late.
INSIDE_AND_LATE = ["none", "adopt"]


class Asked(DLPack):
    """A producer whose __dlpack__ does what a function says; counts the calls in `asked`."""

    def __init__(self, answer, array=SIX, **kwargs):
        super().__init__(array, **kwargs)
        self.answer = answer

    def __dlpack__(self, **keywords):
        self.asked.append({**keywords, "device": emulated.get_device()})
        return self.answer(self, **keywords)

    def export(self, **keywords):
        asked = len(self.asked)
        capsule = DLPack.__dlpack__(self, **keywords)
        del self.asked[asked:]
        return capsule


def on_host(array, **fields):
    """A producer of host memory: a NumPy array by a hand-made capsule."""
    source = DLPack(array, announce=(CPU, 0), tensor={"pointer": array.ctypes.data, **fields})
    source.keeps = array
    return source


# ------------------------------------------------------------------------------------------------------- what is read


@every_way
def test_every_field_of_the_view(accepts, probe, way):
    source, managed = offer(way)
    with accepts(source, managed=managed) as view:
        assert view.shape == (2, 3)
        assert view.strides == (3, 1)
        assert view.dtype == "float32"
        assert view.device == (CUDA, 0)
        assert view.size == 6
        assert view.protocol == probe.VIA_DLPACK
        assert view.stream == emulated.LEGACY
        assert view.flags & ~probe.READONLY == probe.STREAM_UNKNOWN
        assert (view.mask, view.descr) == (None, None)
        assert np.array_equal(checks.read(view), SIX)
        assert made(source, managed).deletions == 0


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.LEGACY])
def test_pitfall_23_the_capsules_name_decides_and_not_what_was_asked_for(accepts, probe, legacy, order):
    source = DLPack(SIX, legacy=legacy)
    with accepts(source, order) as view:
        assert source.asked[0]["max_version"] == (1, 3)
        assert bool(view.flags & probe.READONLY) == legacy  # a legacy struct does not say that it may be written
        assert np.array_equal(checks.read(view), SIX)


def test_pitfall_23_versioned_without_being_asked(accepts):
    def answer(self, *, stream):
        return self.export(stream=stream, max_version=(1, 3))

    with accepts(Asked(answer)) as view:
        assert np.array_equal(checks.read(view), SIX)


@versioned_ways
@pytest.mark.parametrize("major", [0, 2, 3, 99, 2**32 - 1])
def test_pitfall_24_of_another_major_version_only_the_deleter_is_used(refuses, way, major):
    source, managed = offer(way, version=(major, 7), ndim=-5, null_shape=True, dtype=(200, 200, 200), flags=2**64 - 1)
    refusal = refuses("InvalidVersionError", source, managed=managed, require="WRITABLE", match=f"{major}.7")
    assert issubclass(refusal.type, BufferError)
    assert made(source, managed).deletions == 1


@versioned_ways
@pytest.mark.parametrize("minor", [0, 1, 4, 2**32 - 1])
def test_pitfall_24_any_minor_version_is_read(accepts, way, minor):
    source, managed = offer(way, version=(1, minor))
    with accepts(source, managed=managed) as view:
        assert np.array_equal(checks.read(view), SIX)


# ---------------------------------------------------------------------------------------------------------- ownership


@pytest.mark.parametrize("way, used", [("legacy_capsule", "used_dltensor"),
                                       ("versioned_capsule", "used_dltensor_versioned")])
def test_pitfall_25_a_capsule_that_was_taken_is_renamed(accepts, refuses, way, used):
    capsule, managed = offer(way)
    with accepts(capsule, managed=managed):
        assert capsule_name(capsule) == used
        assert used in refuses("InvalidCapsuleError", capsule).message
        assert managed[0].deletions == 0
    refuses("InvalidCapsuleError", capsule)
    del capsule
    gc.collect()
    assert managed[0].deletions == 1


@pytest.mark.parametrize("legacy", [False, True])
def test_pitfall_25_so_is_one_from_a_producer(accepts, legacy):
    given = []

    def answer(self, **keywords):
        given.append(self.export(**keywords))
        return given[-1]

    source = Asked(answer, legacy=legacy)
    with accepts(source):
        assert capsule_name(given[0]) == ("used_dltensor" if legacy else "used_dltensor_versioned")
    given.clear()
    gc.collect()
    assert source.deletions == [1]


@pytest.mark.parametrize("way", ["legacy_capsule", "versioned_capsule"])
def test_pitfall_25_a_capsule_that_was_refused_is_deleted_once(refuses, way):
    capsule, managed = offer(way)
    refuses("InvalidShapeError", capsule, managed=managed, ndim=5)
    assert managed[0].deletions == 1
    assert capsule_name(capsule).startswith("used_")
    del capsule
    gc.collect()
    assert managed[0].deletions == 1


class Careless(Managed):
    """The capsule's destructor deletes whatever the capsule's name is, as some producers' do."""

    def _destroy(self, capsule):
        self._delete(self.address)


@pytest.mark.parametrize("version", [None, (1, 3)])
@pytest.mark.parametrize("request_", [{}, {"ndim": 5}], ids=["accepted", "refused"])
def test_pitfall_25_destructors_that_ignore_the_name(probe, version, request_):
    managed = Careless(Memory(FOUR).pointer, (4,), device=(CUDA, 0), version=version)
    capsule = managed.capsule()
    view, refusal = checks.catch(probe.acquire, capsule, "adopt", request_)
    assert (view is None) == bool(request_)
    if view is not None:
        assert managed.deletions == 0
        assert view.release() == "OK"
    del capsule, view
    gc.collect()
    assert managed.deletions == (1 if request_ else 0)  # what is accepted is given back late
    emulated.run_all()
    assert managed.deletions == 1


def test_pitfall_25_one_capsule_for_two_arguments(probe, unchanged):
    capsule, managed = offer("versioned_capsule")
    with unchanged(capsule):
        result, refusal = checks.catch(probe.call, (capsule, capsule), ({"name": "a"}, {"name": "b"}))
    assert refusal.type is probe.InvalidCapsuleError
    assert refusal.message.startswith("argument 'b': ")
    assert managed[0].deletions == 1


def test_pitfall_26_a_capsule_that_is_not_taken_is_left_alone(refuses):
    capsule, managed = offer("versioned_capsule")
    refuses("InterfaceNotImplementedError", capsule, protocols="VIA_CUDA_ARRAY_INTERFACE VIA_BUFFER VIA_EXCHANGE")
    assert managed[0].deletions == 0
    assert capsule_name(capsule) == "dltensor_versioned"
    del capsule
    gc.collect()
    assert managed[0].deletions == 1


@pytest.mark.parametrize("name", ["dltensor_v2", "DLTensor", "dltensor ", "used_", "used_dltensor", "tensor",
                                  "used_dltensor_versioned", "dlpack_exchange_api", "caf\u00e9"])
def test_pitfall_26_capsules_of_another_name(refuses, name):
    managed = Managed(Memory(FOUR).pointer, (4,), device=(CUDA, 0))
    capsule = managed.capsule(name)
    refuses("InvalidCapsuleError", capsule, match=f'got "{name}"')
    assert managed.deletions == 0
    assert capsule_name(capsule) == name


def test_pitfall_26_capsules_of_a_very_long_name(refuses):
    refuses("InvalidCapsuleError", Managed(Memory(FOUR).pointer, (4,)).capsule("x" * 5000))


def test_pitfall_26_capsules_without_a_name(refuses):
    memory = Memory(FOUR)
    make = ctypes.pythonapi.PyCapsule_New
    capsule = make(ctypes.c_void_p(memory.pointer), None, None)
    refuses("InvalidCapsuleError", capsule)


def test_pitfall_26_capsules_whose_name_is_no_text(probe):
    name = b"\xff\xfedltensor"
    make = ctypes.pythonapi.PyCapsule_New
    capsule = make(ctypes.c_void_p(0x1000), ctypes.c_char_p(name), None)
    _, refusal = checks.catch(probe.acquire, capsule)
    assert refusal.type is probe.InvalidCapsuleError
    assert "dltensor" in refusal.message


SHAPES = [(), (1,), (3,), (0,), (0, 3), (3, 0), (1, 1, 1), (2, 1, 3)]


@every_way
@pytest.mark.parametrize("shape", SHAPES)
def test_pitfall_27_the_deleter_runs_whatever_the_size(accepts, way, shape):
    source, managed = offer(way, np.zeros(shape, "f4"), pointer=0) if 0 in shape else offer(way, np.zeros(shape, "f4"))
    with accepts(source, managed=managed) as view:
        assert view.shape == shape
        assert made(source, managed).deletions == 0
    assert made(source, managed).deletions == 1


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_27_a_view_that_is_forgotten_is_given_back(probe, order):
    source = DLPack(FOUR)
    view = probe.acquire(source, order)
    assert source.deletions == [0]
    del view
    gc.collect()
    assert source.deletions == ([0] if order == "adopt" else [1])
    emulated.run_all()
    assert source.deletions == [1]


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_27_releasing_twice_deletes_once(probe, order):
    source = DLPack(FOUR)
    view = probe.acquire(source, order)
    assert [view.release() for _ in range(3)] == ["OK"] * 3
    assert source.deletions == ([0] if order == "adopt" else [1])
    emulated.run_all()
    assert source.deletions == [1]


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_27_a_deleter_that_releases_the_view_again(probe, order):
    views = []
    managed = Managed(Memory(FOUR).pointer, (4,), device=(CUDA, 0), on_delete=lambda: views[0].release())
    views.append(probe.acquire(managed.capsule(), order))
    assert views[0].release() == "OK"
    emulated.run_all()
    assert managed.deletions == 1
    assert views[0].object() is None


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_27_a_deleter_that_uses_the_library_itself(probe, order):
    def use():
        view = probe.acquire(DLPack(FOUR), order)
        assert view.release() == "OK"
        assert checks.catch(probe.acquire, None)[1].type is probe.InterfaceNotImplementedError

    managed = [Managed(Memory(FOUR).pointer, (4,), device=(CUDA, 0), on_delete=use) for _ in range(2)]
    assert probe.acquire(managed[0].capsule(), order).release() == "OK"
    assert checks.catch(probe.acquire, managed[1].capsule(), order, {"ndim": 3})[1].type is probe.InvalidShapeError
    assert [one.deletions for one in managed] == [0 if order == "adopt" else 1, 1]
    emulated.run_all()
    assert [one.deletions for one in managed] == [1, 1]


@every_way
def test_pitfall_28_a_deleter_of_null(accepts, refuses, way):
    source, managed = offer(way, deleter=False, owner=None)
    with accepts(source, managed=managed) as view:
        assert np.array_equal(checks.read(view), SIX)
    source, managed = offer(way, deleter=False, owner=None)
    refuses("InvalidShapeError", source, managed=managed, ndim=7)


# ------------------------------------------------------------------------------------------------- offset and strides


@every_way
@pytest.mark.parametrize("offset", [4, 8, 12])
def test_pitfall_29_the_byte_offset_counts(accepts, way, offset):
    source, managed = offer(way, shape=(3,), byte_offset=offset)
    with accepts(source, managed=managed) as view:
        assert view.byte_offset == 0
        assert checks.read(view).tolist() == [offset / 4 + i for i in range(3)]


@every_way
@pytest.mark.parametrize("offset", [1, 2, 3, 6])
def test_pitfall_29_alignment_is_that_of_the_first_element(accepts, refuses, way, offset):
    source, managed = offer(way, shape=(3,), byte_offset=offset)
    refuses("LayoutMismatchError", source, managed=managed, match="aligned to 4 bytes")
    source, managed = offer(way, shape=(3,), byte_offset=offset)
    with accepts(source, managed=managed, require="UNALIGNED_OK") as view:
        assert view.pointer % 4 == offset % 4


@every_way
def test_pitfall_29_the_offset_makes_up_for_a_misaligned_pointer(accepts, way):
    memory = Memory(FOUR)
    source, managed = offer(way, pointer=memory.pointer - 3, byte_offset=3, shape=(4,))
    with accepts(source, managed=managed) as view:
        assert view.pointer == memory.pointer


@every_way
@pytest.mark.parametrize("offset", [2**64 - 4, 2**64 - 2**12, 2**63 + 2**63 - 8])
def test_pitfall_29_an_offset_beyond_the_address_space(refuses, way, offset):
    source, managed = offer(way, byte_offset=offset)
    refuses(("InvalidShapeError", "InvalidStridesError"), source, managed=managed)


@every_way
def test_pitfall_29_null_with_an_offset_is_still_null(accepts, refuses, way):
    source, managed = offer(way, pointer=0, byte_offset=4096)
    refuses("IncompleteInterfaceError", source, managed=managed)
    source, managed = offer(way, pointer=0, byte_offset=4096, shape=(0,))
    with accepts(source, managed=managed) as view:
        assert view.pointer == 0


@every_way
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6, 1), (0, 2), ()])
def test_pitfall_30_strides_of_null_are_c_contiguous(accepts, way, shape):
    source, managed = offer(way, shape=shape, strides=None)
    with accepts(source, managed=managed, require="C_CONTIGUOUS") as view:
        if 0 not in shape:
            assert view.strides == tuple(s // 4 for s in np.zeros(shape, "f4").strides)
        assert len(view.strides) == len(shape)


@pytest.mark.parametrize("version", [None, (1, 0), (1, 2), (1, 3)])
@pytest.mark.parametrize("strides", [None, (3, 1), (1, 2)])
def test_pitfall_30_the_producers_struct_is_never_written_to(accepts, version, strides):
    managed = Managed(Memory(SIX).pointer, (2, 3), device=(CUDA, 0), version=version, strides=strides, byte_offset=0)
    before = managed.contents()
    with accepts(managed.capsule(), managed=[managed]):
        assert managed.contents() == before
    assert managed.contents() == before


@every_way
@pytest.mark.parametrize("shape, strides", [
    ((1, 3), (99, 1)), ((3, 1), (1, 77)), ((1, 1), (-5, 2**40)), ((1,), (0,)), ((1, 2, 1, 3), (0, 3, -1, 1)),
    ((1,) * 5, (2**62,) * 5), ((0, 3), (-7, 9)), ((2, 0), (2**62, 2**62)), ((), ())])
def test_pitfall_31_strides_of_extent_one_and_of_empty_arrays_mean_nothing(accepts, way, shape, strides):
    source, managed = offer(way, shape=shape, strides=strides)
    with accepts(source, managed=managed, require="C_CONTIGUOUS NO_SELF_OVERLAP NO_NEGATIVE_STRIDES") as view:
        assert view.shape == shape


@every_way
@pytest.mark.parametrize("shape, strides", [((1, 1), (8, 9)), ((), None), ((0, 5), (1, 1)), ((1,), (4,))])
def test_pitfall_31_at_most_one_element_is_contiguous_in_every_order(accepts, way, shape, strides):
    source, managed = offer(way, shape=shape, strides=strides)
    with accepts(source, managed=managed, require="C_CONTIGUOUS F_CONTIGUOUS CONTIGUOUS"):
        pass


@every_way
@pytest.mark.parametrize("pointer", [0, 3, 0xDEAD0001])
def test_pitfall_31_empty_arrays_take_any_pointer(accepts, way, pointer):
    source, managed = offer(way, pointer=pointer, shape=(2, 0), byte_offset=1)
    with accepts(source, managed=managed) as view:
        assert (view.pointer, view.size) == (0, 0)


@every_way
@pytest.mark.parametrize("null_shape", [False, True])
def test_pitfall_31_zero_dimensions_need_no_shape(accepts, way, null_shape):
    source, managed = offer(way, shape=(), null_shape=null_shape)
    with accepts(source, managed=managed, ndim=-1) as view:
        assert (view.shape, view.strides, view.size) == ((), (), 1)


@every_way
@pytest.mark.parametrize("fields, error", [
    pytest.param({"pointer": 0}, "IncompleteInterfaceError", id="null_with_elements"),
    pytest.param({"pointer": 0, "shape": ()}, "IncompleteInterfaceError", id="null_with_one_element"),
    pytest.param({"null_shape": True}, "IncompleteInterfaceError", id="null_shape"),
    pytest.param({"ndim": -1}, "InvalidShapeError", id="ndim_negative"),
    pytest.param({"ndim": -2**31}, "InvalidShapeError", id="ndim_lowest"),
    pytest.param({"ndim": 65}, "InvalidShapeError", id="ndim_65"),
    pytest.param({"ndim": 2**31 - 1}, "InvalidShapeError", id="ndim_highest"),
    pytest.param({"ndim": 65, "null_shape": True}, "InvalidShapeError", id="ndim_65_null_shape"),
    pytest.param({"shape": (-1,)}, "InvalidShapeError", id="extent_negative"),
    pytest.param({"shape": (0, -1)}, "InvalidShapeError", id="extent_negative_and_empty"),
    pytest.param({"shape": (-2**63,)}, "InvalidShapeError", id="extent_lowest"),
    pytest.param({"shape": (2**62, 2)}, "InvalidShapeError", id="too_many_bytes"),
    pytest.param({"shape": (2**33, 2**33)}, "InvalidShapeError", id="too_many_elements"),
    pytest.param({"shape": (2**63 - 1,)}, "InvalidShapeError", id="extent_highest"),
    pytest.param({"shape": (2**21,) * 4}, "InvalidShapeError", id="product_wraps"),
    pytest.param({"shape": (3,), "strides": (2**61,)}, "InvalidStridesError", id="stride_reaches_too_far"),
    pytest.param({"shape": (2,), "strides": (-2**63,)}, "InvalidStridesError", id="stride_lowest"),
    pytest.param({"shape": (2,), "strides": (2**63 - 1,)}, "InvalidStridesError", id="stride_highest"),
    pytest.param({"shape": (4,), "strides": (-2**60,)}, "InvalidStridesError", id="below_address_0"),
    pytest.param({"shape": (2, 2), "strides": (2**60, 2**60)}, "InvalidStridesError", id="strides_add_up"),
])
def test_pitfall_31_structs_that_make_no_sense(refuses, way, fields, error):
    source, managed = offer(way, **fields)
    refuses(error, source, managed=managed)
    assert made(source, managed).deletions == 1


@every_way
def test_up_to_64_dimensions(accepts, way):
    source, managed = offer(way, shape=(1,) * 63 + (6,))
    with accepts(source, managed=managed) as view:
        assert view.shape == (1,) * 63 + (6,)


@every_way
def test_pitfall_32_strides_are_honoured_and_can_be_refused(accepts, refuses, way):
    source, managed = offer(way, shape=(3, 2), strides=(1, 3))
    with accepts(source, managed=managed, require="F_CONTIGUOUS") as view:
        assert view.strides == (1, 3)
        assert np.array_equal(checks.read(view), SIX.T)
    source, managed = offer(way, shape=(3, 2), strides=(1, 3))
    refuses("LayoutMismatchError", source, managed=managed, require="C_CONTIGUOUS", match="strides (1, 3)")


@every_way
def test_negative_and_zero_strides(accepts, way):
    source, managed = offer(way, shape=(2, 3), strides=(0, -1), byte_offset=20)
    with accepts(source, managed=managed) as view:
        assert view.strides == (0, -1)
        assert checks.read(view).tolist() == [[5, 4, 3]] * 2


# --------------------------------------------------------------------------------------------------------- data types

PLAIN = {"bool": (6, 8), "int8": (0, 8), "int16": (0, 16), "int32": (0, 32), "int64": (0, 64), "uint8": (1, 8),
         "uint16": (1, 16), "uint32": (1, 32), "uint64": (1, 64), "float16": (2, 16), "float32": (2, 32),
         "float64": (2, 64), "bfloat16": (4, 16), "complex32": (5, 32), "complex64": (5, 64), "complex128": (5, 128),
         "float8_e3m4": (7, 8), "float8_e4m3": (8, 8), "float8_e4m3b11fnuz": (9, 8), "float8_e4m3fn": (10, 8),
         "float8_e4m3fnuz": (11, 8), "float8_e5m2": (12, 8), "float8_e5m2fnuz": (13, 8), "float8_e8m0fnu": (14, 8),
         "bcomplex32": (18, 32)}
UNUSUAL = {"float6_e2m3fn": (15, 6, 1), "float6_e3m2fn": (16, 6, 1), "float4_e2m1fn": (17, 4, 1), "int4": (0, 4, 1),
           "uint4": (1, 4, 1), "float4_e2m1fnx2": (17, 4, 2), "float32x4": (2, 32, 4), "int8x4": (0, 8, 4),
           "float32x2": (2, 32, 2), "bfloat16x2": (4, 16, 2)}


@every_way
@pytest.mark.parametrize("name", PLAIN)
def test_pitfall_33_data_types_of_dlpack(accepts, refuses, way, name):
    dtype = (*PLAIN[name], 1)
    source, managed = offer(way, np.zeros(4, "f8"), dtype=dtype)
    with accepts(source, managed=managed) as view:
        assert view.dtype == name
    source, managed = offer(way, np.zeros(4, "f8"), dtype=dtype)
    with accepts(source, managed=managed, dtype=name):
        pass
    source, managed = offer(way, np.zeros(4, "f8"), dtype=dtype)
    other = "float32" if name != "float32" else "int32"
    refuses("DtypeMismatchError", source, managed=managed, dtype=other, match=f"expected {other}; got {name}, ")


@every_way
@pytest.mark.parametrize("name", UNUSUAL)
def test_pitfall_33_lanes_and_sub_byte_types_are_opt_in(accepts, refuses, way, name):
    source, managed = offer(way, np.zeros(4, "f8"), dtype=UNUSUAL[name])
    refuses("DtypeMismatchError", source, managed=managed, match=f"got {name}, ")
    source, managed = offer(way, np.zeros(4, "f8"), dtype=UNUSUAL[name])
    with accepts(source, managed=managed, require="UNUSUAL_DTYPE_OK") as view:
        assert view.dtype == name
    source, managed = offer(way, np.zeros(4, "f8"), dtype=UNUSUAL[name])
    with accepts(source, managed=managed, dtype=name) as view:
        assert view.dtype == name


@every_way
@pytest.mark.parametrize("code, bits, lanes", [
    (19, 8, 1), (42, 8, 1), (255, 8, 1), (0, 24, 1), (0, 128, 1), (0, 0, 1), (1, 3, 1), (2, 8, 1), (2, 80, 1),
    (2, 128, 1), (3, 64, 1), (4, 32, 1), (5, 16, 1), (5, 255, 1), (6, 1, 1), (6, 16, 1), (10, 16, 1), (15, 8, 1),
    (17, 8, 1), (18, 64, 1), (2, 32, 0), (200, 200, 65535), (99, 8, 4)])
@pytest.mark.parametrize("require", ["", "UNUSUAL_DTYPE_OK"])
def test_pitfall_33_unknown_data_types_by_value(refuses, way, code, bits, lanes, require):
    source, managed = offer(way, dtype=(code, bits, lanes))
    refusal = refuses("UnknownDtypeError", source, managed=managed, require=require)
    assert issubclass(refusal.type, BufferError)
    assert f"code {code}, {bits} bits, {lanes} lanes" in refusal.message


@every_way
@pytest.mark.parametrize("wanted", ["complex64", "float32"])
def test_pitfall_33_complex_as_two_lanes_is_neither(refuses, way, wanted):
    source, managed = offer(way, dtype=(2, 32, 2))
    refuses("DtypeMismatchError", source, managed=managed, dtype=wanted, match="float32x2")


@every_way
def test_pitfall_33_items_of_several_lanes_have_the_size_of_all(accepts, refuses, way):
    source, managed = offer(way, np.arange(8, dtype="f4"), shape=(2,), dtype=(2, 32, 4))
    with accepts(source, managed=managed, require="UNUSUAL_DTYPE_OK") as view:
        assert (view.size, view.strides) == (2, (1,))
    # Strides of vectors count vectors: (1,) is dense, and overflow is counted in items of 16 bytes.
    source, managed = offer(way, shape=(2,), strides=(2**59,), dtype=(2, 32, 4))
    refuses("InvalidStridesError", source, managed=managed, require="UNUSUAL_DTYPE_OK")


@versioned_ways
@pytest.mark.parametrize("flags, padded", [(0, False), (dlpack.PADDED, True)])
def test_pitfall_33_padding_of_sub_byte_types_is_told(accepts, probe, way, flags, padded):
    source, managed = offer(way, dtype=(17, 4, 1), flags=flags)
    with accepts(source, managed=managed, dtype="float4_e2m1fn") as view:
        assert bool(view.flags & probe.SUBBYTE_PADDED) == padded


@every_way
def test_pitfall_34_bool_is_its_own_type(accepts, refuses, way):
    source, managed = offer(way, np.zeros(4, "b1"), dtype=(6, 8, 1))
    with accepts(source, managed=managed, dtype="bool") as view:
        assert view.dtype == "bool"
    source, managed = offer(way, np.zeros(4, "b1"), dtype=(6, 8, 1))
    refuses("DtypeMismatchError", source, managed=managed, dtype="uint8")
    source, managed = offer(way, np.zeros(4, "u1"), dtype=(1, 8, 1))
    refuses("DtypeMismatchError", source, managed=managed, dtype="bool")


@every_way
def test_pitfall_34_uint8_as_bool_on_request(accepts, refuses, way):
    source, managed = offer(way, np.zeros(4, "u1"), dtype=(1, 8, 1))
    with accepts(source, managed=managed, dtype="bool", require="UINT8_AS_BOOL") as view:
        assert view.dtype == "uint8"
    for dtype in ((0, 8, 1), (1, 16, 1), (1, 8, 2)):
        source, managed = offer(way, np.zeros(4, "i4"), dtype=dtype)
        refuses("DtypeMismatchError", source, managed=managed, dtype="bool", require="UINT8_AS_BOOL")
    source, managed = offer(way, np.zeros(4, "b1"), dtype=(6, 8, 1))
    refuses("DtypeMismatchError", source, managed=managed, dtype="uint8", require="UINT8_AS_BOOL")


# ------------------------------------------------------------------------------------------------- flags, read-only


@versioned_ways
def test_pitfall_35_read_only_is_kept(accepts, refuses, probe, way):
    source, managed = offer(way, flags=dlpack.READ_ONLY)
    with accepts(source, managed=managed) as view:
        assert view.flags & probe.READONLY
    for require in ("WRITABLE", "WRITABLE TRUST_LEGACY"):
        source, managed = offer(way, flags=dlpack.READ_ONLY)
        refuses("ReadOnlyAccessError", source, managed=managed, require=require, match="read-only")


@versioned_ways
def test_pitfall_35_versioned_capsules_say_that_they_may_be_written(accepts, probe, way):
    source, managed = offer(way)
    with accepts(source, managed=managed, require="WRITABLE") as view:
        assert not view.flags & probe.READONLY


@legacy_ways
def test_pitfall_35_legacy_capsules_do_not_say(accepts, refuses, probe, way):
    source, managed = offer(way)
    with accepts(source, managed=managed) as view:
        assert view.flags & probe.READONLY
    source, managed = offer(way)
    refuses("ReadOnlyAccessError", source, managed=managed, require="WRITABLE", match="legacy")


@legacy_ways
@pytest.mark.parametrize("require", ["TRUST_LEGACY", "TRUST_LEGACY WRITABLE"])
def test_pitfall_35_legacy_capsules_that_the_author_trusts(accepts, probe, way, require):
    source, managed = offer(way)
    with accepts(source, managed=managed, require=require) as view:
        assert not view.flags & probe.READONLY


@pytest.mark.parametrize("version", [0, 2])
def test_pitfall_35_where_a_legacy_capsule_does_not_say_the_next_protocol_is_asked(accepts, refuses, probe, version):
    source = Both(SIX, version=version, legacy=True)
    with accepts(source, require="WRITABLE") as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
        assert source.deletions == [1]
    source = Both(SIX, version=version, legacy=True, readonly=True)
    refuses("ReadOnlyAccessError", source, require="WRITABLE")
    assert source.deletions == [1]


@versioned_ways
def test_pitfall_47_flags_lie_before_the_tensor(accepts, probe, way):
    source, managed = offer(way, flags=dlpack.READ_ONLY | dlpack.IS_COPIED | dlpack.PADDED)
    with accepts(source, managed=managed) as view:
        assert view.flags & 7 == probe.READONLY | probe.COPIED | probe.SUBBYTE_PADDED
        assert np.array_equal(checks.read(view), SIX)


@versioned_ways
@pytest.mark.parametrize("flags", [2**64 - 8, 8, 16, 2**31, 2**32, 2**63])
def test_pitfall_47_unknown_flags_are_not_passed_on(accepts, probe, way, flags):
    source, managed = offer(way, flags=flags)
    with accepts(source, managed=managed, require="WRITABLE") as view:
        assert view.flags == probe.STREAM_UNKNOWN


@versioned_ways
@pytest.mark.parametrize("flags", [0, dlpack.IS_COPIED])
def test_pitfall_47_copies_are_told(accepts, probe, way, flags):
    source, managed = offer(way, flags=flags)
    with accepts(source, managed=managed) as view:
        assert bool(view.flags & probe.COPIED) == bool(flags)


# ---------------------------------------------------------------------------------------- what a producer is asked


def test_pitfall_36_the_keywords_are_plain_and_no_others(accepts):
    for order in ("adopt", "block", "none", 0, emulated.PER_THREAD):
        source = Asked(lambda self, **keywords: self.export(**keywords))
        with accepts(source, order):
            pass
        (asked,) = source.asked
        assert set(asked) == {"stream", "max_version", "device"}
        assert type(asked["max_version"]) is tuple
        assert asked["max_version"] == (1, 3)
        assert [type(item) for item in asked["max_version"]] == [int, int]
        assert type(asked["stream"]) is int


@pytest.mark.parametrize("order, stream", [("adopt", 1), ("block", 1), ("none", -1), (emulated.PER_THREAD, 2)])
def test_pitfall_36_producers_that_do_not_know_max_version_are_told_the_stream(accepts, probe, order, stream):
    class Old(DLPack):
        def __dlpack__(self, *, stream=None):
            return super().__dlpack__(stream=stream)

    source = Old(SIX)
    with accepts(source, order) as view:
        assert [asked["stream"] for asked in source.asked] == [stream]
        assert np.array_equal(checks.read(view), SIX)


class Unordered(DLPack):
    """Takes no keywords at all, so that nobody can tell it a stream."""

    def __dlpack__(self):
        return super().__dlpack__()


@pytest.mark.parametrize("order", ["adopt", "block", emulated.PER_THREAD])
def test_pitfall_36_the_stream_is_never_dropped(refuses, order):
    source = Unordered(SIX)
    refusal = refuses("InterfaceNotImplementedError", source, order, cause=TypeError)
    assert source.asked == []
    assert any("stream" in text for _, text in refusal.causes)


def test_pitfall_36_on_the_host_there_is_no_stream_to_drop(accepts):
    source = Unordered(FOUR, announce=(CPU, 0), tensor={"pointer": FOUR.ctypes.data})
    with accepts(source, memory="ON_HOST") as view:
        assert np.array_equal(checks.read(view), FOUR)


def test_pitfall_36_a_type_error_from_inside_is_not_hidden(refuses):
    def answer(self, **keywords):
        raise TypeError("a bug of the producer")

    source = Asked(answer)
    refusal = refuses("InterfaceNotImplementedError", source, cause=TypeError)
    assert "a bug of the producer" in refusal.message
    assert all("stream" in asked for asked in source.asked)


def test_pitfall_36_the_first_error_is_chained(refuses):
    def answer(self, **keywords):
        raise TypeError("first") if "max_version" in keywords else ValueError("second")

    refusal = refuses("InterfaceNotImplementedError", Asked(answer))
    assert (TypeError, "first") in refusal.causes
    assert (ValueError, "second") in refusal.causes


@pytest.mark.parametrize("exception", [BufferError, ValueError, RuntimeError, AssertionError, AttributeError])
def test_pitfall_36_only_a_type_error_is_worth_a_second_attempt(refuses, exception):
    def answer(self, **keywords):
        raise exception("own")

    source = Asked(answer)
    refuses("InterfaceNotImplementedError", source, cause=exception, match="own")
    assert len(source.asked) == 1


# ----------------------------------------------------------------------------------------------------- stream numbers


@pytest.mark.parametrize("kind", ["device", "managed"])
@pytest.mark.parametrize("order, stream", [("adopt", 1), ("block", 1), ("none", -1), (0, 1), (emulated.LEGACY, 1),
                                           (emulated.PER_THREAD, 2), ("handle", "handle")])
def test_pitfall_40_stream_numbers_of_each_order(accepts, kind, order, stream):
    handle = emulated.create_stream()
    source = DLPack(SIX, kind=kind)
    with accepts(source, handle if order == "handle" else order) as view:
        (asked,) = source.asked
        assert asked["stream"] == (handle if stream == "handle" else stream)
        assert np.array_equal(checks.read(view), SIX)


@pytest.mark.parametrize("order", ["adopt", "block", "none", 0, emulated.LEGACY, emulated.PER_THREAD])
@pytest.mark.parametrize("announce", [CPU, CUDA_HOST])
def test_pitfall_39_and_40_host_kinds_are_told_no_stream(accepts, order, announce):
    source = DLPack(FOUR, kind="pinned", announce=(announce, 0))
    with accepts(source, order, memory="ANYWHERE") as view:
        (asked,) = source.asked
        assert asked["stream"] is None
        assert np.array_equal(checks.read(view), FOUR)


@pytest.mark.parametrize("exception", [BufferError, RuntimeError, ValueError, AssertionError, TypeError])
def test_pitfall_40_jax_refuses_minus_one(accepts, exception):
    def answer(self, *, stream, max_version=None):
        if stream == -1:
            raise exception("an invalid stream")
        return self.export(stream=stream, max_version=max_version)

    source = type("Jax", (Asked,), {})(answer)
    with accepts(source, "none") as view:
        assert np.array_equal(checks.read(view), SIX)
    streams = [asked["stream"] for asked in source.asked]
    assert streams[0] == -1
    assert streams[-1] == 1
    assert set(streams) == {-1, 1}


@pytest.mark.parametrize("exception", [BufferError, RuntimeError, ValueError, AssertionError])
def test_pitfall_40_torch_refuses_2(accepts, exception):
    def answer(self, *, stream, max_version=None):
        if stream == emulated.PER_THREAD:
            raise exception("per-thread streams are not supported")
        return self.export(stream=stream, max_version=max_version)

    producer = emulated.create_stream()
    source = Asked(answer, stream=producer)
    new = (SIX + 10).tobytes()
    emulated.launch_write(producer, source.pointer, new)
    seen = []
    with accepts(source, emulated.PER_THREAD) as view:
        streams = [asked["stream"] for asked in source.asked]
        assert streams[0] == emulated.PER_THREAD
        assert streams[1] in (1, -1) and len(streams) == 2
        assert view.stream == emulated.PER_THREAD
        pointer = view.pointer
        emulated.launch(emulated.PER_THREAD, lambda: seen.append(emulated.read(pointer, len(new))))
    emulated.synchronize(emulated.PER_THREAD)
    assert seen == [new]  # the way from the producer to the per-thread stream was ordered all the same


@pytest.mark.parametrize("order, streams", [("adopt", [1]), ("block", [1]), ("none", [-1, 1]), (emulated.LEGACY, [1])])
def test_pitfall_40_a_producer_that_refuses_every_stream(refuses, order, streams):
    source = refusing(1, 2, -1)(SIX)
    refusal = refuses("InterfaceNotImplementedError", source, order, cause=BufferError)
    assert [asked["stream"] for asked in source.asked] == streams
    for stream in streams:
        assert (BufferError, f"stream {stream} is refused") in refusal.causes


@pytest.mark.parametrize("order", ["adopt", "none", emulated.PER_THREAD])
@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt, SystemExit])
def test_final_exceptions_of_a_producer_end_the_attempt(refuses, order, exception):
    def answer(self, **keywords):
        raise exception("own")

    source = Asked(answer)
    assert refuses(exception.__name__, source, order).args == ("own",)
    assert len(source.asked) == 1


# ---------------------------------------------------------------------------------------------------------- devices


class DeviceType(enum.IntEnum):
    CUDA = 2


@pytest.mark.parametrize("device", [(2, 0), (DeviceType.CUDA, 0), (np.int32(2), np.int64(0)), (Index(2), Index(0))])
def test_devices_are_integers_by_index(accepts, device):
    source = DLPack(SIX, announce=device, tensor={"device": (CUDA, 0)})
    with accepts(source) as view:
        assert view.device == (CUDA, 0)


class Announcing(DLPack):
    """Announces whatever it is given."""

    def __init__(self, device, **kwargs):
        super().__init__(SIX, tensor={"device": (CUDA, 0)}, **kwargs)
        self.answer = device

    def __dlpack_device__(self):
        return self.answer


@pytest.mark.parametrize("device", [
    None, 2, "cuda", "20", (), (2,), (2, 0, 0), {2: 0}, {2, 0}, ("2", 0), (2, "0"), (2.0, 0), (2, 0.0), (2, None),
    (None, 0), ((2, 0),), (-1, 0), (2, -1), (2**31, 0), (2, 2**31), (2**70, 0), (2, -2**70), np.array([2, 0]),
    iter((2, 0)), NotImplemented])
def test_devices_of_the_wrong_form(refuses, device):
    source = Announcing(device)
    refuses("IncompleteInterfaceError", source, match="__dlpack_device__", watch=[device])
    assert source.asked == []


@pytest.mark.parametrize("exception", [RuntimeError, ValueError, AttributeError, TypeError, BufferError])
def test_pitfall_42_a_device_that_raises(refuses, exception):
    class Broken(DLPack):
        def __dlpack_device__(self):
            raise exception("own")

    source = Broken(SIX)
    refuses("InterfaceNotImplementedError", source, cause=exception, match="own")
    assert source.asked == []


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt])
def test_final_exceptions_of_a_device_end_the_attempt(refuses, exception):
    class Broken(DLPack):
        def __dlpack_device__(self):
            raise exception("own")

    refuses(exception.__name__, Broken(SIX))


def test_an_object_without_a_device_is_not_asked_for_a_capsule(refuses):
    called = []
    source = types.SimpleNamespace(__dlpack__=lambda **keywords: called.append(keywords))
    refuses("InterfaceNotImplementedError", source)
    assert called == []


@pytest.mark.parametrize("device, words", [
    ((CPU, 0), "host"), ((CUDA_HOST, 0), "pinned"), ((4, 0), "4"), ((7, 0), "7"), ((8, 0), "8"), ((10, 0), "10"),
    ((11, 0), "11"), ((12, 0), "12"), ((14, 3), "14"), ((19, 0), "19"), ((0, 0), "0"), ((2**31 - 1, 0), "2147483647")])
def test_other_kinds_of_memory_are_refused_before_a_capsule_is_made(refuses, device, words):
    source = DLPack(SIX, announce=device)
    memory = "" if device[0] in (CPU, CUDA_HOST) else "ANYWHERE"
    refusal = refuses("DeviceMismatchError", source, memory=memory)
    assert words in refusal.message.split("; got ")[1]
    if device[0] not in (CPU, CUDA_HOST):
        assert source.asked == []


@pytest.mark.parametrize("device", [(CPU, 0), (CUDA_HOST, 0), (4, 0), (10, 0), (-1, 0), (99, 0), (2**31 - 1, 0)])
@every_way
def test_pitfall_38_the_capsules_device_is_checked(refuses, way, device):
    source, managed = offer(way, device=device)
    refuses("DeviceMismatchError", source, managed=managed)
    assert made(source, managed).deletions == 1


def test_pitfall_38_the_capsules_device_counts_and_not_the_announced_one(accepts, refuses):
    memory = Memory(SIX, device=1)
    source = DLPack(SIX, announce=(CUDA, 0), tensor={"device": (CUDA, 1), "pointer": memory.pointer})
    with accepts(source) as view:
        assert view.device == (CUDA, 1)
    source = DLPack(SIX, announce=(CUDA, 0), tensor={"device": (MANAGED, 0)}, kind="managed")
    refuses("DeviceMismatchError", source, memory="ON_CUDA", match="managed")
    assert source.deletions == [1]


@pytest.mark.parametrize("announce", [CPU, CUDA_HOST])
@pytest.mark.parametrize("inside", [CPU, CUDA_HOST])
def test_pitfall_38_torchs_pinned_tensors_are_host_memory_in_the_capsule(accepts, refuses, announce, inside):
    for memory in ("ON_PINNED", "ON_PINNED ON_CUDA"):
        source = DLPack(FOUR, kind="pinned", announce=(announce, 0), tensor={"device": (inside, 0)})
        with accepts(source, memory=memory) as view:
            assert view.device == (CUDA_HOST, 0)
    source = on_host(FOUR)
    refuses("DeviceMismatchError", source, memory="ON_PINNED", match="host")


@pytest.mark.parametrize("device", [0, 1])
@every_way
def test_pitfall_38_managed_memory_has_the_device_of_its_pointer(accepts, way, device):
    memory = Memory(SIX, "managed", device)
    source, managed = offer(way, device=(MANAGED, 0), pointer=memory.pointer)
    if not managed:
        source.announce = (MANAGED, 0)
    with accepts(source, managed=managed) as view:
        assert view.device == (MANAGED, device)


@every_way
def test_pitfall_38_empty_managed_memory_is_not_asked_about(accepts, way):
    source, managed = offer(way, device=(MANAGED, 0), shape=(0,), pointer=0)
    if not managed:
        source.announce = (MANAGED, 0)
    emulated.clear_calls()
    with accepts(source, managed=managed) as view:
        assert view.device == (MANAGED, 0)
    assert "cudaPointerGetAttributes" not in emulated.call_names()


@pytest.mark.parametrize("kind, device, default", [("device", CUDA, True), ("managed", MANAGED, True),
                                                   ("pinned", CUDA_HOST, False)])
def test_pitfall_39_kinds_of_memory(accepts, refuses, kind, device, default):
    bit = {"device": "ON_CUDA", "managed": "ON_MANAGED", "pinned": "ON_PINNED"}[kind]
    for memory in [bit, "ANYWHERE"] + [""] * default:
        with accepts(DLPack(SIX, kind=kind), memory=memory) as view:
            assert view.device == (device, 0)
    others = " ".join({"ON_CUDA", "ON_MANAGED", "ON_PINNED", "ON_HOST"} - {bit})
    for memory in [others] + [""] * (not default):
        refuses("DeviceMismatchError", DLPack(SIX, kind=kind), memory=memory)


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("outcome", ["accepted", "refused", "raises"])
def test_pitfall_41_the_arrays_device_is_current_while_the_producer_is_asked(probe, accepts, refuses, current, device,
                                                                             outcome):
    def answer(self, **keywords):
        if outcome == "raises":
            raise RuntimeError("own")
        return self.export(**keywords)

    source = Asked(answer, device=device)
    with emulated.current_device(current):
        if outcome == "accepted":
            with accepts(source) as view:
                assert view.device == (CUDA, device)
                assert emulated.get_device() == current
        elif outcome == "refused":
            refuses("InvalidShapeError", source, ndim=9)
        else:
            refuses("InterfaceNotImplementedError", source, cause=RuntimeError)
        assert emulated.get_device() == current
    assert [asked["device"] for asked in source.asked] == [device]


def test_pitfall_41_a_device_that_does_not_exist(refuses):
    source = DLPack(SIX, announce=(CUDA, 7))
    refusal = refuses("CudaCallError", source, match="cudaSetDevice")
    assert refusal.name == "cudaErrorInvalidDevice"
    assert source.asked == []


# --------------------------------------------------------------------------------------------- exceptions, in and out


class OwnError(Exception):
    pass


EXCEPTIONS = [BufferError, ValueError, RuntimeError, TypeError, NotImplementedError, AttributeError, OwnError]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_pitfall_42_any_class_may_come_from_a_producer(refuses, exception):
    def answer(self, **keywords):
        raise exception("own")

    refusal = refuses("InterfaceNotImplementedError", Asked(answer), cause=exception)
    assert issubclass(refusal.type, TypeError)
    assert exception.__name__ in refusal.message and "own" in refusal.message


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_pitfall_42_another_protocol_may_work(accepts, probe, exception):
    class Broken(Both):
        def __dlpack__(self, **keywords):
            raise exception("own")

    with accepts(Broken(SIX, version=2)) as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE


@pytest.mark.parametrize("exception", [RuntimeError, ValueError, OwnError])
@pytest.mark.parametrize("name", ["__dlpack__", "__dlpack_device__"])
def test_pitfall_42_a_look_up_that_raises(refuses, accepts, exception, name):
    def raises(self):
        raise exception("own")

    refuses("InterfaceNotImplementedError", type("Broken", (DLPack,), {name: property(raises)})(SIX), cause=exception)
    with accepts(type("Broken", (Both,), {name: property(raises)})(SIX, version=2)):
        pass


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["__dlpack__", "__dlpack_device__"])
def test_final_exceptions_of_a_look_up_end_the_attempt(refuses, exception, name):
    def raises(self):
        raise exception("own")

    refuses(exception.__name__, type("Broken", (Both,), {name: property(raises)})(SIX, version=2))


@pytest.mark.parametrize("name", ["__dlpack__", "__dlpack_device__"])
@pytest.mark.parametrize("value", [None, 5, "text", ()])
def test_attributes_that_cannot_be_called(refuses, name, value):
    refuses("InterfaceNotImplementedError", type("Broken", (DLPack,), {name: value})(SIX))


@pytest.mark.parametrize("value", [None, 5, "dltensor", b"", (), [], object(), SIX, {"dltensor": 1}])
def test_a_producer_that_returns_no_capsule(refuses, value):
    refusal = refuses("InvalidCapsuleError", Asked(lambda self, **keywords: value))
    assert type(value).__name__ in refusal.message


def test_a_producer_that_returns_a_used_capsule(probe, refuses):
    source = DLPack(SIX)
    capsule = source.__dlpack__(stream=1, max_version=(1, 3))
    view = probe.acquire(capsule)
    second = Asked(lambda self, **keywords: capsule)
    refuses("InvalidCapsuleError", second, match="used_dltensor_versioned")
    assert source.deletions == [0]
    assert view.release() == "OK"
    emulated.run_all()
    assert source.deletions == [1]


class Noisy(Managed):
    """Its destructor and its deleter run Python code that raises and catches exceptions."""

    def _delete(self, struct):
        try:
            raise LookupError("handled")
        except LookupError:
            pass
        assert sys.exc_info() == (None, None, None)
        super()._delete(struct)

    def _destroy(self, capsule):
        self.destroyed = getattr(self, "destroyed", 0) + 1
        self._delete(self.address)


@pytest.mark.parametrize("version", [None, (1, 3)])
@pytest.mark.parametrize("fields, request_, error", [
    ({"dtype": (99, 8, 1)}, {}, "UnknownDtypeError"), ({"ndim": -1}, {}, "InvalidShapeError"),
    ({}, {"ndim": 4}, "InvalidShapeError"), ({}, {"dtype": "int8"}, "DtypeMismatchError"),
    ({"device": (CPU, 0)}, {}, "DeviceMismatchError"), ({"pointer": 0}, {}, "IncompleteInterfaceError")])
def test_pitfall_37_deleters_do_not_meet_the_exception_that_is_being_raised(refuses, version, fields, request_, error):
    source = Memory(SIX)
    managed = Noisy(**{"pointer": source.pointer, "shape": (2, 3), "device": (CUDA, 0), "version": version, **fields})
    refuses(error, managed.capsule(), managed=[managed], **request_)
    assert managed.deletions == 1


def test_pitfall_37_destructors_do_not_meet_the_exception_that_is_being_raised(refuses):
    managed = []

    def answer(self, **keywords):
        managed.append(Noisy(self.pointer, (2, 3), device=(CUDA, 0)))
        return managed[-1].capsule("something else")

    refuses("InvalidCapsuleError", Asked(answer), match="something else")
    assert managed[0].deletions == 1


@pytest.mark.parametrize("version", [None, (1, 3)])
@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_37_a_pending_exception_survives_the_release(probe, version, exception, order):
    managed = Noisy(Memory(SIX).pointer, (2, 3), device=(CUDA, 0), version=version)
    view = probe.acquire(managed.capsule(), order)
    _, refusal = checks.catch(view.release_raising, exception("pending"))
    assert (refusal.type, refusal.args, refusal.causes) == (exception, ("pending",), [])
    assert managed.deletions == (0 if order == "adopt" else 1)
    emulated.run_all()
    assert managed.deletions == 1


@pytest.mark.parametrize("order", INSIDE_AND_LATE)
def test_pitfall_37_a_pending_exception_survives_the_end_of_a_call(probe, order):
    managed = [Noisy(Memory(SIX).pointer, (2, 3), device=(CUDA, 0)) for _ in range(3)]

    def body(description):
        raise ValueError("the author's own")

    capsules = tuple(one.capsule() for one in managed)
    _, refusal = checks.catch(probe.call, capsules, ({},) * 3, order, body)
    assert (refusal.type, refusal.message) == (ValueError, "the author's own")
    assert [one.deletions for one in managed] == [0 if order == "adopt" else 1] * 3
    emulated.run_all()
    assert [one.deletions for one in managed] == [1] * 3


# ------------------------------------------------------------------------------------------------------------ owners


def test_pitfall_57_the_capsule_owns_what_the_object_may_forget(probe):
    source = DLPack(SIX)
    managed_of = weakref.ref(source)
    capsule = source.__dlpack__(stream=1, max_version=(1, 3))
    (managed,) = source.made
    del source
    gc.collect()
    assert managed_of() is not None  # the managed tensor holds its producer
    view = probe.acquire(capsule)
    del capsule
    gc.collect()
    assert managed.deletions == 0
    assert view.release() == "OK"
    emulated.run_all()
    assert (managed.deletions, managed_of()) == (1, None)


def test_pitfall_57_the_view_keeps_the_object_alive(probe):
    source = DLPack(SIX, tensor={"owner": None})
    gone = weakref.ref(source)
    (view, made_) = probe.acquire(source), source.made
    del source
    gc.collect()
    assert view.object() is gone()
    assert view.release() == "OK"
    emulated.run_all()
    assert (made_[0].deletions, gone()) == (1, None)


@every_way
def test_a_view_copies_shape_and_strides(accepts, way):
    source, managed = offer(way, strides=(3, 1))
    with accepts(source, managed=managed) as view:
        made(source, managed).scramble()
        again = types.SimpleNamespace(**view.handle.describe())
        assert (again.shape, again.strides, again.pointer) == ((2, 3), (3, 1), view.pointer)


# -------------------------------------------------------------------------------------------------- real producers

HOST = {"memory": "ON_HOST", "protocols": "VIA_DLPACK"}


@pytest.mark.parametrize("dtype", ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.PER_THREAD])
def test_numpy_arrays_of_every_type(accepts, probe, dtype, order):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    emulated.clear_calls()
    with accepts(array, order, require="WRITABLE", **HOST) as view:
        assert (view.dtype, view.device, view.flags) == (array.dtype.name, (CPU, 0), 0)
        assert view.protocol == probe.VIA_DLPACK
        assert view.pointer == array.ctypes.data
        assert np.array_equal(checks.read(view), array)


@pytest.mark.parametrize("part", [np.s_[::2], np.s_[:, ::-1], np.s_[1:1], np.s_[1, 2], np.s_[..., None], np.s_[:0, :0]])
def test_numpy_arrays_of_every_layout(accepts, part):
    array = np.arange(12, dtype="i8").reshape(3, 4)[part]
    array = np.asarray(array)
    with accepts(array, **HOST) as view:
        assert np.array_equal(checks.read(view), array)
        assert view.shape == array.shape


def test_pitfall_35_numpy_arrays_that_are_read_only(accepts, refuses, probe):
    array = np.arange(3.0)
    array.flags.writeable = False
    with accepts(array, **HOST) as view:
        assert view.flags & probe.READONLY
    refuses("ReadOnlyAccessError", array, require="WRITABLE TRUST_LEGACY", **HOST)


@pytest.mark.parametrize("dtype", [">f4", "O", "U3", "M8[s]", "g", [("a", "i4")]])
def test_pitfall_42_what_numpy_does_not_export(refuses, dtype):
    refuses("InterfaceNotImplementedError", np.zeros(3, dtype), cause=BufferError, **HOST)


@pytest.mark.parametrize("order", ["adopt", "none"])
def test_pitfall_06_masks_that_numpys_dlpack_leaves_behind(refuses, order):
    refuses("MaskedArrayError", np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]), order, **HOST)


@pytest.mark.parametrize("name", ["bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64",
                                  "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_torch_tensors(accepts, probe, name):
    torch = checks.need("torch")
    tensor = torch.ones(2, 3).to(getattr(torch, name)).T
    with accepts(tensor, require="WRITABLE", **HOST) as view:
        assert (view.dtype, view.shape, view.strides) == (name, (3, 2), (1, 3))
        assert view.pointer == tensor.data_ptr()
        assert view.protocol == probe.VIA_DLPACK


def test_pitfall_42_torch_tensors_that_torch_does_not_export(refuses):
    torch = checks.need("torch")
    for tensor in (torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.complex64).conj(),
                   torch.ones(3).to_sparse(), torch.ones(3, device="meta")):
        refuses(("InterfaceNotImplementedError", "DeviceMismatchError"), tensor, **HOST)


def test_torch_tensors_that_are_negated_lazily(refuses):
    torch = checks.need("torch")
    tensor = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    assert tensor.is_neg() and tensor.tolist() == [-2.0, -4.0]
    refuses("LayoutMismatchError", tensor, **HOST)


@pytest.mark.parametrize("name", ["bool", "int8", "int32", "uint8", "float16", "float32", "complex64", "bfloat16"])
@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.PER_THREAD])
def test_pitfall_23_jax_arrays_are_inputs_and_never_outputs(accepts, refuses, probe, name, order):
    jax = checks.need("jax")
    array = jax.numpy.ones((2, 3), dtype=name)
    with accepts(array, order, memory="ON_HOST", protocols="VIA_DLPACK") as view:
        assert (view.dtype, view.shape) == (name, (2, 3))
        assert view.flags & probe.READONLY
    refuses("ReadOnlyAccessError", array, order, require="WRITABLE", **HOST)


@pytest.mark.parametrize("name", ["int8", "int32", "uint16", "float32", "float64"])
def test_pyarrow_arrays(accepts, refuses, probe, name):
    pyarrow = checks.need("pyarrow")
    array = pyarrow.array([1, 2, 3], type=getattr(pyarrow, name)())
    with accepts(array, **HOST) as view:
        assert view.dtype == name
        assert view.flags & probe.READONLY
        assert checks.read(view).tolist() == [1, 2, 3]
    refuses("ReadOnlyAccessError", array, require="WRITABLE", **HOST)
    with accepts(array[1:], **HOST) as view:
        assert checks.read(view).tolist() == [2, 3]


def test_pitfall_42_pyarrow_arrays_with_nulls(refuses):
    pyarrow = checks.need("pyarrow")
    for array in (pyarrow.array([1, None]), pyarrow.array(["text"]), pyarrow.array([True])):
        refusal = refuses("InterfaceNotImplementedError", array, **HOST)
        assert refusal.cause is not None


def test_tvm_ffi_tensors(accepts):
    tvm_ffi = checks.need("tvm_ffi")
    array = np.arange(6, dtype="f4").reshape(2, 3)
    tensor = tvm_ffi.from_dlpack(array)
    with accepts(tensor, memory="ON_HOST") as view:
        assert view.pointer == array.ctypes.data
        assert np.array_equal(checks.read(view), array)


def test_cuda_core_views(accepts, refuses, probe):
    checks.need("cuda.core")
    from cuda.core.utils import StridedMemoryView

    array = np.arange(6, dtype="f4").reshape(2, 3)
    with accepts(StridedMemoryView.from_dlpack(array, stream_ptr=-1), require="WRITABLE", **HOST) as view:
        assert np.array_equal(checks.read(view), array)
    array.flags.writeable = False
    refuses("ReadOnlyAccessError", StridedMemoryView.from_dlpack(array, stream_ptr=-1), require="WRITABLE", **HOST)


@pytest.mark.parametrize("again", ["same", "in-its-context"])
def test_an_exception_that_a_producer_raises_twice_is_not_its_own_context(probe, again):
    """Whoever follows the contexts would never come to an end."""
    stored, other = TypeError("stored"), TypeError("other")
    other.__context__ = stored

    class Source(DLPack):
        calls = 0

        def __dlpack__(self, **keywords):
            self.calls += 1
            raise stored if again == "same" or self.calls > 1 else other

    with pytest.raises(probe.InterfaceNotImplementedError) as caught:
        probe.acquire(Source(np.zeros(4, "f4")), "adopt", {})
    at, seen = caught.value, []
    while at is not None and len(seen) < 20:
        seen.append(at)
        at = at.__cause__ or at.__context__
    assert len(seen) < 20 and stored in seen
