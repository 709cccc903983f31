"""What a module remembers and raises: exception classes, several modules and interpreters, and the end of a module."""

import gc
import importlib
import importlib.util
import pickle
import re
import sys
import types
import weakref

import numpy as np
import pytest

import author_view
import checks
import children
import emulated
import probe
import probe_host
import producers
import pycai

# The contract: the class of each status, and the builtin that it also derives from.
CLASSES = {
    "InterfaceNotImplementedError": TypeError,
    "IncompleteInterfaceError": ValueError,
    "InvalidVersionError": BufferError,
    "InvalidTypestrError": ValueError,
    "UnknownDtypeError": BufferError,
    "EndiannessDetectionError": ValueError,
    "DtypeMismatchError": TypeError,
    "InvalidShapeError": ValueError,
    "InvalidStridesError": ValueError,
    "LayoutMismatchError": ValueError,
    "ReadOnlyAccessError": BufferError,
    "DeviceMismatchError": ValueError,
    "MaskedArrayError": ValueError,
    "InvalidStreamError": ValueError,
    "StreamCaptureError": RuntimeError,
    "InvalidCapsuleError": ValueError,
    "MissingDeleterError": ValueError,
    "ObjectOwnershipError": RuntimeError,
    "UnRegCudaTypeError": TypeError,
    "CudaCallError": RuntimeError,
}


def status_of(name):
    """The number of a class' status: CudaCallError is that of ERROR_CUDA_CALL, UnRegCudaTypeError of ERROR_UNREG_…"""
    words = re.findall("[A-Z][a-z]*", name[:-len("Error")])
    constant = {"UnRegCudaTypeError": "ERROR_UNREG_CUDA_TYPE"}.get(name) or "ERROR_" + "_".join(words).upper()
    return getattr(probe, constant)


STATUSES = {name: status_of(name) for name in CLASSES}
MODULES = [probe, probe_host, pycai]


@pytest.fixture
def fresh():
    """A probe with a state of its own."""
    return checks.load("probe")


def caught(function, *arguments):
    try:
        function(*arguments)
    except BaseException as exception:
        return exception
    raise AssertionError("nothing was raised")


# ---------------------------------------------------------------------------------------------------------- the classes


@pytest.mark.parametrize("name, base", CLASSES.items())
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_exception_classes_are_those_of_the_contract(module, name, base):
    exception = getattr(module, name)
    assert exception.__bases__ == (module.CAIError, base)
    assert (exception.__name__, exception.__qualname__, exception.__module__) == (name, name, module.__name__)
    assert exception.__doc__.endswith(".") and "\n" not in exception.__doc__


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_one_base_for_all_exceptions(module):
    assert issubclass(module.CAIError, Exception)
    assert not issubclass(module.CAIError, (TypeError, ValueError, RuntimeError, BufferError))
    assert module.CAIError.__module__ == module.__name__
    assert module.CAIError.__doc__


def test_no_class_beside_those_of_the_contract():
    classes = {name: value for name, value in vars(probe).items() if isinstance(value, type)}
    found = {name for name, value in classes.items() if issubclass(value, BaseException)}
    assert found == {*CLASSES, "CAIError"}
    assert len(set(STATUSES.values())) == len(CLASSES) == 20


def test_each_class_documents_something_else():
    assert len({getattr(probe, name).__doc__ for name in CLASSES}) == len(CLASSES)


def test_the_classes_of_two_modules_are_different():
    for name in [*CLASSES, "CAIError"]:
        assert getattr(probe, name) is not getattr(probe_host, name)
        assert not issubclass(getattr(probe, name), probe_host.CAIError)


# ---------------------------------------------------------------------------------------------------------- cai_raise


@pytest.mark.parametrize("name", CLASSES)
def test_cai_raise_for_every_status(name):
    raised = caught(probe.raise_status, STATUSES[name], "what went wrong")
    assert type(raised) is getattr(probe, name)
    assert (str(raised), raised.args) == ("what went wrong", ("what went wrong",))
    assert (raised.__cause__, raised.__context__) == (None, None)
    assert isinstance(raised, CLASSES[name]) and isinstance(raised, probe.CAIError)


def test_cai_raise_for_memory():
    raised = caught(probe.raise_status, probe.ERROR_MEMORY, "out of memory")
    assert type(raised) is MemoryError
    assert not isinstance(raised, probe.CAIError)


@pytest.mark.parametrize("code, name", [(700, "cudaErrorIllegalAddress"), (1, "cudaErrorInvalidValue"), (0, None)])
def test_cuda_call_error_has_code_and_name(code, name):
    raised = caught(probe.raise_status, probe.ERROR_CUDA_CALL, "a call failed", code, name)
    assert (raised.code, raised.name) == (code, name or "")
    assert type(raised.code) is int and type(raised.name) is str


def test_other_errors_have_no_code():
    raised = caught(probe.raise_status, probe.ERROR_INVALID_SHAPE, "a shape", 700, "cudaErrorIllegalAddress")
    assert not hasattr(raised, "code")


def test_a_cuda_error_of_a_real_call_has_code_and_name():
    emulated.fail("cudaPointerGetAttributes", 1, 719)
    raised = caught(probe.acquire, producers.Interface(np.zeros(1, "f4")), "adopt", {})
    assert (type(raised), raised.code, raised.name) == (probe.CudaCallError, 719, "cudaErrorLaunchFailure")
    assert "cudaPointerGetAttributes" in str(raised) and "719" in str(raised) and "'x'" in str(raised)


@pytest.mark.parametrize("message", ["", "grün, 緑", "100 % of %s", "x" * 1000],
                         ids=["empty", "unicode", "format", "long"])
def test_messages_come_through(message):
    assert str(caught(probe.raise_status, probe.ERROR_INVALID_SHAPE, message)) == message


def test_a_message_that_is_too_long_is_cut_and_says_so():
    text = str(caught(probe.raise_status, probe.ERROR_INVALID_SHAPE, "x" * 5000))
    assert len(text) == 1023 and text.endswith("x...")


def test_a_message_that_is_cut_in_the_middle_of_a_character_is_still_text():
    for start in range(4):
        text = str(caught(probe.raise_status, probe.ERROR_INVALID_SHAPE, "x" * start + "緑" * 2000))
        assert text.endswith("...") and "緑" in text


# --------------------------------------------------------------------------------------------------------- cause chains


class Raising:
    """An object whose protocols raise what they are told to."""

    def __init__(self, interface=None, capsule=None):
        self.interface, self.capsule = interface, capsule

    @property
    def __cuda_array_interface__(self):
        if self.interface is None:
            raise AttributeError("__cuda_array_interface__")
        raise self.interface

    @property
    def __dlpack__(self):
        if self.capsule is None:
            raise AttributeError("__dlpack__")
        raise self.capsule


def test_the_producers_own_exception_is_the_cause():
    first = RuntimeError("the first line\nand a second")
    raised = caught(probe.acquire, Raising(interface=first), "adopt", {"name": "array"})
    assert type(raised) is probe.InterfaceNotImplementedError
    assert raised.__cause__ is first
    assert raised.__suppress_context__
    assert "'array'" in str(raised) and "RuntimeError: the first line" in str(raised) and "second" not in str(raised)


def test_the_first_of_several_exceptions_is_the_cause():
    first, second = RuntimeError("interface"), BufferError("capsule")
    raised = caught(probe.acquire, Raising(first, second), "adopt", {})
    assert raised.__cause__ is first


def test_the_producers_traceback_is_kept():
    raised = caught(probe.acquire, Raising(interface=RuntimeError("here")), "adopt", {})
    assert raised.__cause__.__traceback__.tb_frame.f_code.co_name == "__cuda_array_interface__"


def test_the_conversion_that_failed_is_the_cause_of_a_refusal():
    raised = caught(probe.acquire, producers.Interface(np.zeros(2, "f4"), overrides={"shape": ("two",)}), "adopt", {})
    assert type(raised) is probe.IncompleteInterfaceError
    assert isinstance(raised.__cause__, TypeError)


@pytest.mark.parametrize("final", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), MemoryError("no more")],
                         ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("where", ["interface", "capsule"])
def test_what_is_no_exception_comes_through_as_it_is(final, where):
    assert caught(probe.acquire, Raising(**{where: final}), "adopt", {}) is final
    assert final.__cause__ is None


def test_an_exception_that_cannot_be_printed():
    class Unprintable(Exception):
        def __str__(self):
            raise ValueError

    cause = Unprintable()
    raised = caught(probe.acquire, Raising(interface=cause), "adopt", {})
    assert raised.__cause__ is cause
    assert "Unprintable" in str(raised)


# -------------------------------------------------------------------------------------------------------- registration


def test_a_base_class_of_the_modules_own(fresh):
    class OurError(LookupError):
        pass

    target = types.ModuleType("target")
    fresh.register_exceptions(target, OurError)
    for name, base in CLASSES.items():
        assert getattr(target, name).__bases__ == (OurError, base)
        assert getattr(target, name).__module__ == "target"
    assert not hasattr(target, "CAIError")
    raised = caught(fresh.acquire, object(), "adopt", {})
    assert type(raised) is target.InterfaceNotImplementedError
    assert isinstance(raised, OurError)


@pytest.mark.parametrize("published", [["CudaCallError"], ["InvalidShapeError", "DeviceMismatchError"], list(CLASSES)],
                         ids=["one", "two", "all"])
def test_a_subset_is_published_and_all_are_raised(published, fresh):
    target = types.ModuleType("target")
    fresh.register_exceptions(target, None, sum(1 << STATUSES[name] for name in published))
    assert {name for name in vars(target) if name.endswith("Error")} == {*published, "CAIError"}
    for name, base in CLASSES.items():
        raised = caught(fresh.raise_status, STATUSES[name], "message")
        assert (type(raised).__name__, type(raised).__bases__) == (name, (target.CAIError, base))


def test_classes_that_the_module_has_already_are_raised(fresh):
    class OurShapeError(Exception):
        pass

    target = types.ModuleType("target")
    mapping = {STATUSES["InvalidShapeError"]: OurShapeError, STATUSES["DtypeMismatchError"]: KeyError}
    fresh.register_exceptions(target, None, 0, mapping)
    assert type(caught(fresh.raise_status, STATUSES["InvalidShapeError"], "message")) is OurShapeError
    assert type(caught(fresh.raise_status, STATUSES["DtypeMismatchError"], "message")) is KeyError
    assert type(caught(fresh.raise_status, STATUSES["InvalidStridesError"], "message")) is target.InvalidStridesError
    assert target.InvalidShapeError is OurShapeError


@pytest.mark.parametrize("base", [None, LookupError])
def test_a_mapped_cuda_error_gets_code_and_name_too(base, fresh):
    class OurCudaError(Exception):
        pass

    fresh.register_exceptions(types.ModuleType("target"), base, 0, {STATUSES["CudaCallError"]: OurCudaError})
    raised = caught(fresh.raise_status, STATUSES["CudaCallError"], "message", 700, "cudaErrorIllegalAddress")
    assert (type(raised), raised.code, raised.name) == (OurCudaError, 700, "cudaErrorIllegalAddress")


@pytest.mark.parametrize("wrong", [object(), int, "Error", ValueError("an instance"), None],
                         ids=["object", "int", "str", "instance", "None"])
def test_a_wrong_mapping_is_a_type_error(wrong, fresh):
    with pytest.raises(TypeError, match="InvalidShapeError.*exception class"):
        fresh.register_exceptions(types.ModuleType("target"), None, 0, {STATUSES["InvalidShapeError"]: wrong})
    raised = caught(fresh.raise_status, STATUSES["InvalidStridesError"], "message")
    assert isinstance(raised, ValueError)  # whatever was registered, something fitting is raised


@pytest.mark.parametrize("wrong", [object(), int, "Error", ValueError("an instance")],
                         ids=["object", "int", "str", "instance"])
def test_a_wrong_base_is_a_type_error(wrong, fresh):
    target = types.ModuleType("target")
    with pytest.raises(TypeError, match="base.*exception class"):
        fresh.register_exceptions(target, wrong)
    assert not [name for name in vars(target) if name.endswith("Error")]


def test_registering_again_replaces_the_classes(fresh, unchanged):
    first, second = types.ModuleType("first"), types.ModuleType("second")
    fresh.register_exceptions(first)
    fresh.register_exceptions(second)
    assert type(caught(fresh.raise_status, STATUSES["InvalidShapeError"], "message")) is second.InvalidShapeError
    dies = weakref.ref(first.InvalidShapeError)
    del first
    gc.collect()
    assert dies() is None


def test_a_mapped_class_that_refuses_its_argument(fresh):
    class Picky(Exception):
        def __init__(self):
            raise LookupError("no arguments, please")

    fresh.register_exceptions(types.ModuleType("target"), None, 0, {STATUSES["InvalidShapeError"]: Picky})
    with pytest.raises((LookupError, TypeError)):
        fresh.raise_status(STATUSES["InvalidShapeError"], "message")


# author_view registers nothing: the builtins are raised.
UNREGISTERED = [
    (lambda: (object(), object(), object()), TypeError),
    (lambda: (producers.Interface(np.zeros(1, "f4"), overrides={"data": 3}),) * 3, ValueError),
    (lambda: (producers.Interface(np.zeros(1, "f4"), overrides={"version": -1}),) * 3, BufferError),
    (lambda: (producers.Interface(np.zeros(1, "f4"), overrides={"typestr": "<f"}),) * 3, ValueError),
    (lambda: (producers.Interface(np.zeros(1, ">f4")),) * 3, ValueError),
    (lambda: (producers.Interface(np.zeros(1, "f8")),) * 3, TypeError),
    (lambda: (producers.Interface(np.zeros((1, 1), "f4")),) * 3, ValueError),
    (lambda: (producers.Interface(np.zeros(2, "f4"), overrides={"strides": (3,)}),) * 3, ValueError),
    (lambda: (producers.Interface(np.zeros(1, "f4"), readonly=True),) * 3, BufferError),
    (lambda: (np.zeros(1, "f4"),) * 3, ValueError),
    (lambda: (producers.Interface(np.zeros(1, "f4"), overrides={"stream": -1}),) * 3, ValueError),
    (lambda: (producers.Interface(np.zeros(1, "f4"), overrides={"mask": object()}),) * 3, ValueError),
]


@pytest.mark.parametrize("arguments, base", UNREGISTERED, ids=[
    "no-interface", "incomplete", "version", "typestr", "byte-order", "dtype", "shape", "strides", "read-only", "host",
    "stream", "mask"])
def test_a_module_that_never_registered_raises_the_builtins(arguments, base):
    raised = caught(author_view.saxpy, *arguments())
    assert type(raised) is base
    assert "argument 's'" in str(raised)


def test_a_module_that_never_registered_has_no_classes():
    assert not [name for name in vars(author_view) if name.endswith("Error")]


def test_a_cuda_error_of_a_module_that_never_registered():
    emulated.fail("cudaPointerGetAttributes", 1, 719)
    raised = caught(author_view.saxpy, *(producers.Interface(np.zeros(1, "f4")),) * 3)
    assert type(raised) is RuntimeError
    assert "719" in str(raised)
    assert (raised.code, raised.name) == (719, "cudaErrorLaunchFailure")


def test_exceptions_can_be_pickled():
    """As exceptions of worker processes are."""
    raised = caught(probe.raise_status, STATUSES["InvalidShapeError"], "message")
    again = pickle.loads(pickle.dumps(raised))
    assert (type(again), again.args) == (type(raised), raised.args)


# ----------------------------------------------------------------------------------------------- modules and their ends


@pytest.mark.parametrize("name", ["probe", "probe_host", "author_view", "pycai"])
def test_a_second_import_is_the_same_module(name):
    assert importlib.import_module(name) is sys.modules[name]


@pytest.mark.parametrize("name", ["probe", "probe_host", "pycai"])
def test_a_module_that_is_made_anew_has_a_state_of_its_own(name):
    first, second = checks.load(name), checks.load(name)
    for class_name in [*CLASSES, "CAIError"]:
        assert getattr(first, class_name) is not getattr(second, class_name)
    function = "acquire" if name != "pycai" else "saxpy"
    arguments = (object(), "adopt", {}) if name != "pycai" else (object(),) * 3
    for module in (first, second):
        assert type(caught(getattr(module, function), *arguments)) is module.InterfaceNotImplementedError


def test_a_module_outlives_the_first_one():
    first, second = checks.load("probe"), checks.load("probe")
    given = producers.Interface(np.zeros(1, "f4"))
    view = first.acquire(given, "adopt", {})
    second.acquire(given, "adopt", {}).release()
    del second
    gc.collect()
    view.release()
    assert first.acquire(given, "adopt", {}).describe()["pointer"] == given.pointer


@pytest.mark.parametrize("name", ["probe", "probe_host", "author_view", "pycai"])
def test_reloading_a_module_is_harmless(name):
    before = set(vars(sys.modules[name]))
    module = importlib.reload(sys.modules[name])
    assert set(vars(module)) == before
    if name != "author_view":
        assert type(caught(getattr(module, "saxpy" if name == "pycai" else "acquire"), *(object(),) * 3
                           if name == "pycai" else (object(), "adopt", {}))) is module.InterfaceNotImplementedError


def test_importing_again_after_removal():
    before = sys.modules.pop("probe")
    try:
        again = importlib.import_module("probe")
        assert again is not before
        assert type(caught(again.acquire, object())) is again.InterfaceNotImplementedError
        assert type(caught(before.acquire, object())) is before.InterfaceNotImplementedError
    finally:
        sys.modules["probe"] = before


@pytest.mark.parametrize("name", ["probe", "probe_host", "author_view", "pycai"])
@pytest.mark.parametrize("cycle", [False, True])
def test_a_module_is_collected(name, cycle):
    """pitfall 58: what its state holds is visible to the garbage collector."""
    module = checks.load(name)
    dies = [weakref.ref(module)]
    if name != "author_view":
        dies.append(weakref.ref(module.CAIError))
    if cycle:
        class OfTheModule(producers.Interface):
            """A type that the cache remembers and that refers to the module: a cycle through the state."""

        OfTheModule.module = module
        given = OfTheModule(np.zeros(1, "f4"))
        dies.append(weakref.ref(OfTheModule))
        if name.startswith("probe"):
            module.acquire(given, "none", {"memory": module.ON_CUDA}).release()
        elif name == "pycai":
            module.saxpy(given, given, given)
        else:
            module.saxpy(given, given, given)
        emulated.run_all()
        del given, OfTheModule
    del module
    gc.collect()
    assert [ref() for ref in dies] == [None] * len(dies)


def test_a_view_keeps_what_it_needs_of_its_module():
    module = checks.load("probe")
    given = producers.Interface(np.zeros(1, "f4"), stream=emulated.PER_THREAD)
    view = module.acquire(given, emulated.LEGACY, {})
    del module
    gc.collect()
    assert view.describe()["pointer"] == given.pointer
    assert view.release() == "OK"


def test_an_exception_outlives_its_module():
    module = checks.load("probe")
    raised = caught(module.raise_status, STATUSES["CudaCallError"], "message", 700, "cudaErrorIllegalAddress")
    del module
    raised.__traceback__ = None
    gc.collect()
    assert (str(raised), raised.code, type(raised).__name__) == ("message", 700, "CudaCallError")


def test_a_module_that_was_never_executed_is_harmless():
    """Its state is there, zeroed; Python clears and frees it all the same."""
    spec = importlib.util.find_spec("probe")
    module = importlib.util.module_from_spec(spec)
    gc.collect()
    del module
    gc.collect()


def test_nothing_is_imported():
    """numpy, torch and the others are known only where somebody else has imported them."""
    children.run("""
        import sys
        import probe_host
        before = set(sys.modules)
        probe_host.acquire(bytearray(4), "adopt", {"memory": probe_host.ON_HOST}).release()
        try:
            probe_host.acquire(object(), "adopt", {})
        except TypeError:
            pass
        assert set(sys.modules) == before, set(sys.modules) - before
    """)


# ------------------------------------------------------------------------------------------------------- interpreters

# Runs the code in its second argument in a new interpreter, with a GIL of its own or not, three times.
INTERPRETERS = """
    import sys

    def run_3_11(code, own):
        import _xxsubinterpreters as interpreters
        made = interpreters.create(isolated=False)
        interpreters.run_string(made, code)
        interpreters.destroy(made)

    def run_3_12(code, own):
        if not own:
            return run_3_11(code, own)
        import _testcapi
        assert _testcapi.run_in_subinterp_with_config(
            code, use_main_obmalloc=False, allow_fork=False, allow_exec=False, allow_threads=True,
            allow_daemon_threads=False, check_multi_interp_extensions=True, gil=2) == 0

    def run_3_13(code, own):
        import _interpreters as interpreters
        made = interpreters.create("isolated" if own else "legacy")
        failed = interpreters.exec(made, code)
        assert failed is None, failed.formatted
        interpreters.destroy(made)

    run = run_3_13 if sys.version_info >= (3, 13) else run_3_12 if sys.version_info >= (3, 12) else run_3_11
    exec(sys.argv[2])
    before = module.CAIError
    for turn in range(3):
        run(sys.argv[2], sys.argv[1] == "own")
        assert module.CAIError is before
    exec(sys.argv[2])
"""

USES = {
    "probe_host": """
import gc
import probe_host as module
data, kept = bytearray(b"abcd"), []
for turn in range(3):
    kept.append(module.acquire(data, "adopt", {"memory": module.ON_HOST}))
    assert kept[0].describe()["shape"] == (4,)
    module.acquire(data, "adopt", {"memory": module.ON_HOST}).release()
    try:
        module.acquire(object(), "adopt", {})
    except TypeError as error:
        assert type(error) is module.InterfaceNotImplementedError
gc.collect()
""",
    "pycai": """
import gc
import pycai as module
from array import array
s, x, y = array("f", [0, 0]), array("f", [1, 2]), array("f", [3, 4])
module.saxpy(s, x, y)
assert s.tolist() == [5, 8]
try:
    module.saxpy(s, x, object())
except TypeError as error:
    assert type(error) is module.InterfaceNotImplementedError
gc.collect()
""",
}


@pytest.mark.parametrize("module", USES)
@pytest.mark.parametrize("gil", [
    "shared",
    pytest.param("own", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="one GIL for all before 3.12"))])
def test_pitfall_61_subinterpreters(module, gil):
    """Each has a state of its own; one that ends takes nothing of the others with it."""
    if gil == "own" and sys.version_info < (3, 13):
        pytest.importorskip("_testcapi", reason="Python 3.12 makes such interpreters in its test module alone")
    children.run(INTERPRETERS, gil, USES[module])


def test_pitfall_61_interpreters_side_by_side():
    """Two live at once, and their modules know nothing of each other."""
    children.run("""
        import children
        import probe_host

        first = chr(10).join([
            'import probe_host',
            'data = bytearray(8)',
            'view = probe_host.acquire(data, "adopt", {"memory": probe_host.ON_HOST})'])
        second = chr(10).join([
            'assert view.describe()["shape"] == (8,)',
            'assert view.object() is data',
            'assert view.release() == "OK"',
            'data.append(1)'])
        one, two = children.Interpreter(), children.Interpreter()
        one.run(first)
        two.run(first)
        view = probe_host.acquire(bytearray(8), "adopt", {"memory": probe_host.ON_HOST})
        one.run(second)
        one.destroy()
        assert view.release() == "OK"
        two.run(second)
        two.destroy()
    """)
