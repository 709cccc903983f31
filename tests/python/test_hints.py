"""What is remembered of a type: which protocol comes first for its next object, whatever that one is served by."""

import contextlib
import mmap

import numpy as np
import pytest

import checks
import dlpack
import emulated
import loans
import probe as probe_module
import producers

HOST = {"memory": "ON_HOST ON_CUDA"}


def new_type():
    """A type of arrays on the host, which have a buffer, and on a device, which raise when they are asked for one, and have
    a CUDA Array Interface that does not tell its order: as JAX's. `asked` tells what an array was asked for."""

    class Array(mmap.mmap):
        def __new__(cls, device, refuses=(), fails=False):
            self = super().__new__(cls, -1, 16)
            self.memory = producers.Memory(np.arange(16, dtype="u1"))
            self.on_device, self.refuses, self.fails, self.asked, self.made = device, refuses, fails, [], []
            if device:
                self.close()
            else:
                self[:] = bytes(range(16))
            return self

        def __dlpack_device__(self):
            self.asked.append("device")
            return (dlpack.CUDA, 0) if self.on_device else (dlpack.CPU, 0)

        def __dlpack__(self, *, stream=None, max_version=None):
            self.asked.append(stream)
            if self.fails or stream in self.refuses:
                raise BufferError("not this way")
            pointer = self.memory.pointer if self.on_device else np.frombuffer(self, "u1").ctypes.data
            managed = dlpack.Managed(pointer=pointer, shape=(16,), dtype=dlpack.UINT8, owner=self, version=None,
                                     device=(dlpack.CUDA if self.on_device else dlpack.CPU, 0))
            self.made.append(managed)
            return managed.capsule()

        @property
        def __cuda_array_interface__(self):
            self.asked.append("interface")
            if not self.on_device:
                raise AttributeError("on the host")
            return {"shape": (16,), "typestr": "|u1", "data": (self.memory.pointer, False), "version": 2}

        @property
        def deletions(self):
            return [managed.deletions for managed in self.made]

    return Array


def read(probe, array, order="adopt", **fields):
    """What the array was asked for, and the protocol by which it was read."""
    view = probe.acquire(array, order, checks.fields(probe, {**HOST, **fields}))
    description = view.describe()
    assert description["device"][0] == (2 if array.on_device else 1)
    view.release()
    assert checks.Checks(probe).settle(lambda: array.deletions == [1] * len(array.made))
    asked, array.asked[:] = list(array.asked), []
    return asked, NAMES[description["protocol"]]


NAMES = {getattr(probe_module, f"VIA_{name}"): name for name in ("DLPACK", "BUFFER", "CUDA_ARRAY_INTERFACE", "EXCHANGE")}
BY_DLPACK, BY_BUFFER = (["device", 1], "DLPACK"), ([], "BUFFER")


def test_a_type_that_is_met_on_a_device_first(probe):
    kind = new_type()
    assert read(probe, kind(True)) == (["interface", "device", 1], "DLPACK")
    assert read(probe, kind(True)) == BY_DLPACK


def test_a_type_that_is_met_on_the_host_first_is_as_fast_on_a_device_from_the_second_on(probe):
    kind = new_type()
    assert [read(probe, kind(False)) for _ in range(3)] == [BY_BUFFER] * 3
    assert read(probe, kind(True)) == (["interface", "device", 1], "DLPACK")
    assert [read(probe, kind(True)) for _ in range(3)] == [BY_DLPACK] * 3


def test_arrays_on_the_host_are_read_by_their_buffers_all_the_same(probe):
    """Which also say whether they may be written: a legacy capsule does not. The second one in a row is read at once."""
    kind = new_type()
    read(probe, kind(True))
    for _ in range(3):
        assert read(probe, kind(False), require="WRITABLE") == (["device"], "BUFFER")
        assert [read(probe, kind(False), require="WRITABLE") for _ in range(2)] == [BY_BUFFER] * 2
        assert [read(probe, kind(True)) for _ in range(2)] == [BY_DLPACK] * 2


def test_a_device_array_is_not_asked_for_a_buffer_once_the_type_is_known(probe):
    """The first failure is the one that is told: a buffer's would come before that of __dlpack__."""
    kind = new_type()
    read(probe, kind(True))
    with pytest.raises(probe.InterfaceNotImplementedError, match="not this way"):
        probe.acquire(kind(True, fails=True), "adopt", checks.fields(probe, {"memory": "ON_HOST ON_CUDA",
                                                                             "protocols": "VIA_DLPACK VIA_BUFFER"}))


def test_a_buffer_serves_beside_an_array_on_a_device(probe):
    """Of a type whose objects have both, what is remembered is no refusal."""
    kind = new_type()

    class Both(kind):
        def __new__(cls):
            self = super().__new__(cls, False)
            self.on_device = True
            return self

    def protocol_of(source, memory):
        view = probe.acquire(source, "adopt", checks.fields(probe, {"memory": memory}))
        try:
            return NAMES[view.describe()["protocol"]]
        finally:
            view.release()

    assert protocol_of(Both(), "ON_CUDA") == "DLPACK"
    assert protocol_of(Both(), "ON_HOST") == "BUFFER"
    assert protocol_of(Both(), "ON_CUDA") == "DLPACK"
    failing = Both()
    failing.fails = True
    assert protocol_of(failing, "ON_HOST ON_CUDA") == "BUFFER"


@pytest.mark.parametrize("last", ["host", "device"])
def test_the_interface_serves_where_dlpack_fails(probe, last):
    kind = new_type()
    read(probe, kind(True))
    read(probe, kind(last == "device"))
    assert read(probe, kind(True, fails=True)) == (["device", 1, "interface"], "CUDA_ARRAY_INTERFACE")
    assert read(probe, kind(True)) == BY_DLPACK


def test_a_buffer_serves_where_the_device_cannot_be_asked(probe):
    kind = new_type()
    read(probe, kind(True))

    class Raises(kind):
        def __dlpack_device__(self):
            if self.on_device:
                return super().__dlpack_device__()
            raise RuntimeError("own")

    read(probe, Raises(True))
    assert read(probe, Raises(False)) == ([], "BUFFER")


@pytest.mark.parametrize("fields", [{"protocols": "VIA_DLPACK"}, {"protocols": "VIA_DLPACK VIA_CUDA_ARRAY_INTERFACE"}])
def test_a_request_for_some_protocols_teaches_nothing(probe, fields):
    kind = new_type()
    read(probe, kind(False))
    read(probe, kind(True), **fields)
    assert read(probe, kind(True)) == (["interface", "device", 1], "DLPACK")


def test_pitfall_6_a_type_whose_interface_may_have_a_mask_is_asked_for_it(probe):
    """Also where nothing is ordered and __dlpack__, which would not tell it, could serve."""
    class Array(producers.Interface):
        def __init__(self, mask):
            super().__init__(np.zeros(4, "f4"), stream=emulated.LEGACY, overrides={"mask": mask})
            self.dlpack = producers.DLPack(np.zeros(4, "f4"))

        def __dlpack__(self, **keywords):
            return self.dlpack.__dlpack__(**keywords)

        def __dlpack_device__(self):
            return self.dlpack.__dlpack_device__()

    for _ in range(2):
        probe.acquire(Array(None), "none", {}).release()
        with pytest.raises(probe.MaskedArrayError):
            probe.acquire(Array(object()), "none", {})


def test_in_a_call_too(probe):
    """A JAX array on the host beside one on a device and a tensor that is lent."""
    kind = new_type()
    tensor = loans.table_array(loans.Tensor, dtype=dlpack.UINT8, shape=(16,))
    with loans.torch_imported():
        for _ in range(3):
            arrays = kind(True), tensor, kind(False)
            requests = tuple({"name": name, **checks.fields(probe, HOST)} for name in "abc")
            views = probe.call(arrays, requests, "adopt", lambda call: call["views"])
            assert [view["pointer"] for view in views[:2]] == [arrays[0].memory.pointer, tensor.pointer]
            assert [NAMES[view["protocol"]] for view in views] == ["DLPACK", "EXCHANGE", "BUFFER"]
    assert (arrays[0].asked, arrays[2].asked) == (["device", 1], ["device"])


# ---------------------------------------------------------------------------------------------------------------- -1


@pytest.fixture
def refusing(probe):
    """A type that is known to refuse -1."""
    kind = new_type()
    for _ in range(2):
        assert read(probe, kind(True, refuses=(-1,)), "none")[0][-2:] == [-1, 1]
    return kind


def test_a_type_that_refuses_minus_one_twice_is_told_legacy_from_then_on(probe, refusing):
    """A refusal by an exception takes JAX 23 microseconds."""
    assert [read(probe, refusing(True, refuses=(-1,)), "none") for _ in range(3)] == [BY_DLPACK] * 3


def test_a_failure_that_passes_teaches_nothing(probe):
    kind = new_type()
    for _ in range(3):
        assert read(probe, kind(True, refuses=(-1,)), "none")[0][-2:] == [-1, 1]
        assert read(probe, kind(True), "none") == (["device", -1], "DLPACK")


def test_it_is_told_minus_one_where_legacy_would_break_a_capture(probe, refusing):
    unwilling, willing = refusing(True, refuses=(-1,)), refusing(True)
    stream = emulated.create_stream(emulated.BLOCKING)
    emulated.begin_capture(stream, emulated.GLOBAL)
    with pytest.raises(probe.StreamCaptureError):
        probe.acquire(unwilling, "none", {})
    view = probe.acquire(willing, "none", {})
    emulated.end_capture(stream)
    view.release()
    assert unwilling.asked == ["device", -1]
    assert willing.asked == ["device", -1]


@pytest.mark.parametrize("code", [1, 700])
def test_it_is_told_minus_one_where_nobody_can_say_whether_legacy_captures(probe, refusing, code):
    emulated.fail("cudaStreamIsCapturing", 1, code)
    assert read(probe, refusing(True), "none") == (["device", -1], "DLPACK")
    assert emulated.count_failures() == 0


def test_a_failure_that_legacy_does_not_mend_teaches_nothing(probe):
    kind = new_type()
    with contextlib.suppress(probe.InterfaceNotImplementedError):
        probe.acquire(kind(True, refuses=(-1, 1)), "none", checks.fields(probe, {"protocols": "VIA_DLPACK"}))
    assert read(probe, kind(True), "none")[0] == ["interface", "device", -1]
    assert read(probe, kind(True), "none")[0] == ["device", -1]


def test_it_is_told_minus_one_where_it_refuses_legacy_now(probe, refusing):
    """And is no type that refuses -1 from then on."""
    assert read(probe, refusing(True, refuses=(1,)), "none") == (["device", 1, -1], "DLPACK")
    assert read(probe, refusing(True), "none") == (["device", -1], "DLPACK")


def test_a_type_that_could_not_be_inspected_is_not_remembered_by_what_it_refuses(probe):
    class Meta(type(mmap.mmap)):
        asked = 0

        def __getattribute__(cls, name):
            if name == "__dlpack_c_exchange_api__":
                Meta.asked += 1
                if Meta.asked == 1:
                    raise RuntimeError("this time")
            return super().__getattribute__(name)

    kind = Meta("Array", (new_type(),), {})
    for asked in (1, 2, 2):
        read(probe, kind(True, refuses=(-1,)), "none")
        assert Meta.asked == asked
