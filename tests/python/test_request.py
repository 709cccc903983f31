"""What an author can ask for: every field and flag of a request, and the whole message of every kind of refusal."""

import itertools
import sys
import types

import numpy as np
import pytest

import checks
import dlpack
import emulated
import tables
from dlpack import CPU, CUDA, CUDA_HOST, MANAGED, Managed
from producers import Both, DLPack, Interface, Memory

pytestmark = pytest.mark.filterwarnings("error")

FOUR = np.arange(4, dtype="f4")
SCALAR, EMPTY_EXTENT = -1, -2**63


def extent(k):
    return -1 - k


def shaped(*shape, **overrides):
    """An array of that shape and nothing in it."""
    return Interface(FOUR, overrides={"shape": shape, **overrides})


def test_constants(probe):
    assert (probe.SCALAR, probe.EMPTY_EXTENT) == (SCALAR, EMPTY_EXTENT)
    assert [probe.extent(k) for k in range(16)] == [extent(k) for k in range(16)]
    assert probe.ANYWHERE == probe.ON_CUDA | probe.ON_MANAGED | probe.ON_PINNED | probe.ON_HOST


def test_no_request_at_all_is_a_request_of_zeros(probe, accepts, refuses):
    view = probe.acquire(Interface(FOUR))  # cai_view_acquire gets NULL
    assert view.describe()["shape"] == (4,)
    assert view.release() == "OK"
    _, refusal = checks.catch(probe.acquire, np.zeros(3))
    assert refusal.type is probe.DeviceMismatchError
    assert refusal.message.startswith("array: ")
    _, refusal = checks.catch(probe.acquire, Interface(FOUR, overrides={"typestr": "|V4"}))
    assert refusal.type is probe.DtypeMismatchError


@pytest.mark.parametrize("fields", [
    {"readonly": True}, {"overrides": {"shape": (), "strides": ()}}, {"overrides": {"shape": (0,)}},
    {"overrides": {"shape": (2,), "strides": (8,)}}, {"overrides": {"shape": (9,), "strides": (0,)}},
    {"overrides": {"shape": (1,) * 64}}, {"version": 0}, {"kind": "managed"}])
def test_a_request_of_zeros_takes_any_plain_array_that_a_kernel_can_use(accepts, fields):
    with accepts(Interface(FOUR, **fields)):
        pass


@pytest.mark.parametrize("name, words", [
    ("x", "argument 'x'"), ("the_input", "argument 'the_input'"), ("", "argument ''"), (None, "array"),
    ("\u00e4\u00f6", "argument '\u00e4\u00f6'")])
def test_name(refuses, name, words):
    message = refuses("InvalidShapeError", Interface(FOUR), name=name, ndim=2).message
    assert message.startswith(f"{words}: expected 2-d; ")


# ------------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("wanted, came, meets", [
    ("float32", "f4", True), ("float32", "f8", False), ("float32", "i4", False), ("int32", "u4", False),
    ("uint8", "i1", False), ("bool", "u1", False), ("float16", "i2", False), ("complex64", "f8", False),
    ("complex64", "c8", True), ("V4", "f4", False), ("float32", "V4", False), ("V4", "V4", True), ("V4", "V8", False)])
def test_dtype(accepts, refuses, wanted, came, meets):
    source = Interface(np.zeros(3, came))
    if meets:
        with accepts(source, dtype=wanted) as view:
            assert view.dtype == wanted
    else:
        refuses("DtypeMismatchError", source, dtype=wanted, match=f"expected {wanted}")


def test_dtypes(accepts, refuses):
    wanted = ["float32", "float64", "int8", "bfloat16"]
    for came in ("f4", "f8", "i1"):
        with accepts(Interface(np.zeros(3, came)), dtypes=wanted):
            pass
    with accepts(DLPack(FOUR, tensor={"dtype": dlpack.BFLOAT16}), dtypes=wanted) as view:
        assert view.dtype == "bfloat16"
    for came in ("f2", "u1", "c8"):
        refuses("DtypeMismatchError", Interface(np.zeros(3, came)), dtypes=wanted)


def test_dtype_is_not_looked_at_beside_dtypes(accepts, refuses):
    with accepts(Interface(FOUR), dtype="int8", dtypes=["float32"]):
        pass
    refuses("DtypeMismatchError", Interface(np.zeros(3, "i1")), dtype="int8", dtypes=["float32"])


# -------------------------------------------------------------------------------------------------------------- shape


@pytest.mark.parametrize("fields, accepted", [
    ({}, {0, 1, 2, 3, 8, 9, 64}), ({"ndim": 2}, {2}), ({"ndim": SCALAR}, {0}), ({"ndim": 64}, {64}),
    ({"min_ndim": 2}, {2, 3, 8, 9, 64}), ({"max_ndim": 2}, {0, 1, 2}), ({"min_ndim": 2, "max_ndim": 8}, {2, 3, 8}),
    ({"min_ndim": 1, "max_ndim": 1}, {1}), ({"ndim": 3, "min_ndim": 5, "max_ndim": 1}, {3})])
def test_ndim(accepts, refuses, fields, accepted):
    for ndim in (0, 1, 2, 3, 8, 9, 64):
        source = shaped(*(1,) * ndim)
        if ndim in accepted:
            with accepts(source, **fields) as view:
                assert len(view.shape) == ndim
        else:
            refuses("InvalidShapeError", source, **fields)


@pytest.mark.parametrize("wish, shape, meets", [
    pytest.param((2, 2), (2, 2), True, id="exact"),
    pytest.param((2, 2), (2, 3), False, id="another"),
    pytest.param((0, 2), (7, 2), True, id="any_first"),
    pytest.param((0, 2), (2, 7), False, id="any_first_and_another"),
    pytest.param((2,), (2, 9), True, id="further_dimensions_are_free"),
    pytest.param((2, 2), (2,), True, id="missing_dimensions_are_not_asked_for"),
    pytest.param((2,), (), True, id="of_a_scalar_nothing"),
    pytest.param((0,), (0,), True, id="any_may_be_empty"),
    pytest.param((EMPTY_EXTENT,), (0,), True, id="empty"),
    pytest.param((EMPTY_EXTENT,), (1,), False, id="empty_and_one"),
    pytest.param((0, EMPTY_EXTENT), (5, 0), True, id="empty_second"),
    pytest.param((extent(0), extent(0)), (3, 3), True, id="square"),
    pytest.param((extent(0), extent(0)), (3, 4), False, id="no_square"),
    pytest.param((extent(0), extent(1), extent(0)), (2, 3, 2), True, id="two_extents"),
    pytest.param((extent(15), extent(15)), (2, 2), True, id="last_extent"),
    pytest.param((extent(0), extent(0)), (0, 0), True, id="empty_square"),
    pytest.param((extent(16),), (2,), False, id="no_such_extent"),
    pytest.param((2**40,), (4,), False, id="huge"),
    pytest.param((0,) * 7 + (2,), (1,) * 7 + (2,), True, id="eighth_dimension"),
    pytest.param((0,) * 7 + (2,), (1,) * 7 + (3,), False, id="eighth_dimension_another"),
    pytest.param((1,) * 8, (1,) * 8 + (5,), True, id="the_ninth_is_free"),
])
def test_shape(accepts, refuses, wish, shape, meets):
    if meets:
        with accepts(shaped(*shape), shape=wish) as view:
            assert view.shape == shape
    else:
        refuses("InvalidShapeError", shaped(*shape), shape=wish)


# -------------------------------------------------------------------------------------------------------------- flags


LAYOUTS = {  # shape, strides in elements: what it is
    "dense": ((2, 3), (3, 1), {"C_CONTIGUOUS", "CONTIGUOUS"}),
    "fortran": ((2, 3), (1, 2), {"F_CONTIGUOUS", "CONTIGUOUS"}),
    "line": ((6,), (1,), {"C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS"}),
    "column": ((6, 1), (1, 77), {"C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS"}),
    "one": ((1, 1), (5, -7), {"C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS"}),
    "scalar": ((), (), {"C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS"}),
    "empty": ((0, 3), (-1, 0), {"C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS"}),
    "gaps": ((2, 3), (4, 1), set()),
    "gaps_inside": ((2, 2), (4, 2), set()),
    "permuted": ((2, 3, 2), (2, 4, 1), set()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("require", ["C_CONTIGUOUS", "F_CONTIGUOUS", "CONTIGUOUS", "C_CONTIGUOUS F_CONTIGUOUS",
                                     "C_CONTIGUOUS CONTIGUOUS", "F_CONTIGUOUS CONTIGUOUS"])
def test_contiguity(accepts, refuses, layout, require):
    shape, strides, meets = LAYOUTS[layout]
    source = DLPack(np.zeros(32, "f4"), tensor={"shape": shape, "strides": strides})
    if set(require.split()) <= meets:
        with accepts(source, require=require):
            pass
    else:
        refuses("LayoutMismatchError", source, require=require)


@pytest.mark.parametrize("shape, strides, overlaps, negative", [
    ((4,), (1,), False, False), ((4,), (-1,), False, True), ((4,), (0,), True, False), ((2, 3), (0, 1), True, False),
    ((2, 3), (1, 1), True, False), ((2, 3), (1, 2), False, False), ((2, 3), (-3, 1), False, True),
    ((2, 3), (-1, 1), True, True), ((1, 4), (-9, 1), False, False), ((1, 4), (0, 1), False, False),
    ((0, 4), (0, -1), False, False), ((), (), False, False), ((3, 3), (2, 1), True, False),
    ((3, 3), (3, -1), False, True)])
def test_self_overlap_and_negative_strides(accepts, refuses, shape, strides, overlaps, negative):
    source = DLPack(np.zeros(64, "f4"), tensor={"shape": shape, "strides": strides, "byte_offset": 128})
    with accepts(source):
        pass
    for flag, has in (("NO_SELF_OVERLAP", overlaps), ("NO_NEGATIVE_STRIDES", negative)):
        if has:
            refuses("LayoutMismatchError", source, require=flag)
        else:
            with accepts(source, require=flag):
                pass


def test_nonempty(accepts, refuses):
    for shape, empty in (((0,), True), ((3, 0), True), ((), False), ((1,), False)):
        source = shaped(*shape)
        if empty:
            refuses("InvalidShapeError", source, require="NONEMPTY")
        else:
            with accepts(source, require="NONEMPTY"):
                pass


@pytest.mark.parametrize("source, writable", [
    pytest.param(lambda: Interface(FOUR), True, id="interface"),
    pytest.param(lambda: Interface(FOUR, readonly=True), False, id="interface_read_only"),
    pytest.param(lambda: DLPack(FOUR), True, id="versioned"),
    pytest.param(lambda: DLPack(FOUR, tensor={"flags": dlpack.READ_ONLY}), False, id="versioned_read_only"),
    pytest.param(lambda: DLPack(FOUR, legacy=True), False, id="legacy_does_not_say"),
])
def test_writable(accepts, refuses, probe, source, writable):
    with accepts(source()) as view:
        assert bool(view.flags & probe.READONLY) == (not writable)
    if writable:
        with accepts(source(), require="WRITABLE"):
            pass
    else:
        refuses("ReadOnlyAccessError", source(), require="WRITABLE")


def test_trust_legacy(accepts, refuses):
    with accepts(DLPack(FOUR, legacy=True), require="WRITABLE TRUST_LEGACY"):
        pass
    for source in (Interface(FOUR, readonly=True), DLPack(FOUR, tensor={"flags": dlpack.READ_ONLY})):
        refuses("ReadOnlyAccessError", source, require="WRITABLE TRUST_LEGACY")


def test_unaligned_ok(accepts, refuses):
    source = DLPack(FOUR, tensor={"shape": (2,), "byte_offset": 2})
    refuses("LayoutMismatchError", source)
    with accepts(source, require="UNALIGNED_OK") as view:
        assert view.pointer == source.pointer + 2


def test_mask_ok(accepts, refuses):
    mask = Interface(FOUR > 1)
    source = Interface(FOUR, overrides={"mask": mask})
    refuses("MaskedArrayError", source)
    with accepts(source, require="MASK_OK", watch=[mask]) as view:
        assert view.mask is mask


def test_unusual_dtype_ok(accepts, refuses):
    for dtype in ((0, 4, 1), (17, 4, 2), (2, 32, 4)):
        source = DLPack(FOUR, tensor={"dtype": dtype, "shape": (2,)})
        refuses("DtypeMismatchError", source, match="a plain data type")
        with accepts(source, require="UNUSUAL_DTYPE_OK"):
            pass
    refuses("UnknownDtypeError", DLPack(FOUR, tensor={"dtype": (99, 8, 1)}), require="UNUSUAL_DTYPE_OK")
    refuses("DtypeMismatchError", DLPack(FOUR, tensor={"dtype": (0, 4, 1)}), require="UNUSUAL_DTYPE_OK", dtype="int8")


def test_uint8_as_bool(accepts, refuses):
    for dtypes in ({"dtype": "bool"}, {"dtypes": ["float32", "bool"]}):
        refuses("DtypeMismatchError", Interface(np.zeros(3, "u1")), **dtypes)
        with accepts(Interface(np.zeros(3, "u1")), require="UINT8_AS_BOOL", **dtypes) as view:
            assert view.dtype == "uint8"
        refuses("DtypeMismatchError", Interface(np.zeros(3, "i1")), require="UINT8_AS_BOOL", **dtypes)


@pytest.mark.parametrize("wanted", [
    set(some) for n in range(1, 5) for some in itertools.combinations(("CUDA", "MANAGED", "PINNED", "HOST"), n)],
    ids=lambda wanted: "_".join(sorted(wanted)))
@pytest.mark.parametrize("kind", ["device", "managed", "pinned", "host"])
def test_memory(accepts, refuses, wanted, kind):
    array = np.arange(4, dtype="f4")
    bit = {"device": "CUDA", "managed": "MANAGED", "pinned": "PINNED", "host": "HOST"}[kind]
    device = {"device": CUDA, "managed": MANAGED, "pinned": CUDA_HOST, "host": CPU}[kind]
    source = Interface(FOUR, kind="device" if kind == "host" else kind)
    if kind == "host":
        source.overrides["data"] = (array.ctypes.data, False)
    memory = " ".join(f"ON_{name}" for name in wanted)
    if bit in wanted:
        with accepts(source, memory=memory) as view:
            assert view.device == (device, 0)
    else:
        refuses("DeviceMismatchError", source, memory=memory)


@pytest.mark.parametrize("protocols, allowed", [
    ("VIA_CUDA_ARRAY_INTERFACE", "VIA_CUDA_ARRAY_INTERFACE"), ("VIA_DLPACK", "VIA_DLPACK"),
    ("VIA_EXCHANGE", "VIA_EXCHANGE"), ("VIA_BUFFER", None), ("VIA_BUFFER VIA_DLPACK", "VIA_DLPACK"),
    ("VIA_CUDA_ARRAY_INTERFACE_3", "VIA_CUDA_ARRAY_INTERFACE"),
    ("VIA_CUDA_ARRAY_INTERFACE_3 VIA_CUDA_ARRAY_INTERFACE", "VIA_CUDA_ARRAY_INTERFACE"), ("", "VIA_EXCHANGE")])
def test_protocols(accepts, refuses, probe, protocols, allowed):
    other = Both(FOUR)
    kind = type("Everything", (tables.Array,), {
        "__dlpack_c_exchange_api__": tables.make_table(), "__cuda_array_interface__": other.__cuda_array_interface__,
        "__dlpack__": lambda self, **keywords: other.__dlpack__(**keywords),
        "__dlpack_device__": lambda self: other.__dlpack_device__()})
    source = kind(other.pointer, (4,), dlpack.FLOAT32, (CUDA, 0))
    if allowed is None:
        refuses("InterfaceNotImplementedError", source, protocols=protocols)
        return
    with accepts(source, protocols=protocols) as view:
        assert view.protocol == getattr(probe, allowed)


def test_the_order_of_refusals(refuses, accepts):
    """Memory, dtype, shape, layout, writable: each step mends what the step before it was refused for."""
    request_ = {"dtype": "float32", "ndim": 2, "require": "C_CONTIGUOUS WRITABLE", "memory": "ON_CUDA"}
    source = DLPack(np.zeros(16, "f4"), kind="managed", tensor={
        "dtype": dlpack.INT32, "shape": (3,), "strides": (2,), "flags": dlpack.READ_ONLY})
    refuses("DeviceMismatchError", source, **request_)
    source = DLPack(np.zeros(16, "f4"), tensor=source.tensor)
    for error, mended in (("DtypeMismatchError", {"dtype": dlpack.FLOAT32}),
                          ("InvalidShapeError", {"shape": (3, 2), "strides": (1, 3)}),
                          ("LayoutMismatchError", {"strides": (2, 1)}), ("ReadOnlyAccessError", {"flags": 0})):
        refuses(error, source, **request_)
        source.tensor.update(mended)
    with accepts(source, **request_):
        pass


# --------------------------------------------------------------------------------------- what arguments have in common


def call(probe, sources, requests, order="adopt"):
    requests = tuple({"name": name, **checks.fields(probe, request)} for name, request in zip("abcdefgh", requests))
    return checks.catch(probe.call, tuple(sources), requests, order, lambda description: len(description["views"]))


@pytest.mark.parametrize("shapes, wishes, refused", [
    ([(3,), (3,)], [(extent(0),)] * 2, None), ([(3,), (4,)], [(extent(0),)] * 2, "b"),
    ([(3, 4), (4, 5), (3, 5)], [(extent(0), extent(1)), (extent(1), extent(2)), (extent(0), extent(2))], None),
    ([(3, 4), (4, 5), (3, 6)], [(extent(0), extent(1)), (extent(1), extent(2)), (extent(0), extent(2))], "c"),
    ([(3,), (0,)], [(extent(0),)] * 2, "b"), ([(0,), (0,)], [(extent(0),)] * 2, None),
    ([(3,), (4,)], [(extent(0),), (extent(1),)], None), ([(3,), (4,), (4,)], [(extent(0),), (0,), (extent(0),)], "c")])
def test_shared_extents(probe, shapes, wishes, refused):
    sources = [shaped(*shape) for shape in shapes]
    result, refusal = call(probe, sources, [{"shape": wish} for wish in wishes])
    if refused is None:
        assert result == len(shapes)
    else:
        assert refusal.type is probe.InvalidShapeError
        assert refusal.message.startswith(f"argument '{refused}': ")


def test_shared_extents_are_those_of_one_call(probe):
    for n in (3, 4):
        result, refusal = call(probe, [shaped(n), shaped(n)], [{"shape": (extent(0),)}] * 2)
        assert refusal is None


@pytest.mark.parametrize("require, first, second, error", [
    ("SAME_SHAPE", {"array": np.zeros((2, 3))}, {"array": np.zeros((2, 3), "f4")}, None),
    ("SAME_SHAPE", {"array": np.zeros((2, 3))}, {"array": np.zeros((3, 2))}, "InvalidShapeError"),
    ("SAME_SHAPE", {"array": np.zeros((2, 3))}, {"array": np.zeros((2, 3, 1))}, "InvalidShapeError"),
    ("SAME_SHAPE", {"array": np.zeros(())}, {"array": np.zeros(())}, None),
    ("SAME_DTYPE", {"array": np.zeros(2, "f4")}, {"array": np.zeros((3, 4), "f4")}, None),
    ("SAME_DTYPE", {"array": np.zeros(2, "f4")}, {"array": np.zeros(2, "f8")}, "DtypeMismatchError"),
    ("SAME_DTYPE", {"array": np.zeros(2, "i4")}, {"array": np.zeros(2, "u4")}, "DtypeMismatchError"),
    ("SAME_SHAPE SAME_DTYPE", {"array": np.zeros(2)}, {"array": np.zeros(2)}, None),
    ("SAME_SHAPE SAME_DTYPE", {"array": np.zeros(2)}, {"array": np.zeros(3)}, "InvalidShapeError")])
def test_same_shape_and_same_dtype(probe, require, first, second, error):
    result, refusal = call(probe, [Interface(**first), Interface(**second)], [{}, {"require": require}])
    if error is None:
        assert result == 2
    else:
        assert refusal.type is getattr(probe, error)
        assert refusal.message.startswith("argument 'b': ")
        assert "the first argument" in refusal.message


@pytest.mark.parametrize("kinds, refused", [("dd", False), ("hh", False), ("dh", True), ("hd", True), ("dm", False)])
def test_same_device(probe, kinds, refused):
    makers = {"d": lambda: Interface(FOUR), "h": lambda: np.arange(4, dtype="f4"),
              "m": lambda: Interface(FOUR, kind="managed")}
    wish = {"memory": "ANYWHERE"}
    result, refusal = call(probe, [makers[kind]() for kind in kinds], [wish, {**wish, "require": "SAME_DEVICE"}])
    if refused:
        assert refusal.type is probe.DeviceMismatchError
        assert refusal.message.startswith("argument 'b': ")
    else:
        assert result == 2


def test_what_the_first_argument_is_asked_to_share_with_itself(accepts):
    with accepts(Interface(FOUR), require="SAME_SHAPE SAME_DTYPE SAME_DEVICE"):
        pass


def test_arguments_on_two_devices(probe):
    sources = [Interface(FOUR, device=0), Interface(FOUR, device=1)]
    _, refusal = call(probe, sources, [{}, {}])
    assert refusal.type is probe.DeviceMismatchError
    assert refusal.message == ("argument 'b': expected an array on CUDA device 0, where argument 'a' is; got one on "
                               "device 1 (producers.Interface via CUDA Array Interface)")


@pytest.mark.parametrize("n, given", [(0, 1), (1, 0), (2, 1), (1, 3)])
def test_the_number_of_arguments(probe, n, given):
    _, refusal = checks.catch(probe.call, (Interface(FOUR),) * given, ({},) * n)
    assert refusal.type is TypeError
    assert refusal.message == f"expected {n} array arguments; got {given}"


# ----------------------------------------------------------------------------------------------------- exact messages


def cupy_array(array=FOUR, **kwargs):
    """An array whose type says that it is CuPy's."""
    return type("ndarray", (DLPack,), {"__module__": "cupy"})(array, **kwargs)


def masked():
    return Interface(FOUR, overrides={"mask": Interface(FOUR > 1)})


def raising(exception):
    def raises(self):
        raise exception("sparse arrays cannot be exported\nC++ trace: ...")

    return type("Sparse", (), {"__module__": "lib.sparse", "__cuda_array_interface__": property(raises)})()


def exchange(**fields):
    kind = type("Tensor", (tables.Array,), {"__module__": "lib", "__dlpack_c_exchange_api__": tables.make_table()})
    return kind(**{"pointer": 4096, "shape": (3,), "dtype": dlpack.FLOAT32, "device": (CUDA, 0), **fields})


CAI = "(producers.Interface via CUDA Array Interface)"

MESSAGES = [
    # The example of the contract comes first.
    pytest.param(
        lambda: cupy_array(tensor={"dtype": dlpack.FLOAT64, "shape": (3, 4), "strides": (1, 3),
                                   "flags": dlpack.READ_ONLY}),
        {"dtype": "float32", "ndim": 2, "require": "C_CONTIGUOUS WRITABLE"}, "DtypeMismatchError",
        "expected float32, 2-d, C-contiguous, writable; got float64, shape (3, 4), strides (1, 3), read-only "
        "(cupy.ndarray via DLPack)", id="dtype"),
    pytest.param(lambda: Interface(FOUR), {"dtypes": ["float64", "int8", "bool"]}, "DtypeMismatchError",
                 f"expected float64, int8 or bool; got float32, shape (4,) {CAI}", id="dtypes"),
    pytest.param(lambda: DLPack(FOUR, tensor={"dtype": (17, 4, 2)}), {}, "DtypeMismatchError",
                 "expected a plain data type; got float4_e2m1fnx2, shape (4,) (producers.DLPack via DLPack)",
                 id="dtype_unusual"),
    pytest.param(lambda: Interface(FOUR, overrides={"typestr": "<V2"}), {"dtype": "bfloat16"}, "DtypeMismatchError",
                 "expected bfloat16; got V2, shape (4,) (bytes without a meaning: bfloat16 and float8 have no typestr, "
                 f"DLPack carries them) {CAI}", id="dtype_opaque"),
    pytest.param(lambda: Interface(FOUR), {"ndim": 2}, "InvalidShapeError",
                 f"expected 2-d; got float32, shape (4,) {CAI}", id="ndim"),
    pytest.param(lambda: Interface(FOUR), {"ndim": SCALAR}, "InvalidShapeError",
                 f"expected 0-d; got float32, shape (4,) {CAI}", id="ndim_scalar"),
    pytest.param(lambda: Interface(FOUR), {"min_ndim": 2, "max_ndim": 3}, "InvalidShapeError",
                 f"expected 2- to 3-d; got float32, shape (4,) {CAI}", id="ndim_range"),
    pytest.param(lambda: Interface(FOUR), {"min_ndim": 2}, "InvalidShapeError",
                 f"expected at least 2-d; got float32, shape (4,) {CAI}", id="ndim_least"),
    pytest.param(lambda: shaped(1, 1, 1), {"max_ndim": 2}, "InvalidShapeError",
                 f"expected at most 2-d; got float32, shape (1, 1, 1) {CAI}", id="ndim_most"),
    pytest.param(lambda: shaped(2, 2), {"ndim": 2, "shape": (0, 3)}, "InvalidShapeError",
                 f"expected 2-d, shape (*, 3); got float32, shape (2, 2) {CAI}", id="shape"),
    pytest.param(lambda: shaped(1, 4), {"ndim": 2, "shape": (extent(0), extent(0))}, "InvalidShapeError",
                 f"expected 2-d, shape (n0=1, n0=1); got float32, shape (1, 4) {CAI}", id="shape_shared"),
    pytest.param(lambda: Interface(FOUR), {"ndim": 1, "shape": (EMPTY_EXTENT,)}, "InvalidShapeError",
                 f"expected 1-d, shape (0,); got float32, shape (4,) {CAI}", id="shape_empty"),
    pytest.param(lambda: Interface(FOUR), {"shape": (5,)}, "InvalidShapeError",
                 f"expected shape (5, ...); got float32, shape (4,) {CAI}", id="shape_of_any_ndim"),
    pytest.param(lambda: Interface(FOUR[:0]), {"require": "NONEMPTY"}, "InvalidShapeError",
                 f"expected not empty; got float32, shape (0,) {CAI}", id="nonempty"),
    pytest.param(lambda: shaped(2, 2, strides=(4, 8)), {"require": "C_CONTIGUOUS"}, "LayoutMismatchError",
                 f"expected C-contiguous; got float32, shape (2, 2), strides (1, 2) {CAI}", id="c_contiguous"),
    pytest.param(lambda: shaped(2, 2), {"require": "F_CONTIGUOUS"}, "LayoutMismatchError",
                 f"expected Fortran-contiguous; got float32, shape (2, 2) {CAI}", id="f_contiguous"),
    pytest.param(lambda: shaped(2, strides=(8,)), {"require": "CONTIGUOUS"}, "LayoutMismatchError",
                 f"expected contiguous; got float32, shape (2,), strides (2,) {CAI}", id="contiguous"),
    pytest.param(lambda: shaped(2, strides=(0,)), {"require": "NO_SELF_OVERLAP"}, "LayoutMismatchError",
                 f"expected no element reached by two indices; got float32, shape (2,), strides (0,) {CAI}",
                 id="self_overlap"),
    pytest.param(lambda: shaped(2, strides=(-4,)), {"require": "NO_NEGATIVE_STRIDES"}, "LayoutMismatchError",
                 f"expected no negative strides; got float32, shape (2,), strides (-1,) {CAI}", id="negative_strides"),
    pytest.param(lambda: DLPack(FOUR, tensor={"pointer": 0x1002, "shape": (3,)}), {}, "LayoutMismatchError",
                 "expected aligned to 4 bytes; got float32, shape (3,), at address 0x1002 "
                 "(producers.DLPack via DLPack)", id="alignment"),
    pytest.param(lambda: Interface(FOUR, readonly=True), {"require": "WRITABLE"}, "ReadOnlyAccessError",
                 f"expected writable; got float32, shape (4,), read-only {CAI}", id="writable"),
    pytest.param(lambda: DLPack(FOUR, legacy=True), {"require": "WRITABLE"}, "ReadOnlyAccessError",
                 "expected writable memory; got a legacy DLPack capsule, which does not say whether it is "
                 "(producers.DLPack via DLPack)", id="writable_legacy"),
    pytest.param(lambda: Interface(FOUR, kind="pinned"), {}, "DeviceMismatchError",
                 f"expected in CUDA or managed memory; got float32, shape (4,), in pinned host memory {CAI}",
                 id="memory"),
    pytest.param(lambda: bytearray(4), {}, "DeviceMismatchError",
                 "expected an array in CUDA or managed memory; got host memory (bytearray via buffer protocol)",
                 id="memory_of_a_buffer"),
    pytest.param(lambda: DLPack(FOUR, announce=(10, 0)), {"memory": "ON_CUDA"}, "DeviceMismatchError",
                 "expected an array in CUDA memory; got device type 10 memory (producers.DLPack via DLPack)",
                 id="memory_announced"),
    pytest.param(lambda: shaped(4, data=(0x1000, False)), {"memory": "ON_CUDA ON_PINNED"}, "DeviceMismatchError",
                 "expected an array in CUDA or pinned host memory; got host memory that CUDA does not know, or freed "
                 f"memory {CAI}", id="memory_unregistered"),
    pytest.param(lambda: 5, {}, "InterfaceNotImplementedError",
                 "expected an array that speaks one of DLPack exchange API, DLPack, CUDA Array Interface, buffer "
                 "protocol; got something that speaks none (int)", id="no_protocol"),
    pytest.param(lambda: 5, {"protocols": "VIA_DLPACK VIA_CUDA_ARRAY_INTERFACE_3"}, "InterfaceNotImplementedError",
                 "expected an array that speaks one of DLPack, CUDA Array Interface version 3; got something that "
                 "speaks none (int)", id="no_protocol_of_those"),
    pytest.param(lambda: raising(RuntimeError), {}, "InterfaceNotImplementedError",
                 "expected an array; its producer raised RuntimeError: sparse arrays cannot be exported "
                 "(lib.sparse.Sparse)", id="producer_raised"),
    pytest.param(lambda: shaped(4, shape=...), {}, "IncompleteInterfaceError", f"'shape' is missing {CAI}",
                 id="missing"),
    pytest.param(lambda: shaped(4, data=5), {}, "IncompleteInterfaceError",
                 f"'data' must be a pair (address, read-only) {CAI}", id="wrong_form"),
    pytest.param(lambda: shaped(4, data=(0, False)), {}, "IncompleteInterfaceError",
                 f"a NULL pointer for an array that has elements {CAI}", id="null"),
    pytest.param(lambda: shaped(4, version=-1), {}, "InvalidVersionError",
                 f"'version' must not be negative; it is -1 {CAI}", id="version"),
    pytest.param(lambda: shaped(4, version=2), {"protocols": "VIA_CUDA_ARRAY_INTERFACE_3"}, "InvalidVersionError",
                 f"expected version 3 of the interface; got version 2 {CAI}", id="version_3"),
    pytest.param(lambda: DLPack(FOUR, tensor={"version": (2, 5)}), {}, "InvalidVersionError",
                 "DLPack version 2.5 cannot be read; this is version 1.3 (producers.DLPack via DLPack)",
                 id="version_of_dlpack"),
    pytest.param(lambda: shaped(4, typestr="<d8"), {}, "InvalidTypestrError",
                 "typestr '<d8' does not parse: expected a byte order (< > | =), a kind and a size in bytes "
                 f"{CAI}", id="typestr"),
    pytest.param(lambda: shaped(4, typestr="<M8[ns]"), {}, "UnknownDtypeError",
                 f"typestr '<M8[ns]': kind 'M' of this size has no data type here {CAI}", id="typestr_unknown"),
    pytest.param(lambda: DLPack(FOUR, tensor={"dtype": (99, 8, 1)}), {}, "UnknownDtypeError",
                 "unknown data type: code 99, 8 bits, 1 lanes (producers.DLPack via DLPack)", id="dtype_unknown"),
    pytest.param(lambda: shaped(4, typestr=">f4"), {}, "EndiannessDetectionError",
                 f"typestr '>f4' is in the other byte order than this machine ('<') {CAI}", id="byte_order"),
    pytest.param(lambda: shaped(-3), {}, "InvalidShapeError", f"the extent of dimension 0 is negative: -3 {CAI}",
                 id="extent"),
    pytest.param(lambda: shaped(2**40, 2**40), {}, "InvalidShapeError",
                 f"the size in bytes of this shape does not fit 63 bits {CAI}", id="overflow"),
    pytest.param(lambda: shaped(*(1,) * 65), {}, "InvalidShapeError",
                 f"the number of dimensions must be 0 to 64: it is 65 {CAI}", id="dimensions"),
    pytest.param(lambda: shaped(4, strides=(6,)), {}, "InvalidStridesError",
                 f"the stride of dimension 0, 6 bytes, is no multiple of the item size, 4 {CAI}", id="strides"),
    pytest.param(lambda: shaped(4, strides=(4, 4)), {}, "InvalidStridesError",
                 f"2 strides for 1 dimensions {CAI}", id="strides_number"),
    pytest.param(lambda: shaped(3, strides=(2**62,)), {}, "InvalidStridesError",
                 "these shape and strides reach beyond the address space, or 63 bits, from the first element "
                 f"{CAI}", id="strides_overflow"),
    pytest.param(masked, {}, "MaskedArrayError", f"expected an array without a mask; got one with a mask {CAI}",
                 id="mask"),
    pytest.param(lambda: np.ma.array([1.0]), {"memory": "ON_HOST"}, "MaskedArrayError",
                 "expected an array without a mask; got a masked array: pass array.filled() or array.data "
                 f"({np.ma.MaskedArray.__module__}.MaskedArray via buffer protocol)", id="mask_of_numpy"),
    pytest.param(lambda: shaped(4, stream=-1), {}, "InvalidStreamError",
                 f"'stream' must be None or an integer from 1 to 64 bits without sign {CAI}", id="stream"),
    pytest.param(lambda: Managed(4096, (1,)).capsule("used_dltensor"), {}, "InvalidCapsuleError",
                 'expected a capsule named "dltensor" or "dltensor_versioned"; got "used_dltensor", which has been '
                 "consumed already (PyCapsule via DLPack)", id="capsule"),
    pytest.param(lambda: exchange(shape=(3,), dtype=(2, 16, 1)), {"dtype": "float32"}, "DtypeMismatchError",
                 "expected float32; got float16, shape (3,) (lib.Tensor via DLPack exchange API)", id="exchange"),
]


@pytest.mark.parametrize("make, request_, error, message", MESSAGES)
def test_whole_messages(refuses, make, request_, error, message):
    assert refuses(error, make(), **request_).message == f"argument 'x': {message}"


def test_whole_message_of_a_failing_cuda_call(refuses):
    source = Interface(FOUR)
    emulated.fail("cudaPointerGetAttributes", code=1)
    refusal = refuses("CudaCallError", source)
    assert refusal.message.startswith("argument 'x': cudaPointerGetAttributes failed: cudaErrorInvalidValue (1): ")
    assert refusal.message.endswith(f" {CAI}")
    assert (refusal.code, refusal.name) == (1, "cudaErrorInvalidValue")


def test_whole_message_of_a_capture(refuses):
    producer, consumer = emulated.create_stream(), emulated.create_stream()
    source = DLPack(FOUR, stream=producer)
    emulated.begin_capture(consumer)
    refusal = refuses("StreamCaptureError", source, consumer)
    assert source.asked == []
    assert refusal.message == (
        f"argument 'x': stream {consumer:#x} captures a graph, and this producer does not tell its stream, so that "
        "ordering it would break the capture: use cai_order_none() if the data is complete "
        "(producers.DLPack via DLPack)")
    emulated.end_capture(consumer)


def test_whole_messages_of_what_arguments_share(probe):
    both = [Interface(np.zeros((2, 3), "f4")), Interface(np.zeros(5, "i8"))]
    for require, error, wish in (("SAME_SHAPE", "InvalidShapeError", "the shape of the first argument (2, 3)"),
                                 ("SAME_DTYPE", "DtypeMismatchError", "the dtype of the first argument (float32)")):
        _, refusal = call(probe, both, [{}, {"require": require}])
        assert refusal.type is getattr(probe, error)
        assert refusal.message == f"argument 'b': expected {wish}; got int64, shape (5,) {CAI}"
    _, refusal = call(probe, [shaped(3), shaped(4)], [{"ndim": 1, "shape": (extent(0),)}] * 2)
    assert refusal.message == f"argument 'b': expected 1-d, shape (n0=3,); got float32, shape (4,) {CAI}"


def test_messages_of_long_argument_names(refuses):
    name = "x" * 300
    message = refuses("InvalidShapeError", Interface(FOUR), name=name, ndim=2).message
    assert name in message and message.endswith(CAI)


def test_messages_of_many_dimensions(refuses):
    shape = tuple(range(1, 12)) + (1,) * 53
    message = refuses("DtypeMismatchError", shaped(*shape), dtype="int8").message
    assert str(shape) in message and message.endswith(CAI)


def test_messages_of_types_with_odd_names(probe):
    for name, module in (("T" * 500, "m" * 500), ("Caf\u00e9", "\u4e2d\u6587"), ("%s%n", "%d")):
        kind = type(name, (), {"__module__": module})
        _, refusal = checks.catch(probe.acquire, kind())
        assert refusal.type is probe.InterfaceNotImplementedError
        if len(name) < 50:
            assert refusal.message.endswith(f"({module}.{name})")
    kind = type("Nameless", (), {"__module__": None})
    assert checks.catch(probe.acquire, kind())[1].message.endswith("(Nameless)")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("exception, words", [
    (RuntimeError("first line\nsecond line"), "RuntimeError: first line ("), (RuntimeError(""), "RuntimeError:  ("),
    (RuntimeError("%s %n %d"), "RuntimeError: %s %n %d ("), (RuntimeError("caf\u00e9"), "RuntimeError: caf\u00e9 ("),
    (RuntimeError("\udc80"), "RuntimeError: "), (KeyError("name"), "KeyError: 'name' ("),
    (RuntimeError(), "RuntimeError"), (RuntimeError("x" * 5000), "RuntimeError: xxx"), (Unspeakable(), "Unspeakable"),
    (OSError(2, "gone"), "FileNotFoundError")])
def test_messages_with_what_a_producer_raised(probe, exception, words):
    def raises(self):
        raise exception

    source = type("Array", (), {"__module__": "lib", "__cuda_array_interface__": property(raises)})()
    _, refusal = checks.catch(probe.acquire, source, "adopt", {"name": "x"})
    assert refusal.type is probe.InterfaceNotImplementedError
    assert refusal.cause is type(exception)
    assert words in refusal.message
    assert refusal.message.endswith("(lib.Array)") and "\n" not in refusal.message


# --------------------------------------------------------------------------------------------------- exception classes

CLASSES = {
    "INTERFACE_NOT_IMPLEMENTED": ("InterfaceNotImplementedError", TypeError),
    "INCOMPLETE_INTERFACE": ("IncompleteInterfaceError", ValueError),
    "INVALID_VERSION": ("InvalidVersionError", BufferError),
    "INVALID_TYPESTR": ("InvalidTypestrError", ValueError),
    "UNKNOWN_DTYPE": ("UnknownDtypeError", BufferError),
    "ENDIANNESS_DETECTION": ("EndiannessDetectionError", ValueError),
    "DTYPE_MISMATCH": ("DtypeMismatchError", TypeError),
    "INVALID_SHAPE": ("InvalidShapeError", ValueError),
    "INVALID_STRIDES": ("InvalidStridesError", ValueError),
    "LAYOUT_MISMATCH": ("LayoutMismatchError", ValueError),
    "READ_ONLY_ACCESS": ("ReadOnlyAccessError", BufferError),
    "DEVICE_MISMATCH": ("DeviceMismatchError", ValueError),
    "MASKED_ARRAY": ("MaskedArrayError", ValueError),
    "INVALID_STREAM": ("InvalidStreamError", ValueError),
    "STREAM_CAPTURE": ("StreamCaptureError", RuntimeError),
    "INVALID_CAPSULE": ("InvalidCapsuleError", ValueError),
    "MISSING_DELETER": ("MissingDeleterError", ValueError),
    "OBJECT_OWNERSHIP": ("ObjectOwnershipError", RuntimeError),
    "UNREG_CUDA_TYPE": ("UnRegCudaTypeError", TypeError),
    "CUDA_CALL": ("CudaCallError", RuntimeError),
}


@pytest.mark.parametrize("status", CLASSES)
def test_classes_of_the_contract(probe, status):
    name, base = CLASSES[status]
    kind = getattr(probe, name)
    assert kind.__bases__ == (probe.CAIError, base)
    assert kind.__name__ == name
    assert kind.__module__ == probe.__name__
    assert kind.__doc__
    _, refusal = checks.catch(probe.raise_status, getattr(probe, f"ERROR_{status}"), "some text")
    assert (refusal.type, refusal.message, refusal.causes) == (kind, "some text", [])


def test_every_status_has_a_class_of_the_contract(probe):
    statuses = {name[len("ERROR_"):] for name in dir(probe) if name.startswith("ERROR_")}
    assert statuses == {*CLASSES, "MEMORY"}
    assert probe.CAIError.__bases__ == (Exception,)


def test_memory_error_is_python_s_own(probe):
    _, refusal = checks.catch(probe.raise_status, probe.ERROR_MEMORY, "unused")
    assert refusal.type is MemoryError


def test_arguments_before_a_refused_one_are_given_back(probe):
    managed = [DLPack(FOUR), DLPack(FOUR), Interface(FOUR, overrides={"shape": None})]
    before = [sys.getrefcount(item) for item in managed]
    _, refusal = call(probe, managed, [{}] * 3)
    assert refusal.type is probe.IncompleteInterfaceError
    assert refusal.message.startswith("argument 'c': ")
    assert set(itertools.chain(managed[0].deletions, managed[1].deletions)) <= {1}
    assert [sys.getrefcount(item) for item in managed] == before


def test_objects_that_only_look_like_arrays(refuses):
    for value in ([1, 2], (1.0,), {"shape": (1,)}, "text", 1j, types.SimpleNamespace(shape=(1,), dtype="f4")):
        refuses("InterfaceNotImplementedError", value)


def test_memory_of_a_producer_outlives_the_refusal(refuses):
    memory = Memory(FOUR)
    source = DLPack(FOUR, tensor={"pointer": memory.pointer})
    refuses("InvalidShapeError", source, ndim=5)
    assert memory.numpy().tolist() == FOUR.tolist()
