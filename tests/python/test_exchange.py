"""Arrays in by DLPack's C exchange API: tables in every state, and the libraries that have one."""

import ctypes
import sys
import types
import warnings
import weakref

import numpy as np
import pytest

import checks
import dlpack
import emulated
import tables
from dlpack import CPU, CUDA, CUDA_HOST, MANAGED
from producers import DLPack, Interface, Memory

pytestmark = pytest.mark.filterwarnings("error")

SIX = np.arange(6, dtype="f4").reshape(2, 3)
NAME = "__dlpack_c_exchange_api__"
OLD_NAME = "__c_dlpack_exchange_api__"


@pytest.fixture(autouse=True)
def stream():
    """What current_work_stream answers, NULL unless a test says otherwise; asked for nothing yet."""
    tables.set_stream(0)
    yield
    tables.set_stream(0)


def array_type(attribute=None, base=tables.Array, **table):
    """A type of arrays with a table, or with something else in the table's place."""
    return type("Array", (base,), {NAME: tables.make_table(**table) if attribute is None else attribute})


def make(kind, array=SIX, memory_kind="device", on=0, **fields):
    """An array of a type of tables.Array, in memory of its own on that device."""
    memory = Memory(array, memory_kind, on)
    device = {"device": (CUDA, on), "managed": (MANAGED, 0), "pinned": (CUDA_HOST, 0)}[memory_kind]
    defaults = {"pointer": memory.pointer, "shape": array.shape, "dtype": dlpack.FLOAT32, "device": device}
    made = kind(**{**defaults, **fields})
    if hasattr(made, "__dict__"):
        made.memory = memory
    return made


def counts(lent=0, owned=0, deleted=0):
    return {"lent": lent, "owned": owned, "deleted": deleted}


# ------------------------------------------------------------------------------------------------------- what is read


def test_every_field_of_the_view(accepts, probe):
    handle = emulated.create_stream()
    tables.set_stream(handle)
    source = make(array_type())
    with accepts(source) as view:
        assert (view.shape, view.strides, view.size, view.dtype) == ((2, 3), (3, 1), 6, "float32")
        assert (view.device, view.stream, view.flags) == ((CUDA, 0), handle, probe.HAS_STREAM)
        assert (view.pointer, view.protocol) == (source.memory.pointer, probe.VIA_EXCHANGE)
        assert (view.mask, view.descr) == (None, None)
        assert np.array_equal(checks.read(view), SIX)
        assert source.counts() == counts(owned=1)
    assert source.counts() == counts(owned=1, deleted=1)


def test_layouts(accepts):
    for fields, expected in (({"strides": (1, 2)}, SIX.ravel()[[0, 2, 4, 1, 3, 5]].reshape(2, 3)),
                             ({"shape": (3,), "byte_offset": 8}, [2, 3, 4]),
                             ({"shape": (2, 2), "strides": (0, -2), "byte_offset": 20}, [[5, 3], [5, 3]]),
                             ({"shape": ()}, 0), ({"shape": (0, 3), "pointer": 0}, np.empty((0, 3))),
                             ({"null_strides": True}, SIX)):
        with accepts(make(array_type(), **fields)) as view:
            assert np.array_equal(checks.read(view), expected)
            assert view.byte_offset == 0


@pytest.mark.parametrize("fields, error", [
    ({"pointer": 0}, "IncompleteInterfaceError"), ({"shape": (-1,)}, "InvalidShapeError"),
    ({"shape": (2**62, 4)}, "InvalidShapeError"), ({"shape": (3,), "strides": (2**61,)}, "InvalidStridesError"),
    ({"dtype": (99, 8, 1)}, "UnknownDtypeError"), ({"dtype": (2, 32, 0)}, "UnknownDtypeError"),
    ({"dtype": (2, 32, 4)}, "DtypeMismatchError"), ({"byte_offset": 2}, "LayoutMismatchError"),
    ({"byte_offset": 2**64 - 4}, "InvalidStridesError"), ({"device": (CPU, 0)}, "DeviceMismatchError"),
    ({"device": (10, 0)}, "DeviceMismatchError"), ({"major": 2}, "InvalidVersionError"),
    ({"major": 0}, "InvalidVersionError")])
def test_tensors_that_are_refused_are_deleted_once(refuses, fields, error):
    source = make(array_type(), **fields)
    refuses(error, source, match="DLPack exchange API")
    assert source.counts() == counts(owned=1, deleted=1)


def test_pitfall_28_a_deleter_of_null(accepts, refuses):
    with accepts(make(array_type(), null_deleter=True)) as view:
        assert np.array_equal(checks.read(view), SIX)
    refuses("InvalidShapeError", make(array_type(), null_deleter=True), ndim=1)


@pytest.mark.parametrize("kind, expected", [("device", CUDA), ("managed", MANAGED), ("pinned", CUDA_HOST)])
def test_kinds_of_memory(accepts, refuses, kind, expected):
    bit = {"device": "ON_CUDA", "managed": "ON_MANAGED", "pinned": "ON_PINNED"}[kind]
    with accepts(make(array_type(), SIX, kind), memory=bit) as view:
        assert view.device == (expected, 0)
    others = " ".join({"ON_CUDA", "ON_MANAGED", "ON_PINNED", "ON_HOST"} - {bit})
    refuses("DeviceMismatchError", make(array_type(), SIX, kind), memory=others)


@pytest.mark.parametrize("current", [0, 1])
def test_managed_memory_has_the_device_of_its_pointer(accepts, current):
    source = make(array_type(), SIX, "managed", 1)
    with emulated.current_device(current), accepts(source) as view:
        assert view.device == (MANAGED, 1)


# ------------------------------------------------------------------------------------------- the attribute on the type


def capsule_of(name):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(0x1000, name, None)


NOT_TABLES = [
    pytest.param(None, id="none"), pytest.param(0, id="zero"), pytest.param(id(tables), id="integer"),
    pytest.param("dlpack_exchange_api", id="text"), pytest.param(object(), id="object"),
    pytest.param(property(lambda self: tables.make_table()), id="property"),
    pytest.param(staticmethod(tables.make_table), id="function"),
    pytest.param(capsule_of(b"dltensor"), id="capsule_of_another_name"),
    pytest.param(capsule_of(b"used_dlpack_exchange_api"), id="capsule_that_is_used"),
    pytest.param(capsule_of(None), id="capsule_without_a_name"),
]


def with_attribute(value, **more):
    return type("Array", (tables.Array,), {NAME: value, **more})


@pytest.mark.parametrize("value", NOT_TABLES)
def test_pitfall_62_whatever_is_no_capsule_of_the_name_is_no_table(accepts, refuses, probe, value):
    source = make(with_attribute(value))
    assert refuses("InterfaceNotImplementedError", source).causes == []
    beside = Interface(SIX)
    source = make(with_attribute(value, __cuda_array_interface__=beside.__cuda_array_interface__))
    with accepts(source) as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
    assert source.counts() == counts()


@pytest.mark.parametrize("value", [tables.make_table(), 12345, None])
def test_pitfall_62_the_old_spelling_is_ignored(refuses, value):
    source = make(type("Old", (tables.Array,), {OLD_NAME: value}))
    refuses("InterfaceNotImplementedError", source)
    assert source.counts() == counts()


class Meta(type):
    """A metaclass that sees every look-up of a table on its types."""

    looks = 0
    raises = None

    def __getattribute__(cls, name):
        if name == NAME:
            Meta.looks += 1
            if Meta.raises is not None:
                raise Meta.raises("own")
        return super().__getattribute__(name)


@pytest.fixture
def meta():
    Meta.looks, Meta.raises = 0, None
    yield Meta
    Meta.raises = None


@pytest.mark.parametrize("exception", [RuntimeError, KeyError, AttributeError, TypeError])
def test_pitfall_62_a_look_up_that_raises_finds_no_table(accepts, meta, exception):
    kind = meta("Array", (Interface,), {NAME: tables.make_table()})
    meta.raises = exception
    with accepts(kind(SIX)) as view:
        assert np.array_equal(checks.read(view), SIX)


def test_pitfall_62_a_look_up_that_raises_is_the_cause_where_nothing_else_works(refuses, meta):
    source = make(meta("Array", (tables.Array,), {NAME: tables.make_table()}))
    meta.raises = RuntimeError
    refuses("InterfaceNotImplementedError", source, cause=RuntimeError)


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt])
def test_final_exceptions_of_a_look_up_end_the_attempt(refuses, meta, exception):
    source = meta("Array", (Interface,), {NAME: tables.make_table()})(SIX)
    meta.raises = exception
    refuses(exception.__name__, source)
    assert source.fetches == 0


def test_pitfall_63_the_instance_is_not_asked(accepts, refuses):
    source = make(type("Plain", (tables.Array,), {}))
    setattr(source, NAME, tables.make_table())
    refuses("InterfaceNotImplementedError", source)
    assert source.counts() == counts()


def test_pitfall_63_proxies_do_not_pass_on_what_is_not_theirs(accepts, probe):
    behind = make(array_type())

    class Proxy:
        def __getattr__(self, name):
            return getattr(behind, name)

    _, refusal = checks.catch(probe.acquire, Proxy())
    assert refusal.type is probe.InterfaceNotImplementedError
    assert behind.counts() == counts()


def test_pitfall_63_subclasses_inherit_a_table_and_can_give_it_up(accepts, refuses):
    base = array_type()
    with accepts(make(type("Derived", (base,), {}))) as view:
        assert np.array_equal(checks.read(view), SIX)
    source = make(type("Without", (base,), {NAME: None}))
    refuses("InterfaceNotImplementedError", source)
    assert source.counts() == counts()


def test_pitfall_63_what_is_remembered_is_remembered_per_exact_type(accepts, meta):
    base = meta("Base", (tables.Array,), {NAME: tables.make_table()})
    derived = meta("Derived", (base,), {NAME: tables.make_table(tells_stream=False)})
    tables.set_stream(emulated.PER_THREAD)
    for _ in range(3):
        with accepts(make(base)) as view:
            assert view.stream == emulated.PER_THREAD
        with accepts(make(derived)) as view:
            assert view.stream == emulated.LEGACY
    assert meta.looks == 2  # once for each type


def test_pitfall_63_a_type_without_a_table_is_remembered_too(accepts, meta):
    kind = meta("Plain", (Interface,), {})
    for _ in range(3):
        with accepts(kind(SIX)):
            pass
    assert meta.looks == 1


def test_pitfall_63_a_remembered_type_lives_as_long_as_the_module(probe):
    module = checks.load(probe.__name__)
    kind = array_type()
    assert module.acquire(make(kind)).release() == "OK"
    gone = weakref.ref(kind)
    del kind
    emulated.run_all()  # its instance is given back late
    checks.measure([])
    assert gone() is not None  # its address must not become that of another type
    del module
    checks.measure([])
    assert gone() is None


def test_pitfall_63_many_types(accepts):
    for number in range(150):
        with accepts(make(array_type()) if number % 2 else Interface(SIX)) as view:
            assert np.array_equal(checks.read(view), SIX)


@pytest.mark.parametrize("exception", [BufferError, RuntimeError, ValueError, KeyError])
def test_pitfall_63_a_table_that_fails_does_not_hide_another_protocol(accepts, probe, exception):
    for beside, protocol in ((DLPack(SIX), probe.VIA_DLPACK), (Interface(SIX), probe.VIA_CUDA_ARRAY_INTERFACE)):
        names = ("__dlpack__", "__dlpack_device__") if type(beside) is DLPack else ("__cuda_array_interface__",)
        forwards = {name: getattr(beside, name) for name in names}
        forwards = {name: staticmethod(value) if callable(value) else value for name, value in forwards.items()}
        source = make(type("Array", (array_type(),), forwards), raises=exception("own"))
        view = probe.acquire(source)
        assert view.describe()["protocol"] == protocol
        assert view.release() == "OK"
        assert source.counts() == counts(owned=1)


# --------------------------------------------------------------------------------------------------- the table itself


def test_pitfall_64_the_chain_is_walked_to_our_version(accepts):
    ours = tables.make_table()
    for chain in ((2,), (9, 2), (5, 4, 3, 2)):
        table = ours
        for major in reversed(chain):
            table = tables.make_table(major=major, previous=table, lends=False, owns=False, tells_stream=False)
        with accepts(make(array_type(table))) as view:
            assert np.array_equal(checks.read(view), SIX)


@pytest.mark.parametrize("majors", [(0,), (2,), (3, 2), (2, 0)])
def test_pitfall_64_a_chain_without_our_version_is_no_table(refuses, majors):
    table = None
    for major in reversed(majors):
        table = tables.make_table(major=major, previous=table)
    source = make(array_type(table))
    refuses("InterfaceNotImplementedError", source)
    assert source.counts() == counts()


@pytest.mark.parametrize("lends", [False, True])
@pytest.mark.parametrize("owns", [False, True])
@pytest.mark.parametrize("tells_stream", [False, True])
def test_pitfall_64_members_of_null(accepts, refuses, probe, lends, owns, tells_stream):
    tables.set_stream(emulated.PER_THREAD)
    source = make(array_type(lends=lends, owns=owns, tells_stream=tells_stream))
    if not owns:
        refuses("InterfaceNotImplementedError", source)
        assert source.counts() == counts()
        return
    with accepts(source) as view:
        assert view.flags == (probe.HAS_STREAM if tells_stream else probe.STREAM_UNKNOWN)
        assert view.stream == (emulated.PER_THREAD if tells_stream else emulated.LEGACY)
    assert source.counts() == counts(owned=1, deleted=1)


def test_pitfall_64_a_table_without_functions_does_not_hide_another_protocol(accepts, probe):
    interface = Interface(SIX).__cuda_array_interface__
    kind = type("Array", (array_type(lends=False, owns=False),), {"__cuda_array_interface__": interface})
    with accepts(make(kind)) as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("exception", [BufferError, RuntimeError, ValueError, AttributeError, NotImplementedError])
def test_pitfall_67_the_producers_exception_becomes_the_cause(refuses, exception):
    kind = array_type()
    error = exception("own")
    source = make(kind, raises=error)
    refusal = refuses("InterfaceNotImplementedError", source, cause=exception)
    assert exception.__name__ in refusal.message and "own" in refusal.message
    assert source.counts() == counts(owned=1)


def test_pitfall_67_a_failure_without_an_exception(refuses):
    source = make(array_type(), fail_silently=True)
    refusal = refuses("InterfaceNotImplementedError", source, cause=RuntimeError)
    assert "managed_tensor_from_py_object_no_sync" in refusal.message
    assert source.counts() == counts(owned=1)


@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt, SystemExit])
def test_final_exceptions_of_a_table_end_the_attempt(refuses, exception):
    beside = DLPack(SIX)
    kind = type("Array", (array_type(),), {"__dlpack__": lambda self, **keywords: beside.__dlpack__(**keywords),
                                           "__dlpack_device__": lambda self: beside.__dlpack_device__()})

    def fail():
        raise exception("own")

    source = make(kind, during=fail)
    assert refuses(exception.__name__, source).args == ("own",)
    assert beside.asked == []


# ------------------------------------------------------------------------------------------------- read-only, streams


def test_pitfall_35_read_only_comes_from_the_owning_call(accepts, refuses, probe):
    source = make(array_type(), flags=dlpack.READ_ONLY)
    with accepts(source) as view:
        assert view.flags & probe.READONLY
    refuses("ReadOnlyAccessError", source, require="WRITABLE TRUST_LEGACY", match="read-only")
    assert source.counts() == counts(owned=2, deleted=2)
    with accepts(make(array_type()), require="WRITABLE") as view:
        assert not view.flags & probe.READONLY


@pytest.mark.parametrize("lends", [False, True])
def test_pitfall_35_tables_that_lend_are_asked_for_an_owned_tensor(accepts, lends):
    source = make(array_type(lends=lends))
    with accepts(source):
        assert source.counts() == counts(owned=1)


@pytest.mark.parametrize("flags, expected", [(0, 0), (dlpack.IS_COPIED, "COPIED"), (dlpack.PADDED, "SUBBYTE_PADDED"),
                                             (2**64 - 8, 0)])
def test_pitfall_47_flags(accepts, probe, flags, expected):
    with accepts(make(array_type(), flags=flags)) as view:
        assert view.flags & ~probe.STREAM_UNKNOWN == (getattr(probe, expected) if expected else 0)


@pytest.mark.parametrize("handle, stream", [(1, 1), (2, 2), ("stream", "stream")])
def test_pitfall_66_a_stream_that_is_told(accepts, probe, handle, stream):
    value = emulated.create_stream() if handle == "stream" else handle
    tables.set_stream(value)
    with accepts(make(array_type())) as view:
        assert (view.stream, view.flags) == (value, probe.HAS_STREAM)


def test_pitfall_66_null_from_others_than_torch_is_unknown(accepts, probe):
    tables.set_stream(0)
    with accepts(make(array_type())) as view:
        assert (view.stream, view.flags) == (emulated.LEGACY, probe.STREAM_UNKNOWN)


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("current", [0, 1])
def test_pitfall_66_the_stream_of_the_arrays_device_is_asked_for(accepts, device, current):
    tables.set_stream(emulated.create_stream(device=device))
    with emulated.current_device(current), accepts(make(array_type(), on=device)) as view:
        assert view.device == (CUDA, device)
        assert tables.asked_for() == (1, CUDA, device)


def test_pitfall_66_pinned_memory_has_the_work_of_the_current_device(accepts):
    tables.set_stream(emulated.create_stream(device=1))
    with emulated.current_device(1), accepts(make(array_type(), SIX, "pinned"), memory="ON_PINNED"):
        assert tables.asked_for() == (1, CUDA, 1)


def test_pitfall_66_host_memory_has_no_stream(accepts):
    array = np.arange(6, dtype="f4")
    source = array_type()(array.ctypes.data, (6,), dlpack.FLOAT32)
    emulated.clear_calls()
    with accepts(source, memory="ON_HOST") as view:
        assert (view.device, view.stream, view.flags) == ((CPU, 0), 0, 0)
        assert np.array_equal(checks.read(view), array)
    assert tables.asked_for()[0] == 0


def test_pitfall_66_a_stream_that_cannot_be_told(accepts, refuses, probe):
    tables.set_stream(-1)
    source = make(array_type())
    refusal = refuses("InterfaceNotImplementedError", source, cause=RuntimeError, match="no stream today")
    assert source.counts() == counts(owned=1, deleted=1)
    kind = type("Array", (array_type(),), {"__cuda_array_interface__": Interface(SIX).__cuda_array_interface__})
    source = make(kind)
    with accepts(source) as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
    assert source.counts() == counts(owned=1, deleted=1)
    assert refusal.causes == [(RuntimeError, "no stream today")]


def test_pitfall_66_the_stream_is_asked_for_once_per_table_and_device(probe):
    kind = array_type()
    arrays = tuple(make(kind) for _ in range(3))
    tables.set_stream(emulated.PER_THREAD)
    probe.call(arrays, ({},) * 3, "adopt", lambda call: None)
    assert tables.asked_for()[0] == 1


def test_pitfall_66_shape_and_strides_are_copied_and_the_object_is_kept(probe):
    source = make(array_type(), null_deleter=True)
    gone = weakref.ref(source)
    view = probe.acquire(source)
    before = view.describe()
    source.set_pointer(0xDEAD)
    assert view.describe() == before
    del source
    checks.measure([])
    assert view.object() is gone()
    assert view.release() == "OK"
    emulated.run_all()  # it is given back late
    checks.measure([])
    assert gone() is None


# --------------------------------------------------------------------------------------- a table that lends, as torch's


@pytest.fixture
def torch_type(monkeypatch):
    """Makes what torch.Tensor is to the library: a type whose table lends. Attributes as given; asked ones in `log`."""

    def make_type(log=(), **settings):
        log = log if isinstance(log, list) else []
        answers = {"requires_grad": False, "is_conj": False, "is_neg": False}
        answers.update({key: settings.pop(key) for key in list(settings) if key in answers})

        def answer(name):
            value = answers[name]
            log.append(name)
            if isinstance(value, type) and issubclass(value, BaseException):
                raise value("own")
            return value() if callable(value) else value

        kind = type("Tensor", (tables.Array,), {
            NAME: tables.make_table(**settings), "log": log,
            "requires_grad": property(lambda self: answer("requires_grad")),
            "is_conj": lambda self: answer("is_conj"), "is_neg": lambda self: answer("is_neg")})
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(Tensor=kind))
        return kind

    return make_type


def lent_or_owned(probe, n=1, deleted=0):
    """A free-threaded build owns what it would borrow elsewhere."""
    return counts(owned=n, deleted=deleted) if probe.FREE_THREADED else counts(lent=n)


def test_torchs_table_lends(accepts, probe, torch_type):
    source = make(torch_type())
    with accepts(source, require="WRITABLE") as view:
        assert source.counts() == lent_or_owned(probe)
        assert np.array_equal(checks.read(view), SIX)
        assert view.flags == probe.HAS_STREAM
    assert source.counts() == lent_or_owned(probe, deleted=1)


def test_pitfall_66_null_from_torch_is_the_legacy_stream(accepts, probe, torch_type):
    tables.set_stream(0)
    with accepts(make(torch_type())) as view:
        assert (view.stream, view.flags) == (emulated.LEGACY, probe.HAS_STREAM)


def test_pitfall_64_a_torch_table_that_tells_no_stream(accepts, probe, torch_type):
    with accepts(make(torch_type(tells_stream=False))) as view:
        assert (view.stream, view.flags) == (emulated.LEGACY, probe.STREAM_UNKNOWN)


@pytest.mark.parametrize("lends, owns", [(True, False), (False, True), (True, True)])
def test_pitfall_64_torch_tables_with_one_of_the_two_calls(accepts, torch_type, lends, owns):
    source = make(torch_type(lends=lends, owns=owns))
    with accepts(source) as view:
        assert np.array_equal(checks.read(view), SIX)


def test_pitfall_64_a_torch_table_with_neither_call(refuses, torch_type):
    refuses("InterfaceNotImplementedError", make(torch_type(lends=False, owns=False)))


def test_pitfall_63_subclasses_of_torchs_type_are_lent_too(accepts, probe, torch_type):
    source = make(type("Parameter", (torch_type(),), {}))
    with accepts(source, require="WRITABLE"):
        assert source.counts() == lent_or_owned(probe)


def test_pitfall_63_a_subclass_with_a_table_of_its_own_is_somebody_else(accepts, refuses, torch_type):
    kind = type("Other", (torch_type(),), {NAME: tables.make_table()})
    source = make(kind, flags=dlpack.READ_ONLY)
    with accepts(source):
        assert source.counts() == counts(owned=1)
    refuses("ReadOnlyAccessError", source, require="WRITABLE")


def test_somebody_elses_type_is_not_torchs_because_torch_is_there(accepts, torch_type):
    torch_type()
    source = make(array_type())
    with accepts(source):
        assert source.counts() == counts(owned=1)


@pytest.mark.parametrize("module", [None, 5, types.SimpleNamespace(), types.SimpleNamespace(Tensor=None),
                                    types.SimpleNamespace(Tensor="Tensor")])
def test_a_module_of_torchs_name_that_is_not_torch(accepts, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "torch", module)
    source = make(array_type())
    with accepts(source):
        assert source.counts() == counts(owned=1)


def test_tensors_that_require_gradients_are_inputs_only(accepts, refuses, probe, torch_type):
    source = make(torch_type(requires_grad=True))
    with accepts(source) as view:
        assert np.array_equal(checks.read(view), SIX)
    refusal = refuses("ReadOnlyAccessError", source, require="WRITABLE", match="requires grad")
    assert "detach" in refusal.message
    assert refuses("ReadOnlyAccessError", source, require="WRITABLE TRUST_LEGACY").type is probe.ReadOnlyAccessError


COMPLEX = np.arange(3).astype("c8")


@pytest.mark.parametrize("shape", [(3,), (1,), ()])
@pytest.mark.parametrize("name", ["is_conj", "is_neg"])
def test_lazily_conjugated_complex_tensors_are_refused(refuses, probe, torch_type, shape, name):
    source = make(torch_type(**{name: True}), COMPLEX, shape=shape, dtype=dlpack.COMPLEX64)
    refusal = refuses("LayoutMismatchError", source)
    assert ("resolve_conj" if name == "is_conj" else "resolve_neg") in refusal.message


def test_plain_complex_tensors_are_read(accepts, torch_type):
    log = []
    with accepts(make(torch_type(log), COMPLEX, dtype=dlpack.COMPLEX64)) as view:
        assert np.array_equal(checks.read(view), COMPLEX)
    assert "is_conj" in log


@pytest.mark.parametrize("shape, strides", [((3,), (2,)), ((2, 3), (1, 2)), ((1,), (1,)), ((), ()), ((1, 1), (9, 9))])
def test_lazily_negated_real_tensors_are_refused(accepts, refuses, torch_type, shape, strides):
    source = make(torch_type(is_neg=True), shape=shape, strides=strides)
    assert "resolve_neg" in refuses("LayoutMismatchError", source).message
    log = []
    with accepts(make(torch_type(log), shape=shape, strides=strides)):
        assert "is_neg" in log


@pytest.mark.parametrize("name, request_, fields", [
    ("requires_grad", {"require": "WRITABLE"}, {}), ("is_neg", {}, {"shape": (3,), "strides": (2,)}),
    ("is_conj", {}, {"dtype": dlpack.COMPLEX64, "shape": (2,)})])
@pytest.mark.parametrize("exception", [RuntimeError, KeyError, AttributeError])
def test_questions_to_a_tensor_that_raise(refuses, torch_type, name, request_, fields, exception):
    source = make(torch_type(**{name: exception}), **fields)
    refuses("InterfaceNotImplementedError", source, cause=exception, **request_)


@pytest.mark.parametrize("name, request_, fields", [
    ("requires_grad", {"require": "WRITABLE"}, {}), ("is_neg", {}, {"shape": (3,), "strides": (2,)}),
    ("is_conj", {}, {"dtype": dlpack.COMPLEX64, "shape": (2,)})])
@pytest.mark.parametrize("exception", [MemoryError, KeyboardInterrupt])
def test_questions_to_a_tensor_that_end_the_attempt(refuses, torch_type, name, request_, fields, exception):
    refuses(exception.__name__, make(torch_type(**{name: exception}), **fields), **request_)


@pytest.mark.parametrize("name, request_, fields", [
    ("requires_grad", {"require": "WRITABLE"}, {}), ("is_neg", {}, {"shape": (3,), "strides": (2,)}),
    ("is_neg", {}, {"shape": ()}), ("is_conj", {}, {"dtype": dlpack.COMPLEX64, "shape": (2,)})])
def test_pitfall_66_a_tensor_that_moves_when_it_is_asked(accepts, torch_type, name, request_, fields):
    other = Memory(SIX + 10)
    source = None

    def move():
        source.set_pointer(other.pointer)
        return False

    source = make(torch_type(**{name: move}), **fields)
    with accepts(source, **request_) as view:
        assert view.pointer == other.pointer


def test_pitfall_66_lent_tensors_are_looked_at_after_everything_that_runs_python(probe, torch_type):
    other = Memory(SIX + 10)
    lent = make(torch_type())

    class Mover(Interface):
        @property
        def __cuda_array_interface__(self):
            lent.set_pointer(other.pointer)
            return super().__cuda_array_interface__

    for arguments in ((lent, Mover(SIX)), (Mover(SIX), lent), (lent, Mover(SIX), lent)):
        lent.set_pointer(lent.memory.pointer)
        seen = probe.call(arguments, ({},) * len(arguments), "adopt", lambda call: call["views"])
        for argument, view in zip(arguments, seen):
            if argument is lent:
                assert view["pointer"] == other.pointer


def test_pitfall_66_lent_tensors_are_looked_at_again_after_a_wait(accepts, torch_type):
    """The kernel that is waited for runs while the GIL is released: any thread may move the tensor meanwhile."""
    other = Memory(SIX + 10)
    producer = emulated.create_stream()
    tables.set_stream(producer)
    source = make(torch_type())
    emulated.launch(producer, lambda: source.set_pointer(other.pointer))
    with accepts(source, "block") as view:
        assert view.pointer == other.pointer
        assert np.array_equal(checks.read(view), SIX + 10)


# -------------------------------------------------------------------------------------------------- real producers


@pytest.fixture
def torch():
    torch = checks.need("torch")
    if not hasattr(torch.Tensor, NAME):
        pytest.skip("this torch has no exchange table")
    return torch


@pytest.mark.parametrize("name", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
                                  "float16", "float32", "float64", "bfloat16", "complex64", "complex128",
                                  "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.PER_THREAD])
def test_torch_tensors_of_every_type(accepts, probe, torch, name, order):
    tensor = torch.ones(2, 3).to(getattr(torch, name))
    with accepts(tensor, order, memory="ON_HOST", require="WRITABLE") as view:
        assert (view.dtype, view.shape, view.strides) == (name, (2, 3), (3, 1))
        assert (view.pointer, view.device, view.flags) == (tensor.data_ptr(), (CPU, 0), 0)
        assert view.protocol == probe.VIA_EXCHANGE


@pytest.mark.parametrize("order", ["adopt", "block", "none", emulated.PER_THREAD])
def test_torch_tensors_on_the_host_need_no_cuda_call(probe, torch, order):
    tensor = torch.ones(3)
    emulated.clear_calls()
    view = probe.acquire(tensor, order, {"memory": probe.ON_HOST})
    assert view.release() == "OK"
    assert emulated.call_names() == []


def torch_layouts(torch):
    base = torch.arange(24.0).reshape(2, 3, 4)
    return {"plain": base, "transposed": base.mT, "sliced": base[:, 1:, ::2], "scalar": base.sum(), "empty": base[:0],
            "expanded": base[:, :, :1].expand(2, 3, 5), "offset": base.flatten()[5:], "unsqueezed": base[None, :, None]}


@pytest.mark.parametrize("name", ["plain", "transposed", "sliced", "scalar", "empty", "expanded", "offset",
                                  "unsqueezed"])
def test_torch_tensors_of_every_layout(accepts, torch, name):
    tensor = torch_layouts(torch)[name]
    with accepts(tensor, memory="ON_HOST") as view:
        assert view.shape == tuple(tensor.shape)
        assert np.array_equal(checks.read(view), tensor.numpy())


def test_pitfall_63_torch_subclasses(accepts, refuses, torch):
    class Own(torch.Tensor):
        pass

    for tensor in (torch.ones(3).as_subclass(Own), torch.nn.Parameter(torch.ones(3), requires_grad=False)):
        with accepts(tensor, memory="ON_HOST", require="WRITABLE") as view:
            assert checks.read(view).tolist() == [1, 1, 1]
    parameter = torch.nn.Parameter(torch.ones(3))
    with accepts(parameter, memory="ON_HOST") as view:
        assert checks.read(view).tolist() == [1, 1, 1]
    refuses("ReadOnlyAccessError", parameter, memory="ON_HOST", require="WRITABLE")


def lazy_tensors(torch):
    numbers = torch.tensor([1 + 2j, 3 + 4j, 5 + 6j])
    return {"conjugated": numbers.conj(), "conjugated_slice": numbers.conj()[1:], "negated": numbers.conj().imag,
            "negated_element": numbers.conj().imag[:1], "negated_scalar": numbers.conj().imag[0],
            "negated_transposed": numbers.reshape(1, 3).conj().imag.T}


@pytest.mark.parametrize("name", ["conjugated", "conjugated_slice", "negated", "negated_element", "negated_scalar",
                                  "negated_transposed"])
def test_torch_tensors_whose_memory_holds_other_values(accepts, refuses, torch, name):
    tensor = lazy_tensors(torch)[name]
    refuses("LayoutMismatchError", tensor, memory="ON_HOST")
    resolved = tensor.resolve_conj().resolve_neg()
    with accepts(resolved, memory="ON_HOST") as view:
        assert np.array_equal(checks.read(view), resolved.numpy())


def test_torch_tensors_whose_memory_holds_their_values(accepts, torch):
    numbers = torch.tensor([1 + 2j, 3 + 4j])
    for tensor in (numbers, numbers.imag, numbers.real, numbers.conj().resolve_conj(), numbers.conj().real,
                   numbers[:1].imag):
        with accepts(tensor, memory="ON_HOST") as view:
            assert np.array_equal(checks.read(view), tensor.numpy())


@pytest.mark.parametrize("name", ["sparse", "meta", "quantized", "nested"])
def test_torch_tensors_that_torch_does_not_export(refuses, torch, name):
    dense = torch.ones(2, 3)
    makers = {"sparse": lambda: dense.to_sparse(), "meta": lambda: dense.to("meta"),
              "quantized": lambda: torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
              "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = makers[name]()
    refuses(("InterfaceNotImplementedError", "DeviceMismatchError"), tensor, memory="ON_HOST")


def test_pitfall_63_torch_tensors_without_storage(probe, torch):
    fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor", reason="this torch has no fake tensors")
    with fake_tensor.FakeTensorMode():
        tensor = torch.empty(3)
    view, refusal = checks.catch(probe.acquire, tensor, "adopt", {"memory": probe.ON_HOST})
    assert view is None
    assert issubclass(refusal.type, probe.CAIError)


def test_torch_tensors_are_kept_alive(probe, torch):
    tensor = torch.ones(3)
    gone = weakref.ref(tensor)
    view = probe.acquire(tensor, "adopt", {"memory": probe.ON_HOST})
    del tensor
    assert view.object() is gone()
    assert view.release() == "OK"
    checks.measure([])
    assert gone() is None


def strided_memory_view():
    checks.need("cuda.core")
    from cuda.core.utils import StridedMemoryView

    if not hasattr(StridedMemoryView, NAME):
        pytest.skip("this cuda.core has no exchange table")
    return StridedMemoryView


def test_cuda_core_views(accepts, probe):
    array = np.arange(6, dtype="f4").reshape(2, 3)
    for part in (array, array.T, array[:, ::2], array[0], array[:0]):
        source = strided_memory_view().from_dlpack(part, stream_ptr=-1)
        with accepts(source, memory="ON_HOST", require="WRITABLE") as view:
            assert view.protocol == probe.VIA_EXCHANGE
            assert np.array_equal(checks.read(view), part)


def test_pitfall_35_cuda_core_views_of_read_only_arrays(accepts, refuses, probe):
    array = np.arange(6, dtype="f4")
    array.flags.writeable = False
    source = strided_memory_view().from_dlpack(array, stream_ptr=-1)
    with accepts(source, memory="ON_HOST") as view:
        assert view.flags & probe.READONLY
    refuses("ReadOnlyAccessError", source, memory="ON_HOST", require="WRITABLE")


def test_tvm_ffi_tensors(accepts, probe):
    tvm_ffi = checks.need("tvm_ffi")
    array = np.arange(6, dtype="f4").reshape(2, 3)
    tensor = tvm_ffi.from_dlpack(array)
    if not hasattr(type(tensor), NAME):
        pytest.skip("this tvm_ffi has no exchange table")
    with accepts(tensor, memory="ON_HOST") as view:
        assert view.protocol == probe.VIA_EXCHANGE
        assert np.array_equal(checks.read(view), array)
