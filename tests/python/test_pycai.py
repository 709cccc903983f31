"""The example module pycai: saxpy over the emulator and over host memory, against NumPy."""

import array
import ctypes
import inspect
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dlpack
import emulated
import loans
import producers
import pycai
import tables

DTYPES = ["f4", "f8"]


@pytest.fixture(autouse=True)
def torch():
    tables.set_stream(emulated.LEGACY)
    with loans.torch_imported():
        yield


def block(values):
    """The bytes between an array's lowest and its highest element, and where among them the first element is."""
    if values.size == 0:
        return b"", 0
    spans = [(extent - 1) * stride for extent, stride in zip(values.shape, values.strides)]
    low = sum(span for span in spans if span < 0)
    high = sum(span for span in spans if span > 0) + values.itemsize
    return ctypes.string_at(values.ctypes.data + low, high - low), -low


class Device:
    """A copy of a NumPy array in emulated memory, in the same layout: what saxpy is given, and what it left there.

    `inside` is a block of memory and the NumPy array that it was made of, of which `values` is a part.
    """

    def __init__(self, values, kind="device", device=0, stream=None, protocol="interface", inside=None, **fields):
        self.values, self.device, self.stream = values, device, stream
        if inside is None:
            data, self.offset = block(values)
            self.memory = producers.Memory(np.frombuffer(data, "u1"), kind, device)
        else:
            self.memory, self.offset = inside[0], values.ctypes.data - inside[1].ctypes.data
        self.pointer = self.memory.pointer + self.offset
        self.array = getattr(self, f"_{protocol}")(**fields)

    def _interface(self, **fields):
        fields = {"data": (self.pointer, False), "shape": self.values.shape, "strides": self.values.strides,
                  "typestr": self.values.dtype.str, "stream": self.stream, "version": 3, **fields}
        return type("Array", (), {"__cuda_array_interface__": fields})()

    def _dlpack(self, **fields):
        itemsize = self.values.itemsize
        fields = {"pointer": self.pointer, "shape": self.values.shape, "device": (dlpack.CUDA, self.device),
                  "strides": [stride // itemsize for stride in self.values.strides],
                  "dtype": (2, 8 * itemsize, 1), **fields}
        return dlpack.Managed(**fields).capsule()

    def _tensor(self):
        strides = tuple(stride // self.values.itemsize for stride in self.values.strides)
        return loans.Tensor(self.pointer, self.values.shape, (2, 8 * self.values.itemsize, 1),
                            (dlpack.CUDA, self.device), strides)

    def result(self):
        """What the memory holds, in the array's layout."""
        return with_layout(self.values, self.memory.numpy().tobytes(), self.offset)


def with_layout(values, data, offset):
    if values.size == 0:
        return np.empty(values.shape, values.dtype)
    return np.ndarray(values.shape, values.dtype, bytearray(data), offset, values.strides)


def on_host(values):
    """A copy in NumPy with the same layout."""
    return with_layout(values, *block(values))


def numbers(shape, dtype="f4", start=0):
    return (np.arange(np.prod(shape, dtype=int)) + start).astype(dtype).reshape(shape)


KINDS = {"cuda": ("device", 0), "managed": ("managed", 0), "cuda-1": ("device", 1)}
PLACES = ["host", *KINDS]


def run(where, s, x, y, *factor, **named):
    """saxpy in that kind of memory: what s holds afterwards. x and y must be unchanged."""
    if where == "host":
        arrays = [on_host(values) for values in (s, x, y)]
        pycai.saxpy(*arrays, *factor, **named)
        results = arrays
    else:
        devices = [Device(values, *KINDS[where]) for values in (s, x, y)]
        pycai.saxpy(*(one.array for one in devices), *factor, **named)
        emulated.run_all()
        results = [one.result() for one in devices]
    assert np.array_equal(results[1], x, equal_nan=True) and np.array_equal(results[2], y, equal_nan=True)
    return results[0]


# --------------------------------------------------------------------------------------------------------- the values


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_saxpy_computes(where, dtype):
    s, x, y = np.zeros(5, dtype), numbers(5, dtype), numbers(5, dtype, 10)
    assert run(where, s, x, y).tolist() == (2 * x + y).tolist()


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("shape", [
    (), (1,), (7,), (1, 1, 1), (2, 3), (3, 1, 2), (2, 3, 4, 5), (2,) * 8, (1,) * 31 + (3,), (3, 5, 7), (99,)], ids=str)
def test_saxpy_of_any_shape(where, shape):
    s, x, y = np.zeros(shape, "f4"), numbers(shape), numbers(shape, start=3)
    assert np.array_equal(run(where, s, x, y), 2 * x + y)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0, 5), (2, 0, 3)], ids=str)
def test_saxpy_of_nothing_launches_nothing(where, shape):
    emulated.clear_calls()
    assert run(where, *(np.zeros(shape, "f4") for _ in range(3))).shape == shape
    assert emulated.calls("emulator_launch") == []


def test_saxpy_of_64_dimensions():
    shape = (2,) * 6 + (1,) * 58
    s, x, y = (Device(numbers(64, start=start), shape=shape, strides=None) for start in (0, 1, 2))
    pycai.saxpy(s.array, x.array, y.array)
    emulated.run_all()
    assert s.result().tolist() == (2 * x.values + y.values).tolist()


LAYOUTS = {
    "c": lambda shape, dtype, start: numbers(shape, dtype, start),
    "fortran": lambda shape, dtype, start: np.asfortranarray(numbers(shape, dtype, start)),
    "reversed": lambda shape, dtype, start: numbers(shape, dtype, start)[::-1, ::-1],
    "every-second": lambda shape, dtype, start: numbers((2 * shape[0], 3 * shape[1]), dtype, start)[1::2, ::3],
    "padded": lambda shape, dtype, start: numbers((shape[0], shape[1] + 3), dtype, start)[:, 1:-2],
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS, repeat=3)), ids="-".join)
def test_saxpy_of_any_strides(where, layouts):
    s, x, y = (LAYOUTS[layout]((3, 4), "f8", start) for layout, start in zip(layouts, (0, 100, 200)))
    assert np.array_equal(run(where, s, x, y), 2 * x + y)


@pytest.mark.parametrize("where", PLACES)
def test_saxpy_writes_its_elements_and_nothing_else(where):
    whole, x = numbers((6, 8)), numbers((2, 2), start=50)
    part = np.s_[1:5:2, 2:7:3]
    expected = whole.copy()
    expected[part] = 3 * x
    if where == "host":
        pycai.saxpy(whole[part], x, x)
        assert np.array_equal(whole, expected)
        return
    memory = producers.Memory(whole, *KINDS[where])
    given_s, given_x = Device(whole[part], *KINDS[where], inside=(memory, whole)), Device(x, *KINDS[where])
    pycai.saxpy(given_s.array, given_x.array, given_x.array)
    emulated.run_all()
    assert np.array_equal(memory.numpy(), expected)


@pytest.mark.parametrize("where", PLACES)
def test_saxpy_of_broadcast_inputs(where):
    """Only the output must not overlap itself."""
    s, x, y = np.zeros((3, 4), "f4"), np.broadcast_to(numbers(4), (3, 4)), np.broadcast_to(numbers(1, start=7), (3, 4))
    assert np.array_equal(run(where, s, x, y), 2 * x + y)


@pytest.mark.parametrize("where", ["host", "cuda"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_saxpy_computes_in_its_own_precision(where, dtype):
    x, y = np.array([1 / 3, 1e30, -1e-30, np.inf], dtype), np.array([1e-3, 1e30, 1e-30, 1], dtype)
    expected = np.array(1 / 7, dtype) * x + y
    assert np.allclose(run(where, np.zeros(4, dtype), x, y, 1 / 7), expected, rtol=4 * np.finfo(dtype).eps, atol=0)
    assert np.isnan(run(where, np.zeros(1, dtype), np.full(1, np.nan, dtype), np.ones(1, dtype))[0])


@st.composite
def layout(draw, shape, dtype):
    """An array of that shape: permuted, with gaps, reversed in some dimensions."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from((1, 1, 2, 3, -1, -2))) for _ in shape]
    whole = numbers([shape[axis] * abs(steps[axis]) for axis in order], dtype, draw(st.integers(-50, 50)))
    return whole.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)] if shape else whole


@st.composite
def problem(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    dtype = draw(st.sampled_from(DTYPES))
    factor = draw(st.integers(-8, 8) | st.sampled_from([0.5, -0.25]))
    return [draw(layout(shape, dtype)) for _ in range(3)], factor


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem(), st.sampled_from(PLACES))
def test_saxpy_agrees_with_numpy(problem, where):
    """The numbers are so small that every result is exact."""
    emulated.reset()
    (s, x, y), factor = problem
    assert np.array_equal(run(where, s, x, y, factor), factor * x + y)


# ------------------------------------------------------------------------------------------------------------ aliasing


@pytest.mark.parametrize("where", ["host", "cuda"])
@pytest.mark.parametrize("which", ["s-is-x", "s-is-y", "all", "x-is-y"])
def test_saxpy_in_place(where, which):
    x, y = numbers(5), numbers(5, start=10)
    expected = {"s-is-x": 2 * x + y, "s-is-y": 2 * x + y, "all": 3 * x, "x-is-y": 3 * x}[which]
    if where == "host":
        given_x, given_y, given_s = x.copy(), y.copy(), np.zeros(5, "f4")
        as_array, result = (lambda one: one), (lambda one: one)
    else:
        given_x, given_y, given_s = Device(x), Device(y), Device(np.zeros(5, "f4"))
        as_array, result = (lambda one: one.array), (lambda one: one.result())
    arguments = {"s-is-x": (given_x, given_x, given_y), "s-is-y": (given_y, given_x, given_y),
                 "all": (given_x, given_x, given_x), "x-is-y": (given_s, given_x, given_x)}[which]
    pycai.saxpy(*map(as_array, arguments))
    emulated.run_all()
    assert result(arguments[0]).tolist() == expected.tolist()


@pytest.mark.parametrize("strides", [(12, 4), (0, 4), (-400, 4), (8, 4)], ids=str)
def test_saxpy_in_place_where_a_stride_means_nothing(strides):
    """Along an extent of 1 producers put any stride; the elements are the same all the same."""
    x, y = numbers((1, 3)), numbers((1, 3), start=10)
    memory = producers.Memory(x)
    given_s, given_x = Device(x, inside=(memory, x)), Device(x, inside=(memory, x), strides=strides)
    pycai.saxpy(given_s.array, given_x.array, Device(y).array)
    emulated.run_all()
    assert given_s.result().tolist() == (2 * x + y).tolist()


def test_saxpy_in_place_through_another_object():
    """Two views of the same elements are the same memory."""
    memory = numbers(5)
    pycai.saxpy(memory, memory[:], np.zeros(5, "f4"))
    assert memory.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("where", ["host", "cuda"])
@pytest.mark.parametrize("argument", ["x", "y"])
@pytest.mark.parametrize("views", [
    (slice(0, 4), slice(1, 5)), (slice(1, 5), slice(0, 4)), (slice(0, 4), slice(3, None, -1)),
    (slice(0, 8, 2), slice(0, 4))], ids=["behind", "before", "reversed", "interleaved"])
def test_saxpy_of_overlapping_arrays_is_refused(where, argument, views):
    whole, other = numbers(10), numbers(4)
    s, overlapping = (whole[view] for view in views)
    if where == "cuda":
        inside = (producers.Memory(whole), whole)
        s, overlapping = (Device(values, inside=inside).array for values in (s, overlapping))
        other = Device(other).array
    with pytest.raises(pycai.LayoutMismatchError, match=f"'s'.*'{argument}'.*overlap"):
        pycai.saxpy(s, *((overlapping, other) if argument == "x" else (other, overlapping)))


def test_saxpy_of_neighbours():
    whole = numbers(8)
    pycai.saxpy(whole[:4], whole[4:], whole[4:])
    assert whole.tolist() == [12, 15, 18, 21, 4, 5, 6, 7]


@pytest.mark.parametrize("where", ["host", "cuda"])
def test_an_output_that_overlaps_itself_is_refused(where):
    x = np.zeros((3, 4), "f4")
    s = np.ndarray((3, 4), "f4", bytearray(16), 0, (0, 4))
    s, x = (s, x) if where == "host" else (Device(s).array, Device(x).array)
    with pytest.raises(pycai.LayoutMismatchError, match="'s'.*two indices.*strides"):
        pycai.saxpy(s, x, x)


# ------------------------------------------------------------------------------------------- streams, devices, captures


def test_saxpy_returns_before_it_is_done():
    stream = emulated.create_stream()
    s, x, y = (Device(values, stream=stream) for values in (np.zeros(3, "f4"), numbers(3), numbers(3)))
    emulated.clear_calls()
    pycai.saxpy(s.array, x.array, y.array)
    assert [(call["name"], call["stream"]) for call in emulated.calls() if call["name"] == "emulator_launch"] == [
        ("emulator_launch", stream)]
    assert "cudaStreamSynchronize" not in emulated.call_names()
    assert s.result().tolist() == [0, 0, 0]
    emulated.synchronize(stream)
    assert s.result().tolist() == [0, 3, 6]


def test_saxpy_runs_after_what_its_arguments_wait_for():
    """Three producers with work pending on three streams, and a reader behind the first."""
    streams = [emulated.create_stream() for _ in range(3)]
    values = [np.zeros(3, "f4"), np.zeros(3, "f4"), np.zeros(3, "f4")]
    s, x, y = (Device(one, stream=stream) for one, stream in zip(values, streams))
    emulated.launch_write(streams[1], x.pointer, np.array([1, 2, 3], "f4").tobytes())
    emulated.launch_write(streams[2], y.pointer, np.array([10, 20, 30], "f4").tobytes())
    pycai.saxpy(s.array, x.array, y.array)
    emulated.launch_write(streams[2], y.pointer, bytes(12))
    emulated.synchronize(streams[2])
    emulated.synchronize(streams[0])
    assert s.result().tolist() == [12, 24, 36]


def test_saxpy_is_replayed_in_a_capture():
    stream = emulated.create_stream()
    s, x, y = (Device(values, stream=stream) for values in (np.zeros(3, "f8"), numbers(3, "f8"), numbers(3, "f8")))
    emulated.begin_capture(stream)
    pycai.saxpy(s.array, x.array, y.array)
    pycai.saxpy(y.array, s.array, x.array, -1)
    graph = emulated.end_capture(stream)
    assert s.result().tolist() == [0, 0, 0]
    emulated.write(x.pointer, np.array([1, 2, 3], "f8").tobytes())
    emulated.replay(graph, stream)
    assert s.result().tolist() == [2, 5, 8]
    assert y.result().tolist() == [-1, -3, -5]


def test_saxpy_on_device_1_leaves_device_0_current():
    arrays = [Device(values, device=1) for values in (np.zeros(3, "f4"), numbers(3), numbers(3))]
    emulated.clear_calls()
    pycai.saxpy(*(one.array for one in arrays))
    assert [call["current_device"] for call in emulated.calls("emulator_launch")] == [1]
    assert emulated.get_device() == 0
    emulated.run_all()
    assert arrays[0].result().tolist() == [0, 3, 6]


def test_saxpy_takes_several_protocols_at_once():
    s, x, y = (Device(values, protocol=protocol) for values, protocol in zip(
        (np.zeros(3, "f4"), numbers(3), numbers(3, start=1)), ("tensor", "interface", "dlpack")))
    pycai.saxpy(s.array, x.array, y.array)
    emulated.run_all()
    assert s.result().tolist() == [1, 4, 7]


def test_saxpy_of_host_arrays_makes_no_cuda_call():
    emulated.clear_calls()
    s = array.array("f", [0, 0, 0])
    pycai.saxpy(s, numbers(3), array.array("f", [1, 1, 1]))
    assert s.tolist() == [1, 3, 5]
    assert emulated.call_names() == []


def test_a_launch_that_fails_is_raised(unchanged):
    s, x = Device(np.zeros(3, "f4"), device=1), Device(numbers(3), device=1)
    emulated.fail("emulator_launch", 1, 701)
    with unchanged(s.array, x.array):
        with pytest.raises(pycai.CudaCallError, match="launch of saxpy") as raised:
            pycai.saxpy(s.array, x.array, x.array)
        assert (raised.value.code, raised.value.name) == (701, "cudaErrorLaunchOutOfResources")
        del raised
    assert emulated.get_device() == 0
    pycai.saxpy(s.array, x.array, x.array)
    emulated.run_all()
    assert s.result().tolist() == [0, 3, 6]


# ------------------------------------------------------------------------------------------------------------ refusals


def arrays(where, *values):
    return [values if where == "host" else Device(values).array for values in values]


@pytest.mark.parametrize("where", ["host", "cuda"])
@pytest.mark.parametrize("s, x, y, error, words", [
    (np.zeros(3, "i4"), numbers(3), numbers(3), "DtypeMismatchError", "'s'.*float32.*float64.*int32"),
    (np.zeros(3, "f2"), numbers(3), numbers(3), "DtypeMismatchError", "'s'.*float16"),
    (np.zeros(3, "c8"), numbers(3), numbers(3), "DtypeMismatchError", "'s'.*complex64"),
    (np.zeros(3, "f4"), numbers(3, "f8"), numbers(3), "DtypeMismatchError", "'x'.*float32.*float64"),
    (np.zeros(3, "f8"), numbers(3, "f8"), numbers(3), "DtypeMismatchError", "'y'.*float64.*float32"),
    (np.zeros(3, "f4"), numbers(3, "i4"), numbers(3), "DtypeMismatchError", "'x'.*int32"),
    (np.zeros(3, "f4"), numbers(4), numbers(3), "InvalidShapeError", "'x'.*3.*4"),
    (np.zeros(3, "f4"), numbers(3), numbers((1, 3)), "InvalidShapeError", "'y'"),
    (np.zeros((), "f4"), numbers(1), numbers(()), "InvalidShapeError", "'x'"),
    (np.zeros((2, 3), "f4"), numbers((3, 2)), numbers((2, 3)), "InvalidShapeError", "'x'"),
    (np.zeros(0, "f4"), numbers(1), numbers(0), "InvalidShapeError", "'x'"),
], ids=["int", "half", "complex", "x-double", "y-float", "x-int", "x-longer", "y-more-dimensions", "x-not-scalar",
        "x-transposed", "x-not-empty"])
def test_what_is_no_saxpy_is_refused(where, s, x, y, error, words):
    with pytest.raises(getattr(pycai, error), match=words):
        pycai.saxpy(*arrays(where, s, x, y))


@pytest.mark.parametrize("where", ["host", "cuda"])
def test_a_read_only_output_is_refused_and_a_read_only_input_is_not(where):
    readonly, writable = numbers(3), np.zeros(3, "f4")
    if where == "host":
        readonly.flags.writeable = False
    else:
        device = Device(readonly)
        readonly, writable = Device(device.values, data=(device.pointer, True)).array, Device(writable).array
    with pytest.raises(pycai.ReadOnlyAccessError, match="'s'.*writable.*read-only"):
        pycai.saxpy(readonly, writable, writable)
    pycai.saxpy(writable, readonly, readonly)


def test_a_legacy_capsule_is_no_output():
    capsule = Device(np.zeros(3, "f4"), protocol="dlpack", version=None).array
    x = Device(numbers(3)).array
    with pytest.raises(pycai.ReadOnlyAccessError, match="'s'.*legacy"):
        pycai.saxpy(capsule, x, x)


@pytest.mark.parametrize("places", [places for places in itertools.product(("host", "cuda"), repeat=3)
                                    if len(set(places)) == 2], ids="-".join)
def test_kinds_of_memory_are_not_mixed(places):
    values = (np.zeros(3, "f4"), numbers(3), numbers(3))
    given_arrays = [arrays(where, one)[0] for where, one in zip(places, values)]
    first_other = "x" if places[0] != places[1] else "y"
    with pytest.raises(pycai.DeviceMismatchError, match=f"'{first_other}'"):
        pycai.saxpy(*given_arrays)


def test_devices_are_not_mixed():
    given_arrays = [Device(numbers(3), device=device).array for device in (0, 0, 1)]
    with pytest.raises(pycai.DeviceMismatchError, match="'y'"):
        pycai.saxpy(*given_arrays)


def test_pinned_memory_is_not_taken():
    s = Device(np.zeros(3, "f4"), kind="pinned").array
    with pytest.raises(pycai.DeviceMismatchError, match="'s'"):
        pycai.saxpy(s, s, s)


@pytest.mark.parametrize("bad", [None, object(), [1.0, 2.0, 3.0], 3.0, "xyz"], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("where", ["host", "cuda"])
def test_what_is_no_array_is_refused(bad, position, where):
    given_arrays = arrays(where, np.zeros(3, "f4"), numbers(3), numbers(3))
    given_arrays[position] = bad
    with pytest.raises(pycai.InterfaceNotImplementedError, match=f"'{'sxy'[position]}'"):
        pycai.saxpy(*given_arrays)


# ---------------------------------------------------------------------------------------------------------- the factor


@pytest.mark.parametrize("factor, value", [
    (3, 3.0), (0, 0.0), (-1, -1.0), (-1.0, -1.0), (0.5, 0.5), (True, 1.0), (np.float32(1.5), 1.5), (np.int64(4), 4.0),
    (2**60, 2.0**60), (float("inf"), float("inf"))], ids=repr)
@pytest.mark.parametrize("how", ["position", "name"])
@pytest.mark.parametrize("where", ["host", "cuda"])
def test_the_factor(factor, value, how, where):
    x, y = np.ones(2, "f8"), np.full(2, 10.0)
    factors = ((factor,), {}) if how == "position" else ((), {"a": factor})
    assert run(where, np.zeros(2, "f8"), x, y, *factors[0], **factors[1]).tolist() == [value + 10] * 2


def test_the_factor_may_be_anything_with_float():
    class Factor:
        def __float__(self):
            return 7.0

    assert run("host", np.zeros(1), np.ones(1), np.zeros(1), Factor()).tolist() == [7]


@pytest.mark.parametrize("factor", ["2", None, [2.0], 1j, object()], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("how", ["position", "name"])
def test_what_is_no_factor_is_a_type_error(factor, how, unchanged):
    s = np.zeros(2)
    with unchanged(s):
        with pytest.raises(TypeError):
            pycai.saxpy(s, s, s, *((factor,) if how == "position" else ()), **({"a": factor} if how == "name" else {}))


def test_a_factor_that_raises():
    class Raising:
        def __float__(self):
            raise LookupError("no factor")

    with pytest.raises(LookupError, match="no factor"):
        pycai.saxpy(np.zeros(2), np.zeros(2), np.zeros(2), Raising())
    with pytest.raises(OverflowError):
        pycai.saxpy(np.zeros(2), np.zeros(2), np.zeros(2), 10**400)


@pytest.mark.parametrize("n, named", [
    (0, {}), (1, {}), (2, {}), (5, {}), (9, {}), (4, {"a": 1}), (3, {"b": 1}), (3, {"a": 1, "b": 1}), (2, {"a": 1}),
    (2, {"y": 1}), (0, {"s": 1, "x": 1, "y": 1})], ids=str)
def test_wrong_arguments_are_a_type_error(n, named):
    with pytest.raises(TypeError, match=r"saxpy\(s, x, y, a=2.0\)") as raised:
        pycai.saxpy(*[np.zeros(2)] * n, **named)
    assert raised.type is TypeError


def test_the_factor_is_looked_at_before_the_arrays():
    given = producers.Interface(np.zeros(2))
    with pytest.raises(TypeError):
        pycai.saxpy(given, given, given, "two")
    assert given.fetches == 0


# ---------------------------------------------------------------------------------------------------------- the module


def test_saxpy_documents_itself():
    assert str(inspect.signature(pycai.saxpy)) == "(s, x, y, a=2.0)"
    assert "s = a x + y" in pycai.saxpy.__doc__


@pytest.mark.parametrize("where", ["host", "cuda"])
def test_references_are_unchanged(where, unchanged):
    given_arrays = arrays(where, np.zeros(3, "f4"), numbers(3), numbers(3))
    with unchanged(*given_arrays):
        for _ in range(3):
            assert pycai.saxpy(*given_arrays) is None
        with pytest.raises(TypeError):
            pycai.saxpy(*given_arrays[:2], None)
