"""Arrays whose types are known are read in one go: what is then left for the general way, and what must be the same."""

import sys

import numpy as np
import pytest

import checks
import children
import dlpack
import emulated
import loans
import producers
import tables
from emulated import LEGACY

pytestmark = pytest.mark.filterwarnings("error")

SIX = np.arange(6, dtype="f4").reshape(2, 3)


@pytest.fixture(autouse=True)
def torch_type(monkeypatch):
    """A type of its own for every test, which is what torch.Tensor is to the library; `answers` are its attributes'."""

    class Tensor(tables.Array):
        __dlpack_c_exchange_api__ = tables.make_table()
        answers = {"requires_grad": False, "is_neg": False, "is_conj": False}
        asked = []

        def _answer(self, name):
            self.asked.append(name)
            answer = self.answers[name]
            if isinstance(answer, type):
                raise answer("own")
            return answer() if callable(answer) else answer

        requires_grad = property(lambda self: self._answer("requires_grad"))

        def is_neg(self):
            return self._answer("is_neg")

        def is_conj(self):
            return self._answer("is_conj")

    Tensor.answers, Tensor.asked = dict(Tensor.answers), []
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    sys.modules["torch"].Tensor = Tensor
    tables.set_stream(0)
    yield Tensor
    tables.set_stream(0)


@pytest.fixture
def known(torch_type, probe):
    """The type, which the library has met before."""
    probe.acquire(make(torch_type), "adopt", {}).release()
    probe.acquire(make(torch_type), "adopt", checks.fields(probe, {"require": "WRITABLE"})).release()
    torch_type.asked.clear()
    return torch_type


def make(kind, array=SIX, **fields):
    memory = producers.Memory(array)
    defaults = {"pointer": memory.pointer, "shape": array.shape, "dtype": dlpack.FLOAT32, "device": (dlpack.CUDA, 0)}
    made = kind(**{**defaults, **fields})
    made.memory = memory
    return made


REQUESTS = {
    "nothing": {}, "writable": {"require": "WRITABLE"}, "dense": {"require": "C_CONTIGUOUS"},
    "float32": {"dtypes": ["float32"]}, "float64": {"dtypes": ["float64"]}, "three": {"ndim": 3},
    "shape": {"shape": (2, 3)}, "another shape": {"shape": (3, 2)}, "host": {"memory": "ON_HOST"},
    "protocol": {"protocols": "VIA_DLPACK"},
}

FIELDS = {
    "plain": {}, "strided": {"strides": (1, 2)}, "overlapping": {"strides": (0, 1)}, "read-only": {"flags": 1},
    "of complex": {"dtype": dlpack.COMPLEX64, "shape": (3,)}, "of no dimensions": {"shape": ()},
    "on device 1": {"device": (dlpack.CUDA, 1)}, "of eight-bit floats": {"dtype": (2, 128, 1)},
    "empty": {"shape": (0, 3), "pointer": 0}, "pinned": {"device": (dlpack.CUDA_HOST, 0)},
}


def outcome(probe, source, order, request):
    """Everything that an acquire says of an array, whichever way it went."""
    view, refusal = checks.catch(probe.acquire, source, order, request)
    if refusal is not None:
        return refusal.type, refusal.message
    described = view.describe()
    view.release()
    return described


def strip(described, kind):
    return str(described).replace(kind.__qualname__, "")


@pytest.mark.parametrize("order", ["adopt", "none", "block", LEGACY])
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda name: name.replace(" ", "-"))
def test_the_second_array_of_a_type_is_read_as_the_first_was(torch_type, probe, order, request_):
    fields = checks.fields(probe, REQUESTS[request_])
    for what, kwargs in FIELDS.items():
        source = make(torch_type, **kwargs)
        fresh = type("Fresh", (torch_type,), {})  # a type that nobody has met
        other = make(fresh, **{**kwargs, "pointer": kwargs.get("pointer", source.memory.pointer)})
        first = outcome(probe, other, order, fields)
        outcome(probe, make(torch_type), "adopt", {})
        second = outcome(probe, source, order, fields)
        assert strip(first, fresh) == strip(second, torch_type), what


@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_what_ends_the_acquire_ends_it_here_too(known, refuses, probe, exception):
    known.answers["requires_grad"] = exception
    source = make(known)
    refuses(exception.__name__, source, require="WRITABLE")
    assert known.asked == ["requires_grad"]


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_what_ends_a_call_gives_back_what_was_read(known, probe, position, exception):
    sources = [make(known), make(known)]

    def fail():
        raise exception("own")

    sources[position].__class__ = type("Raises", (known,), {"requires_grad": property(lambda self: fail())})
    probe.acquire(sources[position], "adopt", {}).release()
    before = checks.measure(sources)
    requests = [{"name": name, **checks.fields(probe, {"require": "WRITABLE"})} for name in "ab"]
    with pytest.raises(exception, match="own"):
        probe.call(tuple(sources), tuple(requests), "adopt", None)
    assert checks.measure(sources) == before


def test_a_gradient_is_refused_by_its_name(known, refuses):
    known.answers["requires_grad"] = True
    assert "detach" in refuses("ReadOnlyAccessError", make(known), require="WRITABLE", match="requires grad").message


@pytest.mark.parametrize("exception", [RuntimeError, KeyError])
def test_a_question_that_raises_is_told_as_ever(known, refuses, exception):
    known.answers["requires_grad"] = exception
    refuses("InterfaceNotImplementedError", make(known), require="WRITABLE", cause=exception)


def test_a_tensor_that_moves_while_it_is_asked(known, accepts):
    other = producers.Memory(SIX + 10)
    source = make(known)
    known.answers["requires_grad"] = lambda: source.set_pointer(other.pointer) or False
    with accepts(source, require="WRITABLE") as view:
        assert view.pointer == other.pointer
        assert np.array_equal(checks.read(view), SIX + 10)


@pytest.mark.parametrize("met", [True, False], ids=["met", "new"])
def test_a_question_to_one_that_is_written_may_move_the_others(known, probe, met):
    """Of types that nobody has met too, which are asked last."""
    other = producers.Memory(SIX + 10)
    first, second = make(known), make(known)

    class Mover(known):
        @property
        def requires_grad(self):
            first.set_pointer(other.pointer)
            return False

    second.__class__ = Mover
    if met:
        probe.acquire(second, "adopt", {}).release()
    first.set_pointer(first.memory.pointer)
    requests = tuple({"name": name, **checks.fields(probe, {"require": "WRITABLE"})} for name in "ab")
    seen = probe.call((first, second), requests, "adopt", lambda call: call["views"])
    assert [view["pointer"] for view in seen] == [other.pointer, second.memory.pointer]


def test_a_failure_that_is_dropped_may_move_a_tensor(known, probe):
    """What an exception keeps alive ends with it, before the last look."""
    other, tensor = producers.Memory(SIX + 10), make(known)

    class Moves:
        def __del__(self):
            tensor.set_pointer(other.pointer)

    class Fails(producers.Both):
        @property
        def __cuda_array_interface__(self):
            moves = Moves()
            raise RuntimeError("own", moves)

    requests = tuple({"name": name} for name in "ab")
    seen = probe.call((tensor, Fails(SIX)), requests, "adopt", lambda call: call["views"])
    assert seen[0]["pointer"] == other.pointer
    assert seen[1]["protocol"] == probe.VIA_DLPACK


def test_a_failure_on_the_way_to_an_argument_before_may_move_a_tensor(known, probe):
    """The argument itself is read at the first attempt but one, so that nothing is walked again."""
    other, tensor = producers.Memory(SIX + 10), make(known)

    class Moves:
        def __del__(self):
            tensor.set_pointer(other.pointer)

    class Fails(producers.Interface):
        @property
        def _capsule(self):
            raise RuntimeError("own", Moves())

    requests = tuple({"name": name} for name in "ab")
    for _ in range(2):
        tensor.set_pointer(tensor.memory.pointer)
        seen = probe.call((Fails(SIX), tensor), requests, "adopt", lambda call: call["views"])
        assert seen[0]["protocol"] == probe.VIA_CUDA_ARRAY_INTERFACE
        assert seen[1]["pointer"] == other.pointer


def test_pitfall_64_a_torch_without_a_table(accepts, probe, monkeypatch):
    """As it was before it had one; its tensors are read like others', the first and those after it."""
    class Tensor(bytearray):
        pass

    sys.modules["torch"].Tensor = Tensor
    tensor = Tensor(b"12345678")
    for _ in range(3):
        with accepts(tensor, memory="ON_HOST") as view:
            assert checks.read(view).tobytes() == b"12345678"
        seen = probe.call((tensor,), ({"memory": probe.ON_HOST},), "adopt", lambda call: call["views"])
        assert seen[0]["protocol"] == probe.VIA_BUFFER


def test_pitfall_67_a_table_without_a_stream_gets_its_tensors_back_when_the_work_is_done(probe, torch_type):
    class Tensor(torch_type):
        __dlpack_c_exchange_api__ = tables.make_table(tells_stream=False)

    sys.modules["torch"].Tensor = Tensor
    for _ in range(3):
        tensor = make(Tensor)
        references = sys.getrefcount(tensor)
        view = probe.acquire(tensor, "adopt", {})
        loans.fill_later(LEGACY, tensor.memory.pointer, bytes(16))
        view.release()
        assert sys.getrefcount(tensor) > references
        emulated.run_all()
        assert checks.Checks(probe).settle(lambda: sys.getrefcount(tensor) == references)  # noqa: B023  called at once


def test_a_tensor_that_hands_out_an_array_of_cais_is_read_as_that(known, accepts, probe, arrays):
    """The first of its type and those after it, by themselves and in a call."""
    array = arrays.new((2, 3), "float32", arrays.DEVICE)

    class Wraps(known):  # which stays in the library's memory, and so must not hold the array
        @property
        def _capsule(self):
            return self.array._capsule

    tensor = make(Wraps)
    tensor.array = array
    for _ in range(2):
        with accepts(tensor) as view:
            assert (view.protocol, view.pointer) == (probe.VIA_ARRAY, array.ptr)
        seen = probe.call((make(known), tensor), ({}, {}), "adopt", lambda call: call["views"])
        assert (seen[1]["protocol"], seen[1]["pointer"]) == (probe.VIA_ARRAY, array.ptr)


def test_a_tensor_that_is_asked_for_an_array_of_cais_first_is_owned(known, accepts):
    """What the question leaves is dropped when the tensor has been read, and may move it."""
    other = producers.Memory(SIX + 10)

    class Fails(known):
        @property
        def _capsule(self):
            raise RuntimeError("own", Moves(self))

    class Moves:
        def __init__(self, tensor):
            self.tensor = tensor

        def __del__(self):
            self.tensor.set_pointer(other.pointer)

    for _ in range(2):
        tensor = make(Fails)
        with accepts(tensor) as view:
            assert tensor.counts() == {"lent": 0, "owned": 1, "deleted": 0}
            assert np.array_equal(checks.read(view), SIX)
        assert tensor.counts() == {"lent": 0, "owned": 1, "deleted": 1}


@pytest.mark.parametrize("order", ["adopt", "none", LEGACY])
@pytest.mark.parametrize("before, after", [(dlpack.CPU, dlpack.CUDA), (dlpack.CUDA, dlpack.CPU)],
                         ids=["to-the-device", "to-the-host"])
def test_a_tensor_that_another_argument_moves_to_other_memory(known, probe, order, before, after):
    """It is on the stream, or on none, of where it is in the end."""
    on_host, on_device = SIX + 1, producers.Memory(SIX + 2)
    places = {dlpack.CPU: on_host.ctypes.data, dlpack.CUDA: on_device.pointer}
    tensor = known(places[before], (2, 3), dlpack.FLOAT32, (before, 0))

    class Mover(producers.Interface):
        @property
        def __cuda_array_interface__(self):
            tensor.__init__(places[after], (2, 3), dlpack.FLOAT32, (after, 0))
            return super().__cuda_array_interface__

    fields = checks.fields(probe, {"memory": "ON_HOST ON_CUDA"})
    requests = tuple({"name": name, **fields} for name in "ab")
    arguments = (tensor, Mover(SIX, stream=LEGACY))
    views = probe.call(arguments, requests, order, lambda call: call["views"])
    assert views[0]["pointer"] == places[after]
    assert views[0]["device"] == (after, 0)
    assert views[0]["stream"] == (LEGACY if after == dlpack.CUDA else 0)


def test_an_argument_is_refused_before_the_ones_behind_it_are_read(known, probe):
    """The exception is that of the first argument that is not what was asked for."""
    interface = producers.Interface(SIX, stream=LEGACY)
    probe.acquire(interface, "adopt", {}).release()
    asked = []

    class Asked(producers.Interface):
        @property
        def __cuda_array_interface__(self):
            asked.append(self)
            return super().__cuda_array_interface__

    requests = tuple({"name": name, **checks.fields(probe, {"ndim": 3})} for name in "ab")
    with pytest.raises(probe.InvalidShapeError, match="'a'"):
        probe.call((interface, Asked(SIX)), requests, "adopt", None)
    assert asked == []


# ----------------------------------------------------------------------------------------------------------- CUDA


def test_arrays_on_the_stream_that_is_adopted_cost_no_call_of_cuda_on_one_gpu():
    """A machine with more than one GPU asks which device is current, since a kernel launch goes there."""
    asked = children.run("""
        import emulated
        assert emulated.set_device_count({n}) == 0
        import loans, probe, tables
        with loans.torch_imported():
            s = emulated.create_stream()
            tables.set_stream(s)
            tensors = tuple(loans.table_array(loans.Tensor) for _ in range(3))
            requests = tuple({{"name": name}} for name in "abc")
            names = []
            for order in ("adopt", "none"):
                for _ in range(2):
                    probe.call(tensors, requests, order, None)
                emulated.clear_calls()
                told = probe.call(tensors, requests, order, None)
                assert (told["stream"], told["device"]) == (s, (2, 0)), told
                names.append(sorted(set(emulated.call_names())))
            print(*names)
    """.format(n=1))
    assert asked.strip() == "[] []"


@pytest.mark.parametrize("order", ["adopt", "none"])
def test_arrays_on_different_streams_are_ordered_all_the_same(known, probe, order):
    s, t = emulated.create_stream(), emulated.create_stream()
    requests = ({"name": "a"}, {"name": "b"})
    tables.set_stream(s)
    told = probe.call((make(known), make(known)), requests, order, None)
    assert told["stream"] == s
    interface = producers.Interface(SIX, stream=t)
    emulated.clear_calls()
    told = probe.call((make(known), interface), requests, order, None)
    assert told["stream"] == s
    waits = emulated.calls("cudaStreamWaitEvent")
    assert [call["stream"] for call in waits] == ([s, t] if order == "adopt" else [])


# ------------------------------------------------------------------------------------- CUDA arrays that need no order


class Cupy(producers.Both):
    """Says which of its protocols were used; `fails` is what __dlpack__ raises."""

    fails = None

    def __init__(self, *arguments, **kwargs):
        super().__init__(*arguments, **kwargs)
        self.devices = 0

    def __dlpack_device__(self):
        self.devices += 1
        return super().__dlpack_device__()

    def __dlpack__(self, **keywords):
        managed = super().__dlpack__(**keywords)
        if self.fails is not None:
            raise self.fails("own")
        return managed


@pytest.fixture
def cupy(probe):
    """A type with both protocols, which the library has met before by the one that tells the order."""
    kind = type("Cupy", (Cupy,), {})
    view = probe.acquire(kind(SIX), "none", {})
    assert view.describe()["protocol"] == probe.VIA_CUDA_ARRAY_INTERFACE
    view.release()
    return kind


def test_without_order_the_faster_protocol_is_used(cupy, accepts, probe):
    s = emulated.create_stream()
    source = cupy(SIX, stream=s)
    with accepts(source, "none") as view:
        assert (view.protocol, view.pointer, view.shape) == (probe.VIA_DLPACK, source.pointer, (2, 3))
        assert np.array_equal(checks.read(view), SIX)
    assert [(asked["stream"], source.fetches, source.devices) for asked in source.asked] == [(-1, 0, 0)]


@pytest.mark.parametrize("order", ["adopt", "block", LEGACY])
def test_with_order_the_stream_is_read(cupy, accepts, probe, order):
    s = emulated.create_stream()
    source = cupy(SIX, stream=s)
    with accepts(source, order) as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
        assert view.stream in (s, order)
    assert source.asked == []


@pytest.mark.parametrize("exception", [BufferError, RuntimeError, TypeError])
def test_a_producer_that_refuses_is_read_by_the_other_protocol(cupy, accepts, probe, exception):
    cupy.fails = exception
    source = cupy(SIX)
    with accepts(source, "none") as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
        assert np.array_equal(checks.read(view), SIX)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_what_ends_the_acquire_is_not_asked_around(cupy, refuses, exception):
    cupy.fails = exception
    source = cupy(SIX)
    refuses(exception.__name__, source, "none")
    assert source.fetches == 0


def test_the_protocols_of_a_request_hold(cupy, accepts, probe):
    with accepts(cupy(SIX), "none", protocols=probe.VIA_CUDA_ARRAY_INTERFACE) as view:
        assert view.protocol == probe.VIA_CUDA_ARRAY_INTERFACE
    with accepts(cupy(SIX), "none", protocols=probe.VIA_DLPACK) as view:
        assert view.protocol == probe.VIA_DLPACK


def test_memory_that_the_capsule_says_is_not_on_a_device(cupy, accepts, probe):
    source = cupy(SIX, kind="pinned")
    with accepts(source, "none", memory="ANYWHERE") as view:
        assert view.device[0] == dlpack.CUDA_HOST
        assert np.array_equal(checks.read(view), SIX)
