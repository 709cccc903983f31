"""Arrays in by the CUDA Array Interface, versions 0 to 3: every field, present or missing, right or wrong."""

import collections
import ctypes
import gc
import types
import weakref

import numpy as np
import pytest

import checks
import dlpack
import emulated
from producers import Both, DLPack, Interface, Memory

pytestmark = pytest.mark.filterwarnings("error")

SIX = np.arange(6, dtype="f4").reshape(2, 3)
FOUR = np.arange(4, dtype="f4")


def bearer(memory, **fields):
    """An object that bears a dict and nothing else; a field of `...` is left out. The dict stays the same one."""
    interface = {"shape": memory.array.shape, "typestr": memory.array.dtype.str, "data": (memory.pointer, False),
                 "version": 3, "strides": None, "stream": None}
    interface.update(fields)
    bears = {key: value for key, value in interface.items() if value is not ...}
    return types.SimpleNamespace(__cuda_array_interface__=bears)


class Index:
    """An integer by __index__ alone, with something that happens when it is asked."""

    def __init__(self, value, effect=lambda: None):
        self.value, self.effect = value, effect

    def __index__(self):
        self.effect()
        return self.value


class Truth:
    """A truth value that says so when it is asked."""

    def __init__(self, value, effect=lambda: None):
        self.value, self.effect = value, effect

    def __bool__(self):
        self.effect()
        return self.value


def raiser(exception):
    """Something that raises a new exception each time, since an exception that is kept keeps frames alive."""

    def effect():
        raise exception("own")

    return effect


# ------------------------------------------------------------------------------------------------------- what is read


def test_every_field_of_the_view(accepts, probe):
    stream = emulated.create_stream()
    source = Interface(SIX, stream=stream)
    with accepts(source) as view:
        described = dict(vars(view))
        del described["handle"]
        assert described == {
            "pointer": source.pointer, "shape": (2, 3), "strides": (3, 1), "dtype": "float32",
            "device": (dlpack.CUDA, 0), "byte_offset": 0, "stream": stream, "flags": probe.HAS_STREAM,
            "protocol": probe.VIA_CUDA_ARRAY_INTERFACE, "size": 6, "mask": None, "descr": None}
        assert np.array_equal(checks.read(view), SIX)


def test_values_are_read_through_pointer_shape_and_strides(accepts):
    array = np.arange(24, dtype="i4").reshape(4, 6)
    memory = Memory(array)
    part = array[3:0:-1, 1::2]
    offset = part.__array_interface__["data"][0] - array.__array_interface__["data"][0]
    source = bearer(memory, shape=part.shape, strides=part.strides, data=(memory.pointer + offset, False))
    with accepts(source) as view:
        assert view.strides == (-6, 2)
        assert np.array_equal(checks.read(view), part)


# ----------------------------------------------------------------------------------------------------- empty arrays


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (2**62, 2**62, 0)])
@pytest.mark.parametrize("address", [0, None, "live", "freed", "wild and odd"])
def test_pitfall_01_empty_arrays_take_any_pointer(accepts, shape, address):
    memory = Memory(FOUR)
    pointer = {"live": memory.pointer, "freed": memory.pointer, "wild and odd": 0xDEAD0001}.get(address, address)
    if address == "freed":
        memory.free()
    source = bearer(memory, shape=shape, data=(pointer, False))
    emulated.clear_calls()
    with accepts(source) as view:
        assert (view.pointer, view.size, view.shape) == (0, 0, shape)
    assert "cudaPointerGetAttributes" not in emulated.call_names()


@pytest.mark.parametrize("current", [0, 1])
def test_pitfall_01_empty_arrays_are_on_the_current_device(accepts, current):
    source = Interface(FOUR, overrides={"shape": (0,), "data": (0, False)})
    with emulated.current_device(current), accepts(source) as view:
        assert view.device == (dlpack.CUDA, current)


@pytest.mark.parametrize("address", [0, None])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_pitfall_01_elements_without_a_pointer_are_an_error(refuses, address, shape):
    source = Interface(SIX, overrides={"shape": shape, "data": (address, False)})
    refuses("IncompleteInterfaceError", source)


def test_pitfall_01_empty_arrays_meet_every_layout_request(accepts):
    source = Interface(SIX, overrides={"shape": (0, 3), "strides": (4, 400), "data": (3, False)})
    with accepts(source, require="C_CONTIGUOUS F_CONTIGUOUS NO_SELF_OVERLAP WRITABLE") as view:
        assert view.size == 0


def test_pitfall_01_empty_arrays_are_refused_where_elements_are_asked_for(refuses):
    refuses("InvalidShapeError", Interface(FOUR[:0]), require="NONEMPTY", match="not empty")


# ---------------------------------------------------------------------------------------------------------- strides


@pytest.mark.parametrize("strides", [..., None, (12, 4), [12, 4]], ids=["absent", "none", "explicit", "list"])
def test_pitfall_02_strides_none_means_c_contiguous(accepts, strides):
    source = Interface(SIX, overrides={"strides": strides})
    with accepts(source, require="C_CONTIGUOUS") as view:
        assert view.strides == (3, 1)
        assert np.array_equal(checks.read(view), SIX)


@pytest.mark.parametrize("shape, strides", [
    pytest.param((2, 3), (4, 8), id="fortran"),
    pytest.param((2, 2), (16, 4), id="gaps_between_rows"),
    pytest.param((2,), (8,), id="every_other"),
])
def test_pitfall_02_other_strides_are_not_c_contiguous(accepts, refuses, shape, strides):
    source = Interface(SIX, overrides={"shape": shape, "strides": strides})
    with accepts(source) as view:
        assert view.strides == tuple(stride // 4 for stride in strides)
    refuses("LayoutMismatchError", source, require="C_CONTIGUOUS")


@pytest.mark.parametrize("shape, strides", [((2, 3), (4,)), ((2, 3), ()), ((2, 3), (4, 4, 4)), ((), (4,)), ((6,), ())])
def test_pitfall_02_wrong_number_of_strides(refuses, shape, strides):
    refuses("InvalidStridesError", Interface(SIX, overrides={"shape": shape, "strides": strides}))


@pytest.mark.parametrize("strides", [12, "12", b"12", {12, 4}, (12.0, 4.0), ("12", "4"), (None, None), iter((12, 4))])
def test_pitfall_02_strides_of_the_wrong_form(refuses, strides):
    refuses("InvalidStridesError", Interface(SIX, overrides={"strides": strides}))


def test_pitfall_03_byte_strides_become_elements(accepts):
    record = np.zeros(4, np.dtype([("a", "<f4"), ("b", "<f4")]))
    record["b"] = [1, 2, 3, 4]
    memory = Memory(record)
    source = bearer(memory, shape=(4,), typestr="<f4", strides=(8,), data=(memory.pointer + 4, False))
    with accepts(source) as view:
        assert view.strides == (2,)
        assert checks.read(view).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("shape, strides, number", [
    pytest.param((4,), (5,), "5", id="packed_record"),
    pytest.param((2, 2), (8, 6), "6", id="inner"),
    pytest.param((2, 2), (10, 4), "10", id="outer"),
    pytest.param((2,), (-6,), "-6", id="negative"),
    pytest.param((2,), (1,), "1", id="less_than_an_item"),
])
def test_pitfall_03_byte_strides_that_are_no_multiple_of_the_item_size(refuses, shape, strides, number):
    source = Interface(np.zeros(16, "f4"), overrides={"shape": shape, "strides": strides})
    refusal = refuses("InvalidStridesError", source)
    assert f"{number} bytes" in refusal.message and "item size, 4" in refusal.message


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 3)])
def test_pitfall_03_strides_of_extent_one_mean_nothing(accepts, shape):
    strides = (7,) * (len(shape) - 1) + (4,)
    with accepts(Interface(SIX, overrides={"shape": shape, "strides": strides}), require="C_CONTIGUOUS") as view:
        assert view.shape == shape


def test_pitfall_03_strides_of_empty_arrays_mean_nothing(accepts):
    """Those of a field of records need not be multiples of its size."""
    with accepts(Interface(SIX, overrides={"shape": (0, 3), "strides": (15, 5)})) as view:
        assert view.size == 0


@pytest.mark.parametrize("strides", [..., None, ()])
def test_pitfall_04_zero_dimensions_are_one_element(accepts, strides):
    source = Interface(np.float64(7), overrides={"strides": strides})
    with accepts(source, ndim=-1, require="C_CONTIGUOUS F_CONTIGUOUS NONEMPTY") as view:
        assert (view.shape, view.strides, view.size) == ((), (), 1)
        assert checks.read(view) == 7


def test_pitfall_04_zero_dimensions_are_not_one(refuses):
    refuses("InvalidShapeError", Interface(np.float64(7)), ndim=1)
    refuses("InvalidShapeError", Interface(np.zeros(1)), ndim=-1)


def test_pitfall_05_negative_strides_reach_below_the_pointer(accepts):
    memory = Memory(FOUR)
    source = bearer(memory, strides=(-4,), data=(memory.pointer + 12, False))
    with accepts(source, require="NO_SELF_OVERLAP") as view:
        assert (view.pointer, view.strides) == (memory.pointer + 12, (-1,))
        assert checks.read(view).tolist() == [3, 2, 1, 0]


def test_pitfall_05_zero_strides_are_not_empty(accepts):
    source = Interface(FOUR, overrides={"shape": (5,), "strides": (0,), "data": (..., False)})
    source.overrides["data"] = (source.pointer + 4, False)
    with accepts(source) as view:
        assert (view.pointer, view.size, view.strides) == (source.pointer + 4, 5, (0,))
        assert view.device == (dlpack.CUDA, 0)
        assert checks.read(view).tolist() == [1] * 5


@pytest.mark.parametrize("strides, require", [
    ((-4,), "NO_NEGATIVE_STRIDES"), ((-4,), "C_CONTIGUOUS"), ((-4,), "CONTIGUOUS"),
    ((0,), "NO_SELF_OVERLAP"), ((0,), "C_CONTIGUOUS"), ((0,), "F_CONTIGUOUS")])
def test_pitfall_05_negative_and_zero_strides_can_be_refused(refuses, strides, require):
    memory = Memory(FOUR)
    refuses("LayoutMismatchError", bearer(memory, strides=strides, data=(memory.pointer + 12, False)), require=require)


def test_pitfall_05_overlapping_windows_can_be_refused(accepts, refuses):
    source = Interface(FOUR, overrides={"shape": (2, 3), "strides": (4, 4)})
    with accepts(source) as view:
        assert checks.read(view).tolist() == [[0, 1, 2], [1, 2, 3]]
    refuses("LayoutMismatchError", source, require="NO_SELF_OVERLAP", match="no element reached by two indices")


def test_pitfall_05_a_negative_stride_of_extent_one_is_none(accepts):
    with accepts(Interface(FOUR, overrides={"shape": (1, 4), "strides": (-16, 4)}), require="NO_NEGATIVE_STRIDES"):
        pass


def test_pitfall_05_memory_below_address_zero(refuses):
    source = Interface(FOUR, overrides={"shape": (4,), "strides": (-4,), "data": (8, False)})
    refuses("InvalidStridesError", source, memory="ANYWHERE")


# ------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("mask", [..., None])
def test_pitfall_06_no_mask(accepts, mask):
    with accepts(Interface(FOUR, overrides={"mask": mask}), require="MASK_OK") as view:
        assert view.mask is None
    with accepts(Interface(FOUR, overrides={"mask": mask})) as view:
        assert view.mask is None


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("form", ["bits", "bool", "false"])
def test_pitfall_06_a_mask_is_never_lost(accepts, refuses, form, version):
    masks = {"bits": Interface(np.zeros(1, "u1"), overrides={"typestr": "|t1"}), "bool": Interface(FOUR > 1),
             "false": False}
    source = Interface(FOUR, version=version, overrides={"mask": masks[form]})
    refuses("MaskedArrayError", source, match="mask")
    with accepts(source, require="MASK_OK") as view:
        assert view.mask is masks[form]


def test_pitfall_06_a_mask_is_not_lost_to_another_protocol(refuses):
    refuses("MaskedArrayError", Both(FOUR, version=3, overrides={"mask": Interface(FOUR > 1)}))


# -------------------------------------------------------------------------------------------------------- data types


@pytest.mark.parametrize("typestr, dtype", [
    ("<f2", "float16"), ("<f4", "float32"), ("<f8", "float64"), ("<c8", "complex64"), ("<c16", "complex128"),
    ("|b1", "bool"), ("|i1", "int8"), ("|u1", "uint8"), ("<i2", "int16"), ("<i4", "int32"), ("<i8", "int64"),
    ("<u2", "uint16"), ("<u4", "uint32"), ("<u8", "uint64"),
    # NumPy reads these too.
    ("<i1", "int8"), ("<u1", "uint8"), ("<b1", "bool"), (">i1", "int8"), (">u1", "uint8"), (">b1", "bool"),
    ("=i1", "int8"), ("=f4", "float32"), ("|f4", "float32"), ("=c16", "complex128"), ("|u8", "uint64")])
def test_pitfall_08_typestrs_that_have_a_dtype(accepts, typestr, dtype):
    with accepts(Interface(np.zeros(2, "c16"), overrides={"typestr": typestr}), dtype=dtype) as view:
        assert view.dtype == dtype


@pytest.mark.parametrize("dtype", ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_pitfall_08_typestrs_as_numpy_writes_them(accepts, dtype):
    array = np.ones(3, dtype)
    with accepts(Interface(array)) as view:
        assert view.dtype == array.dtype.name
        assert np.array_equal(checks.read(view), array)


@pytest.mark.parametrize("typestr", [
    "", "<", "f4", "4", "<f", "|i", "<4", "<f4x", "<f4 ", " <f4", "<f-4", "<f+4", "< f4", "<f 4", "<f4.0", "<ff", "<d8",
    "<l8", "<F8", "<B1", "<x4", "<f4\0", "\0<f4", "<f4<f4", "!f4", "@f4", "<f\uff14",
    "\u00e9f4", "<\u00e94", "\udc80f4", "<f4[ns]", "(2,)<f4", "<i4,<f4", "f" * 5000])
def test_pitfall_08_typestrs_that_do_not_parse(refuses, typestr):
    refuses("InvalidTypestrError", Interface(FOUR, overrides={"typestr": typestr}))


@pytest.mark.parametrize("typestr", [
    "|O", "|O8", "<M8[ns]", "<m8[ns]", "<M8", "|S5", "|S1", "<U5", "<U1", "|t1", "<f16", "<c32", "<f1", "<c4", "<f3",
    "<i3", "<i16", "<u16", "<b2", "<f12"])
def test_pitfall_08_typestrs_without_a_dtype(refuses, typestr):
    refusal = refuses("UnknownDtypeError", Interface(np.zeros(8, "c16"), overrides={"typestr": typestr}))
    assert f"'{typestr[1]}'" in refusal.message  # the kind


@pytest.mark.parametrize("typestr", ["|V65536", "|S70000"])
def test_pitfall_08_items_that_are_too_large(refuses, typestr):
    source = Interface(np.zeros(70000, "u1"), overrides={"typestr": typestr, "shape": (1,)})
    refuses("UnknownDtypeError", source, require="UNUSUAL_DTYPE_OK")


@pytest.mark.parametrize("typestr", [">f4", ">i2", ">u8", ">c8", ">c16", ">f2"])
def test_pitfall_08_foreign_byte_order(refuses, typestr):
    refuses("EndiannessDetectionError", Interface(np.zeros(8, "c16"), overrides={"typestr": typestr}), match=typestr)


@pytest.mark.parametrize("typestr", [b"<f4", 4, np.dtype("f4"), ("<f4",), ["<f4"], np.array("<f4")])
def test_pitfall_08_typestr_that_is_no_str(refuses, typestr):
    refuses("IncompleteInterfaceError", Interface(FOUR, overrides={"typestr": typestr}), match="'typestr'")


def test_pitfall_07_f2_is_float16_and_nothing_else(accepts, refuses):
    source = Interface(np.zeros(2, "f2"))
    with accepts(source, dtype="float16") as view:
        assert view.dtype == "float16"
    refuses("DtypeMismatchError", source, dtype="bfloat16")


@pytest.mark.parametrize("typestr", ["<V2", "|V2"])
def test_pitfall_07_v2_is_two_bytes_without_a_meaning(accepts, refuses, typestr):
    source = Interface(np.zeros(2, "f2"), overrides={"typestr": typestr})
    for request in ({}, {"dtype": "bfloat16"}, {"dtype": "float16"},
                    {"dtype": "float16", "require": "UNUSUAL_DTYPE_OK"}):
        assert "DLPack" in refuses("DtypeMismatchError", source, **request).message
    with accepts(source, require="UNUSUAL_DTYPE_OK") as view:
        assert view.dtype == "V2"
    with accepts(source, dtype="V2") as view:
        assert view.dtype == "V2"


@pytest.mark.parametrize("typestr, code", [("<V2", dlpack.BFLOAT16), ("|V1", (10, 8, 1)), ("<f1", (12, 8, 1))])
@pytest.mark.parametrize("version", [2, 3])
def test_pitfall_07_types_without_a_typestr_come_by_dlpack(accepts, probe, typestr, code, version):
    wanted = {4: "bfloat16", 10: "float8_e4m3fn", 12: "float8_e5m2"}[code[0]]
    source = Both(np.zeros(2, "f4"), version=version, overrides={"typestr": typestr, "descr": [("", typestr)]},
                  tensor={"dtype": code})
    with accepts(source, dtype=wanted) as view:
        assert (view.dtype, view.protocol) == (wanted, probe.VIA_DLPACK)
        assert view.descr is None  # of the interface, which is not what was read


RECORD = np.dtype({"names": ["a", "b"], "formats": ["u1", "<f8"], "offsets": [0, 8], "itemsize": 16})


def test_pitfall_09_records_are_bytes_and_their_descr_is_handed_back(accepts, refuses):
    memory = Memory(np.zeros(3, RECORD))
    descr = [("a", "|u1"), ("", "|V7"), ("b", "<f8")]
    source = bearer(memory, typestr="|V16", descr=descr)
    refuses("DtypeMismatchError", source, watch=[descr])
    with accepts(source, require="UNUSUAL_DTYPE_OK", watch=[descr]) as view:
        assert (view.dtype, view.size) == ("V16", 3)
        assert view.descr is descr


@pytest.mark.parametrize("descr", [[("", "<f4")], None, ...])
def test_pitfall_09_a_trivial_descr_is_ignored(accepts, descr):
    with accepts(Interface(FOUR, overrides={"descr": descr})) as view:
        assert view.descr is None
        assert view.dtype == "float32"


# --------------------------------------------------------------------------------------------------- version, stream


@pytest.mark.parametrize("version", [..., None, 0, 1, 2, 3, 4, 17, np.int64(2), np.uint8(3), Index(3)])
def test_pitfall_10_versions_missing_and_0_to_3_and_newer_ones_are_read(accepts, version):
    with accepts(Interface(SIX, overrides={"version": version, "stream": ...})) as view:
        assert np.array_equal(checks.read(view), SIX)


@pytest.mark.parametrize("version, text", [(-1, "-1"), (np.int64(-3), "-3"), (-2**62, str(-2**62))])
def test_pitfall_10_negative_versions(refuses, version, text):
    refuses("InvalidVersionError", Interface(FOUR, overrides={"version": version}), match=text)


@pytest.mark.parametrize("version", ["3", b"3", 3.0, (3,), [3], {}, object(), 2**64, -2**64, np.array([3, 3])])
def test_pitfall_10_versions_of_the_wrong_type(refuses, version):
    refuses("InvalidVersionError", Interface(FOUR, overrides={"version": version}), match="'version'")


@pytest.mark.parametrize("version", [..., 0, 1, 2, 4])
def test_pitfall_10_exactly_version_3(accepts, refuses, version):
    only = {"protocols": "VIA_CUDA_ARRAY_INTERFACE_3"}
    number = "0" if version is ... else str(version)
    refusal = refuses("InvalidVersionError", Interface(FOUR, overrides={"version": version}), **only)
    assert "version 3" in refusal.message and f"version {number}" in refusal.message
    with accepts(Interface(FOUR), **only) as view:
        assert view.size == 4


@pytest.mark.parametrize("version", [..., 0, 1, 2])
@pytest.mark.parametrize("stream", [..., None])
def test_pitfall_11_no_stream_before_version_3_is_unknown(accepts, probe, version, stream):
    with accepts(Interface(FOUR, overrides={"version": version, "stream": stream})) as view:
        assert view.flags == probe.STREAM_UNKNOWN
        assert view.stream == emulated.LEGACY


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("stream", [..., None])
def test_pitfall_11_no_stream_in_version_3_means_that_nothing_is_pending(accepts, version, stream):
    emulated.clear_calls()
    for order in ("adopt", "block", "none", emulated.PER_THREAD):
        with accepts(Interface(FOUR, overrides={"version": version, "stream": stream}), order) as view:
            assert view.flags == 0
    assert "cudaStreamSynchronize" not in emulated.call_names()
    assert "cudaEventRecord" not in emulated.call_names()


@pytest.mark.parametrize("version", [0, 2, 3])
def test_pitfall_11_a_stream_that_is_given_counts_in_every_version(accepts, probe, version):
    stream = emulated.create_stream()
    with accepts(Interface(FOUR, overrides={"version": version, "stream": stream})) as view:
        assert (view.flags, view.stream) == (probe.HAS_STREAM, stream)


@pytest.mark.parametrize("stream, read", [
    (0, 1), (1, 1), (2, 2), (np.int64(1), 1), (np.uint64(2), 2), (Index(1), 1), (2**64 - 16, 2**64 - 16)])
def test_pitfall_12_stream_numbers(accepts, probe, stream, read):
    with accepts(Interface(FOUR, overrides={"stream": stream})) as view:
        assert (view.stream, view.flags) == (read, probe.HAS_STREAM)


@pytest.mark.parametrize("stream", [-1, -2, np.int64(-1), 2**64, -2**64, "1", 1.0, (1,), b"", object(), object])
def test_pitfall_12_streams_that_are_none(refuses, stream):
    refuses("InvalidStreamError", Interface(FOUR, overrides={"stream": stream}), match="'stream'")


# ---------------------------------------------------------------------------------------- containers and attributes


class TupleShape(tuple):
    """As torch.Size."""


class Text(str):
    """As enum members of type str."""


Pair = collections.namedtuple("Pair", "address readonly")


@pytest.mark.parametrize("fields", [
    pytest.param({"shape": [2, 3]}, id="shape_list"),
    pytest.param({"shape": TupleShape((2, 3))}, id="shape_tuple_subclass"),
    pytest.param({"shape": (np.int64(2), np.uint8(3))}, id="shape_numpy_integers"),
    pytest.param({"shape": [Index(2), 3]}, id="shape_index"),
    pytest.param({"strides": [12, 4]}, id="strides_list"),
    pytest.param({"strides": (np.int32(12), Index(4))}, id="strides_numpy_integers"),
    pytest.param({"typestr": Text("<f4")}, id="typestr_subclass"),
    pytest.param({"data": list}, id="data_list"),
    pytest.param({"data": lambda data: Pair(*data)}, id="data_namedtuple"),
    pytest.param({"data": lambda data: (np.uint64(data[0]), np.False_)}, id="data_numpy_integer"),
    pytest.param({"data": lambda data: (Index(data[0]), 0)}, id="data_index"),
    pytest.param({"unknown": object(), 7: 8, None: 9}, id="further_keys"),
])
def test_pitfall_13_containers_of_any_kind(accepts, fields):
    source = Interface(SIX)
    source.overrides = {key: value((source.pointer, False)) if callable(value) else value
                        for key, value in fields.items()}
    with accepts(source, require="WRITABLE C_CONTIGUOUS") as view:
        assert np.array_equal(checks.read(view), SIX)


class Defaults(dict):
    """Has an answer for what is missing, which does not count."""

    def __missing__(self, key):
        return 1


@pytest.mark.parametrize("kind", [collections.OrderedDict, Defaults, lambda x: collections.defaultdict(int, x)])
def test_pitfall_13_subclasses_of_dict(accepts, probe, kind):
    memory = Memory(SIX)
    source = bearer(memory, strides=..., stream=...)
    source.__cuda_array_interface__ = kind(source.__cuda_array_interface__)
    with accepts(source) as view:
        assert view.strides == (3, 1)
        assert view.flags == 0
        assert np.array_equal(checks.read(view), SIX)


def test_pitfall_13_keys_that_are_subclasses_of_str(accepts):
    source = bearer(Memory(SIX))
    source.__cuda_array_interface__ = {Text(key): value for key, value in source.__cuda_array_interface__.items()}
    with accepts(source) as view:
        assert view.shape == (2, 3)


def attribute_of_the_instance(interface):
    return types.SimpleNamespace(__cuda_array_interface__=interface)


def attribute_of_the_class(interface):
    return type("ClassAttribute", (), {"__cuda_array_interface__": interface})()


def attribute_in_a_slot(interface):
    source = type("Slot", (), {"__slots__": ("__cuda_array_interface__",)})()
    source.__cuda_array_interface__ = interface
    return source


def attribute_that_is_a_property(interface):
    return type("Property", (), {"__cuda_array_interface__": property(lambda self: interface)})()


def attribute_by_getattr(interface):
    def find(self, name):
        if name == "__cuda_array_interface__":
            return interface
        raise AttributeError(name)

    return type("Proxy", (), {"__getattr__": find})()


@pytest.mark.parametrize("make", [attribute_of_the_instance, attribute_of_the_class, attribute_in_a_slot,
                                  attribute_that_is_a_property, attribute_by_getattr])
def test_pitfall_13_attributes_of_any_kind(accepts, make):
    interface = bearer(Memory(SIX)).__cuda_array_interface__
    with accepts(make(interface), watch=[interface]) as view:
        assert view.shape == (2, 3)


def test_pitfall_13_the_attribute_is_never_called(refuses):
    class Method:
        def __cuda_array_interface__(self):
            raise AssertionError("called")

    refuses("IncompleteInterfaceError", Method())


def test_pitfall_13_an_attribute_of_none_is_absent(refuses):
    source = types.SimpleNamespace(__cuda_array_interface__=None)
    assert refuses("InterfaceNotImplementedError", source).cause is None
    assert issubclass(refuses("InterfaceNotImplementedError", source).type, TypeError)


@pytest.mark.parametrize("value", [
    [], [("shape", (2,))], (), "", 0, 1, True, object(), types.MappingProxyType({}), collections.UserDict()])
def test_pitfall_13_an_attribute_that_is_no_dict(refuses, value):
    source = types.SimpleNamespace(__cuda_array_interface__=value)
    refuses("IncompleteInterfaceError", source, match="__cuda_array_interface__", watch=[value])


def test_pitfall_13_an_empty_dict(refuses):
    refuses("IncompleteInterfaceError", types.SimpleNamespace(__cuda_array_interface__={}))


@pytest.mark.parametrize("name", ["shape", "typestr", "data"])
@pytest.mark.parametrize("value", [..., None], ids=["absent", "none"])
@pytest.mark.parametrize("version", [0, 3])
def test_missing_fields_are_named(refuses, name, value, version):
    refuses("IncompleteInterfaceError", Interface(FOUR, version=version, overrides={name: value}),
            match=f"'{name}' is missing")


@pytest.mark.parametrize("name", ["version", "strides", "stream", "mask", "descr"])
@pytest.mark.parametrize("value", [..., None], ids=["absent", "none"])
def test_other_fields_may_be_missing(accepts, name, value):
    with accepts(Interface(FOUR, overrides={name: value})) as view:
        assert np.array_equal(checks.read(view), FOUR)


@pytest.mark.parametrize("shape", [4, "4", b"4", {4}, {4: 4}, np.array([4]), iter((4,)), (4.0,), ("4",), (None,),
                                   ((4,),), (4, object()), range(4)])
def test_shapes_of_the_wrong_form(refuses, shape):
    refuses("IncompleteInterfaceError", Interface(FOUR, overrides={"shape": shape}), match="'shape'")


@pytest.mark.parametrize("data", [
    0, 4096, "ab", b"ab", {}, (), (4096,), (4096, False, 0), ("4096", False), (4096.0, False), (b"", False),
    ((4096,), False), iter((4096, False)), np.array([4096, 0])])
def test_data_of_the_wrong_form(refuses, data):
    refuses("IncompleteInterfaceError", Interface(FOUR, overrides={"data": data}), match="'data'")


@pytest.mark.parametrize("name", ["shape", "strides", "data", "readonly", "version", "stream"])
@pytest.mark.parametrize("deed", ["clear", "replace", "delete"])
def test_pitfall_13_fields_are_held_while_one_of_them_changes_the_dict(probe, name, deed):
    memory = Memory(SIX)
    source = bearer(memory, strides=(12, 4))
    interface = source.__cuda_array_interface__

    def change():
        if deed == "clear":
            interface.clear()
        elif deed == "replace":
            interface.update(shape=(99,), strides="", data=(7, True), typestr="?", stream=-1, version="", mask=1)
        else:
            del source.__cuda_array_interface__
        gc.collect()

    interface["shape"] = (Index(2, change), 3) if name == "shape" else (2, 3)
    interface["strides"] = (12, Index(4, change)) if name == "strides" else (12, 4)
    interface["version"] = Index(3, change) if name == "version" else 3
    interface["stream"] = Index(1, change) if name == "stream" else 1
    interface["data"] = (Index(memory.pointer, change) if name == "data" else memory.pointer,
                         Truth(False, change) if name == "readonly" else False)
    view = probe.acquire(source)
    described = types.SimpleNamespace(**view.describe())
    assert (described.shape, described.strides, described.stream) == ((2, 3), (3, 1), 1)
    assert np.array_equal(checks.read(described), SIX)
    assert view.release() == "OK"


@pytest.mark.parametrize("name", ["shape", "strides", "data"])
def test_pitfall_13_lists_may_change_while_they_are_read(accepts, name):
    memory = Memory(SIX)
    values = {"shape": [2, 3], "strides": [12, 4], "data": [memory.pointer, False]}[name]
    values[0] = Index(values[0], values.clear)
    with accepts(bearer(memory, **{name: values})) as view:
        assert np.array_equal(checks.read(view), SIX)
    assert values == []


def place(name, item):
    """A dict field that holds the item."""
    return {"shape": (item, 3), "strides": (item, 4), "data": (item, False), "readonly": (4096, item), "version": item,
            "stream": item}[name]


@pytest.mark.parametrize("name", ["shape", "strides", "data", "readonly", "version", "stream"])
@pytest.mark.parametrize("exception", [RuntimeError, TypeError, AttributeError, OverflowError])
def test_pitfall_13_exceptions_of_a_field_are_not_swallowed(refuses, name, exception):
    item = Truth(False, raiser(exception)) if name == "readonly" else Index(1, raiser(exception))
    key = "data" if name == "readonly" else name
    refusal = refuses(("IncompleteInterfaceError", "InvalidShapeError", "InvalidStridesError", "InvalidVersionError",
                       "InvalidStreamError"), Interface(SIX, overrides={key: place(name, item)}))
    assert (exception, "own") in refusal.causes


@pytest.mark.parametrize("name", ["shape", "strides", "data", "readonly", "version", "stream"])
@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt, SystemExit])
def test_final_exceptions_of_a_field_end_the_attempt(refuses, name, exception):
    item = Truth(False, raiser(exception)) if name == "readonly" else Index(1, raiser(exception))
    key = "data" if name == "readonly" else name
    source = Both(SIX, overrides={key: place(name, item)})
    assert refuses(exception.__name__, source).args == ("own",)
    assert source.asked == []


class Clash:
    """A key that is not "shape" and has its hash: whoever looks that up has to compare the two."""

    exception = None

    def __hash__(self):
        return hash("shape")

    def __eq__(self, other):
        if self.exception is not None:
            raise self.exception("own")
        return self is other


@pytest.mark.parametrize("exception", [RuntimeError, KeyError, TypeError])
def test_pitfall_13_a_look_up_that_raises_is_not_a_missing_key(refuses, exception):
    key = Clash()
    source = types.SimpleNamespace(__cuda_array_interface__={key: 1})
    key.exception = exception
    assert (exception, str(exception("own"))) in refuses("IncompleteInterfaceError", source).causes


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt])
def test_final_exceptions_of_a_look_up_end_the_attempt(refuses, exception):
    key = Clash()
    source = types.SimpleNamespace(__cuda_array_interface__={key: 1})
    key.exception = exception
    refuses(exception.__name__, source)


# -------------------------------------------------------------------------------- dicts that are read in one walk


class Careful(dict):
    """A dict like any other, which is not walked, since a subclass may do anything."""


def uninterned(text):
    """An equal str that is another object."""
    return "".join(list(text))


class Whole(int):
    """An int that may convert itself as it likes."""


# Fields beside the usual ones, `...` for a field that is missing; `at` stands for the address.
WALKED = {
    "as it is": lambda at: {},
    "strides": lambda at: {"strides": (12, 4)},
    "strides of gaps": lambda at: {"shape": (2, 2), "strides": (12, 4)},
    "strides backwards": lambda at: {"data": (at + 20, False), "strides": (-12, -4)},
    "stream": lambda at: {"stream": 1},
    "stream 0": lambda at: {"stream": 0},
    "version 2": lambda at: {"version": 2},
    "version 4": lambda at: {"version": 4},
    "no version": lambda at: {"version": ..., "stream": 1},
    "read-only": lambda at: {"data": (at, True)},
    "one element": lambda at: {"shape": ()},
    "empty": lambda at: {"shape": (0, 3)},
    "empty at 0": lambda at: {"shape": (0,), "data": (0, False)},
    "descr": lambda at: {"descr": [("", "<f4")]},
    "no mask": lambda at: {"mask": None},
    "lists": lambda at: {"shape": [2, 3], "strides": [12, 4], "data": [at, False]},
    "subclass of tuple": lambda at: {"shape": TupleShape((2, 3)), "data": TupleShape((at, False))},
    "subclass of int": lambda at: {"shape": (Whole(2), 3), "stream": Whole(1), "version": Whole(3)},
    "integers of NumPy": lambda at: {"shape": (np.int64(2), np.int32(3)), "data": (np.uint64(at), False)},
    "truth of NumPy": lambda at: {"data": (at, np.bool_(True))},
    "truth of an int": lambda at: {"data": (at, 1)},
    "subclass of str": lambda at: {"typestr": Text("<f4")},
    "str of NumPy": lambda at: {"typestr": np.str_("<f4")},
    "not interned": lambda at: {uninterned("mask"): None, "typestr": uninterned("<f4")},
    "another field": lambda at: {"owner": "somebody"},
    "a field of another type": lambda at: {7: 8, None: None},
    "records": lambda at: {"typestr": "|V4"},
    "one byte": lambda at: {"typestr": "|u1"},
    "complex": lambda at: {"typestr": "<c16", "shape": (1,)},
    "other order, one byte": lambda at: {"typestr": ">i1"},
    "large": lambda at: {"shape": (2**40, 2**40)},
    "larger": lambda at: {"shape": (2**64, 1)},
    "address of 64 bits": lambda at: {"data": (2**64 - 1, False), "typestr": "|u1", "shape": (1,)},
    "address of 65 bits": lambda at: {"data": (2**64, False)},
    "negative address": lambda at: {"data": (-1, False)},
    "address 0": lambda at: {"data": (0, False)},
    "no address": lambda at: {"data": (None, False)},
    "negative extent": lambda at: {"shape": (-2, 3)},
    "truth for an extent": lambda at: {"shape": (True, 3)},
    "truth for a version": lambda at: {"version": True},
    "truth for a stream": lambda at: {"stream": True},
    "float extent": lambda at: {"shape": (2.0, 3)},
    "65 dimensions": lambda at: {"shape": (1,) * 65},
    "64 dimensions": lambda at: {"shape": (1,) * 64},
    "fewer strides": lambda at: {"strides": (4,)},
    "more strides": lambda at: {"strides": (12, 4, 4)},
    "odd strides": lambda at: {"strides": (13, 4)},
    "odd stride of one": lambda at: {"shape": (1, 3), "strides": (13, 4)},
    "strides that overflow": lambda at: {"strides": (2**62, 4)},
    "stride of 65 bits": lambda at: {"strides": (2**64, 4)},
    "three for data": lambda at: {"data": (at, False, None)},
    "an address for data": lambda at: {"data": at},
    "negative version": lambda at: {"version": -1},
    "negative stream": lambda at: {"stream": -1},
    "stream of 64 bits": lambda at: {"stream": 2**64 - 1},
    "large version": lambda at: {"version": 2**70},
    "foreign order": lambda at: {"typestr": ">f4"},
    "no typestr": lambda at: {"typestr": ...},
    "typestr of bytes": lambda at: {"typestr": b"<f4"},
    "typestr with accents": lambda at: {"typestr": "<\xe94"},
    "typestr of surrogates": lambda at: {"typestr": "<f\ud800"},
    "empty typestr": lambda at: {"typestr": ""},
    "mask": lambda at: {"mask": np.zeros(2)},
    "no shape": lambda at: {"shape": ...},
    "no data": lambda at: {"data": ...},
}


def outcome(probe, source, request):
    """A description of what came, or the refusal."""
    view, refusal = checks.catch(probe.acquire, source, "none", checks.fields(probe, request))
    if refusal is not None:
        return refusal.type, refusal.message, refusal.causes
    described = view.describe()
    assert view.release() == "OK"
    return described


@pytest.mark.parametrize("request_", [
    {}, {"require": "WRITABLE C_CONTIGUOUS"}, {"require": "MASK_OK UNUSUAL_DTYPE_OK"}, {"dtype": "float32", "ndim": 2},
    {"protocols": "VIA_CUDA_ARRAY_INTERFACE_3"}], ids=["any", "output", "lenient", "exact", "version 3"])
@pytest.mark.parametrize("name", WALKED)
def test_pitfall_13_a_walk_reads_what_the_look_up_of_each_field_reads(probe, name, request_):
    memory = Memory(SIX)
    source = bearer(memory, typestr="<f4")
    fields = source.__cuda_array_interface__
    fields.update(WALKED[name](memory.pointer))
    for key in [key for key, value in fields.items() if value is ...]:
        del fields[key]
    walked = outcome(probe, source, request_)
    assert walked == outcome(probe, source, request_)  # the type is in the cache now
    source.__cuda_array_interface__ = Careful(fields)
    assert outcome(probe, source, request_) == walked


@pytest.mark.parametrize("key", ["shape", "typestr", "data", "version", "strides", "stream", "mask"])
def test_pitfall_13_keys_that_are_equal_and_not_the_same(accepts, key):
    memory = Memory(SIX)
    source = bearer(memory, mask=None, strides=(12, 4), stream=1)
    fields = source.__cuda_array_interface__
    value = fields.pop(key)
    fields[uninterned(key)] = value
    assert not any(key is item for item in fields)
    with accepts(source) as view:
        assert (view.shape, view.strides, view.stream) == ((2, 3), (3, 1), 1)
        assert np.array_equal(checks.read(view), SIX)


def test_a_mask_under_a_key_that_is_not_the_same_is_seen(refuses):
    refuses("MaskedArrayError", bearer(Memory(SIX), **{uninterned("mask"): np.zeros(2)}))


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_fields_may_lie_in_any_order(accepts, order):
    source = bearer(Memory(SIX), strides=(12, 4))
    fields = source.__cuda_array_interface__
    for key in list(fields)[:order]:
        fields[key] = fields.pop(key)
    with accepts(source) as view:
        assert np.array_equal(checks.read(view), SIX)


def test_a_walk_takes_no_reference_that_it_does_not_give_back(probe, unchanged):
    memory = Memory(SIX)
    source = bearer(memory, shape=memory.array.shape, strides=memory.array.strides)
    fields = source.__cuda_array_interface__
    with unchanged(source, fields, *[value for value in fields.values() if type(value) is tuple]):
        for require in ("", "NONEMPTY", "F_CONTIGUOUS"):
            outcome(probe, source, {"require": require})


# ------------------------------------------------------------------------------------------ properties that do things


class Raising:
    """A property that raises, with DLPack beside it if `beside` is given."""

    def __init__(self, exception, beside=None):
        self.exception, self.beside, self.fetches = exception, beside, 0

    @property
    def __cuda_array_interface__(self):
        self.fetches += 1
        raise self.exception("own")

    def __dlpack__(self, **keywords):
        return self.beside.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.beside.__dlpack_device__()


class Alone(Raising):
    __dlpack__ = __dlpack_device__ = property()


class OwnError(Exception):
    """As JAX's XlaRuntimeError."""


EXCEPTIONS = [RuntimeError, KeyError, ValueError, TypeError, NotImplementedError, BufferError, OSError, OwnError]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_pitfall_14_a_property_that_raises_does_not_hide_another_protocol(accepts, probe, exception):
    source = Raising(exception, DLPack(SIX))
    with accepts(source, managed=source.beside.made) as view:
        assert view.protocol == probe.VIA_DLPACK
        assert np.array_equal(checks.read(view), SIX)
    assert source.fetches == 1


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("request_, error", [
    ({"ndim": 5}, "InvalidShapeError"), ({"dtype": "int8"}, "DtypeMismatchError"),
    ({"memory": "ON_PINNED"}, "InterfaceNotImplementedError")])
def test_pitfall_14_what_a_property_raised_is_forgotten_when_another_protocol_is_refused(refuses, exception, request_,
                                                                                         error):
    source = Raising(exception, DLPack(SIX))
    refuses(error, source, managed=source.beside.made, **request_)


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_pitfall_14_a_property_that_raises_is_the_cause_where_nothing_else_works(refuses, exception):
    source = Alone(exception)
    refusal = refuses("InterfaceNotImplementedError", source, cause=exception)
    assert exception.__name__ in refusal.message and "own" in refusal.message
    assert source.fetches == 1


def test_pitfall_14_attribute_error_means_absent(accepts, refuses):
    refusal = refuses("InterfaceNotImplementedError", Alone(AttributeError))
    assert refusal.causes == []
    with accepts(Raising(AttributeError, DLPack(SIX))) as view:
        assert view.size == 6


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_pitfall_14_final_exceptions_end_the_attempt(refuses, exception):
    source = Raising(exception, DLPack(SIX))
    refuses(exception.__name__, source)
    assert source.beside.asked == []
    assert source.fetches == 1


@pytest.mark.parametrize("kind, version, fetches", [
    (Interface, 0, {1}), (Interface, 2, {1}), (Interface, 3, {1}), (Both, 3, {1}), (Both, 2, {0, 1})])
@pytest.mark.parametrize("order", ["adopt", "block", "none"])
def test_pitfall_14_the_attribute_is_fetched_once(accepts, kind, version, fetches, order):
    if order == "none":
        fetches = fetches | {0} if kind is Both else fetches  # __dlpack__ is faster, where no stream is needed
    source = kind(SIX, version=version)
    for _ in range(3):  # the type is known from the second time on
        source.fetches = 0
        with accepts(source, order) as view:
            assert np.array_equal(checks.read(view), SIX)
        assert source.fetches in fetches


def test_pitfall_14_the_attribute_is_fetched_once_when_it_is_refused(refuses):
    for fields in ({"shape": None}, {"typestr": ">f4"}, {"data": (1, 2, 3)}, {"mask": 1}):
        source = Interface(SIX, version=2, overrides=fields)
        refuses(("IncompleteInterfaceError", "EndiannessDetectionError", "MaskedArrayError"), source)
        assert source.fetches == 1


def test_pitfall_14_the_attribute_is_fetched_once_after_dlpack_failed(accepts, probe):
    class Broken(Both):
        def __dlpack__(self, **keywords):
            raise BufferError("not today")

    source = Broken(SIX, version=2)
    with accepts(source) as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
    assert source.fetches == 1


@pytest.mark.parametrize("protocols", ["VIA_DLPACK", "VIA_BUFFER", "VIA_EXCHANGE", "VIA_DLPACK VIA_BUFFER"])
def test_pitfall_14_the_attribute_is_not_fetched_where_the_request_excludes_it(probe, protocols):
    source = Interface(SIX)
    _, refusal = checks.catch(probe.acquire, source, "adopt", checks.fields(probe, {"protocols": protocols}))
    assert refusal.type is probe.InterfaceNotImplementedError
    assert source.fetches == 0


# ---------------------------------------------------------------------------------------------------------- read-only


@pytest.mark.parametrize("flag", [True, 1, -1, "x", np.True_, [0], Truth(True)])
def test_pitfall_15_read_only_is_kept(accepts, refuses, probe, flag):
    source = Interface(FOUR, readonly=flag)
    with accepts(source) as view:
        assert view.flags & probe.READONLY
    refuses("ReadOnlyAccessError", source, require="WRITABLE", match="read-only")


@pytest.mark.parametrize("flag", [False, 0, None, "", np.False_, Truth(False)])
@pytest.mark.parametrize("version", [0, 2, 3])
def test_pitfall_15_writable_memory(accepts, probe, flag, version):
    with accepts(Interface(FOUR, readonly=flag, version=version), require="WRITABLE") as view:
        assert not view.flags & probe.READONLY


def test_pitfall_15_read_only_is_not_lost_to_another_protocol(refuses):
    source = Both(FOUR, readonly=True, stream=1)
    refuses("ReadOnlyAccessError", source, require="WRITABLE")
    refuses("ReadOnlyAccessError", source, require="WRITABLE TRUST_LEGACY")


# ------------------------------------------------------------------------------------------------- width and overflow


@pytest.mark.parametrize("pointer", [2**31, 2**32 + 8, 2**47 - 64, 2**63, 2**64 - 4096])
def test_pitfall_16_addresses_have_64_bits_without_a_sign(accepts, pointer):
    with accepts(Interface(FOUR, overrides={"data": (pointer, False)}), "none", memory="ANYWHERE") as view:
        assert view.pointer == pointer
        assert view.device == (dlpack.CPU, 0)  # nobody allocated there


@pytest.mark.parametrize("pointer", [-1, -4096, np.int64(-8), 2**64, 2**64 + 4096, -2**70])
def test_pitfall_16_addresses_that_are_none(refuses, pointer):
    refuses("IncompleteInterfaceError", Interface(FOUR, overrides={"data": (pointer, False)}), memory="ANYWHERE",
            match="'data'")


@pytest.mark.parametrize("shape", [
    (-1,), (2, -3), (-2**63,), (2**63,), (2**64,), (2**62, 4), (2**33, 2**33), (2**31, 2**31, 2**31), (2**63 - 1,),
    (2**61,), (3, 2**62), (2**21,) * 4, (2,) * 64, (0, -1), (-1, 0), (1, -1)])
def test_pitfall_16_negative_and_overflowing_extents(refuses, shape):
    refuses("InvalidShapeError", Interface(FOUR, overrides={"shape": shape}), memory="ANYWHERE")


@pytest.mark.parametrize("shape, strides", [
    ((3,), (2**62,)), ((2,), (2**63,)), ((2,), (-2**63,)), ((2,), (-2**63 - 1,)),
    ((2, 2), (2**62, 2**62)), ((2, 2), (-2**62, -2**62)), ((2**40, 2), (2**30, 4)), ((2, 3), (4, 2**70))])
def test_pitfall_16_overflowing_strides(refuses, shape, strides):
    refuses("InvalidStridesError", Interface(FOUR, overrides={"shape": shape, "strides": strides}), memory="ANYWHERE")


def test_pitfall_16_bounds_that_overflow_by_the_last_item(refuses):
    source = Interface(FOUR, overrides={"shape": (2,), "strides": (2**63 - 4,)})
    refuses("InvalidStridesError", source, memory="ANYWHERE")


def test_pitfall_16_an_end_beyond_the_address_space(refuses):
    for shape, strides in (((2048,), None), ((2, 2), (2048, 4092))):
        source = Interface(FOUR, overrides={"shape": shape, "strides": strides, "data": (2**64 - 4096, False)})
        refuses(("InvalidShapeError", "InvalidStridesError"), source, memory="ANYWHERE")


def test_pitfall_16_up_to_64_dimensions(accepts, refuses):
    with accepts(Interface(FOUR, overrides={"shape": (1,) * 63 + (4,)})) as view:
        assert view.shape == (1,) * 63 + (4,)
        assert view.size == 4
    for ndim in (65, 100, 1000):
        refuses("InvalidShapeError", Interface(FOUR, overrides={"shape": (1,) * ndim}), match=str(ndim))
    refuses("InvalidShapeError", Interface(FOUR, overrides={"shape": [1] * 65, "strides": [4] * 65}))


# -------------------------------------------------------------------------------------------------------- the memory


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("offset", [0, 8])
def test_pitfall_17_the_device_is_the_pointers(accepts, device, current, offset):
    memory = Memory(np.arange(8, dtype="f4"), device=device)
    source = bearer(memory, shape=(4,), data=(memory.pointer + offset, False))
    with emulated.current_device(current):
        with accepts(source) as view:
            assert view.device == (dlpack.CUDA, device)
            assert emulated.get_device() == current
        assert emulated.get_device() == current


def test_pitfall_17_pool_memory_has_its_streams_device(accepts):
    stream = emulated.create_stream(device=1)
    pointer = ctypes.c_void_p()
    emulated.cuda("cudaMallocAsync", ctypes.byref(pointer), ctypes.c_size_t(64), ctypes.c_void_p(stream))
    source = Interface(FOUR, overrides={"data": (pointer.value, False), "stream": stream})
    with accepts(source) as view:
        assert view.device == (dlpack.CUDA, 1)


@pytest.mark.parametrize("device", [0, 1])
def test_pitfall_17_managed_memory(accepts, refuses, device):
    source = Interface(FOUR, kind="managed", device=device)
    with accepts(source) as view:
        assert view.device == (dlpack.MANAGED, device)
    refuses("DeviceMismatchError", source, memory="ON_CUDA", match="managed")


def test_pitfall_17_pinned_memory_only_where_it_was_asked_for(accepts, refuses):
    source = Interface(FOUR, kind="pinned")
    refuses("DeviceMismatchError", source, match="pinned")
    refuses("DeviceMismatchError", source, memory="ON_HOST", match="pinned")
    for memory in ("ON_PINNED", "ANYWHERE"):
        with accepts(source, memory=memory) as view:
            assert view.device == (dlpack.CUDA_HOST, 0)


def test_pitfall_17_unregistered_memory_only_where_host_memory_was_asked_for(accepts, refuses):
    array = np.arange(4, dtype="f4")
    source = Interface(FOUR, overrides={"data": (array.ctypes.data, False)})
    for memory in (0, "ON_CUDA", "ON_PINNED", "ON_CUDA ON_MANAGED ON_PINNED"):
        refuses("DeviceMismatchError", source, memory=memory)
    for memory in ("ON_HOST", "ANYWHERE"):
        with accepts(source, memory=memory) as view:
            assert view.device == (dlpack.CPU, 0)
            assert np.array_equal(checks.read(view), array)


@pytest.mark.parametrize("kind", ["device", "managed", "pinned"])
def test_pitfall_17_freed_memory(refuses, kind):
    source = Interface(FOUR, kind=kind)
    source.memory.free()
    refuses("DeviceMismatchError", source, memory="ON_CUDA ON_MANAGED ON_PINNED")


def test_pitfall_17_looking_at_memory_creates_no_context(accepts, refuses):
    array = np.arange(4, dtype="f4")
    interface = {"shape": (4,), "typestr": "<f4", "data": (array.ctypes.data, False), "version": 2}
    emulated.reset()
    refuses("DeviceMismatchError", types.SimpleNamespace(__cuda_array_interface__=interface))
    with accepts(types.SimpleNamespace(__cuda_array_interface__=interface), memory="ON_HOST"):
        pass
    with accepts(types.SimpleNamespace(__cuda_array_interface__={**interface, "shape": (0,)})):
        pass
    assert not emulated.has_context(0)
    assert not emulated.has_context(1)


@pytest.mark.parametrize("code, name", [(1, "cudaErrorInvalidValue"), (700, "cudaErrorIllegalAddress"),
                                        (999, "cudaErrorUnknown")])
def test_pitfall_17_a_query_that_fails(refuses, code, name):
    source = Interface(FOUR)
    emulated.fail("cudaPointerGetAttributes", code=code)
    refusal = refuses("CudaCallError", source, match="cudaPointerGetAttributes")
    assert (refusal.code, refusal.name) == (code, name)
    assert name in refusal.message
    last = ctypes.CDLL("libcai_emulator.so").emulator_cudaGetLastError()
    assert last == emulated.SUCCESS  # it is not reported a second time


def test_pitfall_17_no_devices(probe):
    interface = {"shape": (4,), "typestr": "<f4", "data": (4096, False), "version": 3}
    emulated.reset()
    assert emulated.set_device_count(0) == 0
    try:
        view, refusal = checks.catch(probe.acquire, types.SimpleNamespace(__cuda_array_interface__=interface))
    finally:
        emulated.set_device_count(2)
    assert view is None
    assert refusal.type is probe.CudaCallError
    assert refusal.name == "cudaErrorNoDevice"


def test_alignment_to_the_item_size_unless_the_request_says_otherwise(accepts, refuses):
    memory = Memory(np.zeros(8, "f8"))
    for typestr, offset, fits in (("<f8", 8, True), ("<f8", 4, False), ("<f4", 4, True), ("<f4", 2, False),
                                  ("|u1", 1, True), ("<c16", 16, True), ("<i2", 1, False), ("|V7", 1, True)):
        source = bearer(memory, shape=(2,), typestr=typestr, data=(memory.pointer + offset, False))
        if fits:
            with accepts(source, require="UNUSUAL_DTYPE_OK") as view:
                assert view.pointer == memory.pointer + offset
        else:
            refusal = refuses("LayoutMismatchError", source, match="aligned to")
            assert f"{memory.pointer + offset:#x}" in refusal.message
            with accepts(source, require="UNALIGNED_OK") as view:
                assert view.pointer == memory.pointer + offset


# ---------------------------------------------------------------------------------------------- owners and protocols


def test_pitfall_57_a_bare_dict_has_no_owner(refuses):
    interface = bearer(Memory(FOUR)).__cuda_array_interface__
    assert issubclass(refuses("InterfaceNotImplementedError", interface).type, TypeError)


def test_pitfall_57_the_view_keeps_the_object_alive(probe):
    source = Interface(FOUR)
    gone = weakref.ref(source)
    view = probe.acquire(source)
    del source
    gc.collect()
    assert view.object() is gone()
    assert view.release() == "OK"
    gc.collect()
    assert gone() is None


def test_the_view_is_given_back_when_it_is_forgotten(probe):
    source = Interface(FOUR)
    gone = weakref.ref(source)
    view = probe.acquire(source)
    del source, view
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("version, stream, protocol", [
    (3, ..., "VIA_CUDA_ARRAY_INTERFACE"), (3, None, "VIA_CUDA_ARRAY_INTERFACE"), (3, 1, "VIA_CUDA_ARRAY_INTERFACE"),
    (4, None, "VIA_CUDA_ARRAY_INTERFACE"), (2, 1, "VIA_CUDA_ARRAY_INTERFACE"),
    (2, ..., "VIA_DLPACK"), (2, None, "VIA_DLPACK"), (0, None, "VIA_DLPACK"), (..., ..., "VIA_DLPACK")])
def test_interfaces_that_tell_their_order_come_before_dlpack(accepts, probe, version, stream, protocol):
    source = Both(SIX, overrides={"version": version, "stream": stream})
    with accepts(source) as view:
        assert view.protocol == getattr(probe, protocol)
    with accepts(source, protocols="VIA_CUDA_ARRAY_INTERFACE") as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
    with accepts(source, protocols="VIA_DLPACK") as view:
        assert view.protocol == probe.VIA_DLPACK


def test_what_served_a_type_once_is_never_a_refusal(accepts):
    class Fickle(Both):
        def __dlpack__(self, **keywords):
            if not self.exports:
                raise BufferError("not today")
            return super().__dlpack__(**keywords)

        @property
        def __cuda_array_interface__(self):
            if not self.bears:
                raise AttributeError("none")
            return super().__cuda_array_interface__

    for first in (True, False):
        source = Fickle(SIX, version=3, stream=1)
        for source.bears, source.exports in [(first, not first), (not first, first), (True, False), (False, True)]:
            with accepts(source) as view:
                assert np.array_equal(checks.read(view), SIX)


def test_a_field_that_cai_cannot_read_does_not_hide_another_protocol(accepts, probe):
    for fields in ({"shape": None}, {"typestr": "<M8[ns]"}, {"typestr": ">f4"}, {"data": 5}, {"strides": (3, 4)},
                   {"version": -1}, {"stream": -1}, {"shape": (-1,)}, {"data": (2**70, False)}):
        source = Both(SIX, stream=1)
        source.overrides = fields
        with accepts(source) as view:
            assert view.protocol == probe.VIA_DLPACK
            assert np.array_equal(checks.read(view), SIX)


def test_the_first_failure_is_the_one_that_is_raised(refuses):
    source = Both(SIX, stream=1, overrides={"shape": None}, tensor={"dtype": (99, 8, 1)})
    refuses("IncompleteInterfaceError", source, match="'shape' is missing")


def test_a_property_may_use_the_library_itself(accepts, probe):
    inner = Interface(FOUR)

    class Nested(Interface):
        @property
        def __cuda_array_interface__(self):
            view = probe.acquire(inner)
            assert view.release() == "OK"
            assert checks.catch(probe.acquire, self.memory)[1].type is probe.InterfaceNotImplementedError
            return super().__cuda_array_interface__

    with accepts(Nested(SIX), watch=[inner]) as view:
        assert view.shape == (2, 3)


def test_classes_are_not_their_instances(refuses):
    for kind in (Interface, Both, np.ndarray):
        refuses(("IncompleteInterfaceError", "InterfaceNotImplementedError"), kind)


@pytest.mark.parametrize("value", [None, 0, 1.5, "text", (), [], {}, object(), object, len, lambda: None, type])
def test_objects_that_speak_no_protocol(refuses, value):
    refusal = refuses("InterfaceNotImplementedError", value)
    assert issubclass(refusal.type, TypeError)
    assert refusal.causes == []


# -------------------------------------------------------------------------------------------------- real producers


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_pitfall_14_real_producers_on_the_host_have_none(refuses, library):
    module = checks.need(library)
    refusal = refuses("InterfaceNotImplementedError", module.ones(3), protocols="VIA_CUDA_ARRAY_INTERFACE")
    assert refusal.causes == []


# ----------------------------------------------------------------------------------------------------- without CUDA


@pytest.fixture
def host_only():
    return checks.load("probe_host")


def test_without_cuda_a_device_array_can_be_described(host_only):
    memory = Memory(SIX)
    view = host_only.acquire(bearer(memory), "none", {"memory": host_only.ANYWHERE})
    described = types.SimpleNamespace(**view.describe())
    assert (described.pointer, described.shape, described.dtype) == (memory.pointer, (2, 3), "float32")
    assert described.device[0] == dlpack.CUDA
    assert view.release() == "OK"


@pytest.mark.parametrize("order", ["block", emulated.PER_THREAD])
def test_without_cuda_a_device_array_cannot_be_ordered(host_only, unchanged, order):
    source = bearer(Memory(SIX), stream=1)
    with unchanged(source, source.__cuda_array_interface__):
        view, refusal = checks.catch(host_only.acquire, source, order, {"memory": host_only.ANYWHERE})
    assert view is None
    assert issubclass(refusal.type, host_only.CAIError)
    assert refusal.message.startswith("argument 'x': ") and "CAI_NO_CUDA" in refusal.message


def test_without_cuda_the_default_memory_is_the_hosts(host_only):
    view, refusal = checks.catch(host_only.acquire, bearer(Memory(SIX)), "none")
    assert view is None
    assert refusal.type is host_only.DeviceMismatchError
