"""When memory goes: after the work that was told, after everybody's where nobody was, once, and never into a capture."""

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
from outward import NEW, OLD, SIX, Capsule, fill, seen_on, shown, wrapped

FOUR_OLD = np.frombuffer(OLD, "f4")
KINDS = ("DEVICE", "NO_POOL", "MANAGED", "PINNED")


def memory(nbytes=16):
    pointer = emulated.allocate(nbytes)
    emulated.write(pointer, OLD)
    return pointer


def freed_calls():
    return [name for name in emulated.call_names() if name.startswith("cudaFree")]


EXPORTS = {"interface": lambda arrays, array: array.__cuda_array_interface__,
           "dlpack": lambda arrays, array: Capsule(array.__dlpack__(stream=-1)).consume()(),
           "dlpack-stream": lambda arrays, array: Capsule(array.__dlpack__(max_version=(1, 0))).consume()(),
           "table": lambda arrays, array: Capsule(arrays.table_give(array)).consume()(),
           "lent": lambda arrays, array: arrays.table_lend(array)}


# ------------------------------------------------------------------------------------------------------ in stream order


def test_memory_that_never_went_out_is_freed_in_stream_order(arrays):
    """By one call, which waits for nothing; the work that is pending still sees the memory."""
    stream = emulated.create_stream()
    array = fill(arrays.new((4,), "float32", arrays.DEVICE, 0, stream), FOUR_OLD)
    seen = seen_on(stream, array.ptr)
    emulated.clear_calls()
    del array
    assert freed_calls() == ["cudaFreeAsync"]
    assert [call for call in emulated.calls("cudaFreeAsync") if call["stream"] != stream] == []
    assert not any("Synchronize" in name for name in emulated.call_names())
    assert seen == []
    emulated.synchronize(stream)
    assert seen == [OLD]


def test_memory_is_freed_after_all_streams_that_were_told(arrays):
    mine, others = emulated.create_stream(), [emulated.create_stream() for _ in range(3)]
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE, 0, mine)
    array = fill(arrays.give(handle), FOUR_OLD)
    seen = [seen_on(stream, array.ptr) for stream in others]
    for stream in others:
        assert arrays.used_on(handle, stream) == "OK"
    del array
    arrays.release(handle)
    assert freed_calls() == ["cudaFreeAsync"]
    emulated.synchronize(mine)
    assert seen == [[OLD]] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_freed_after_its_work(arrays, kind):
    stream = emulated.create_stream()
    before = emulated.count_allocations()
    array = fill(arrays.new((4,), "float32", getattr(arrays, kind), 0, stream), FOUR_OLD)
    seen = seen_on(stream, array.ptr)
    del array
    emulated.run_all()
    assert seen == [OLD]
    assert emulated.count_allocations() == before


def test_a_wrapped_array_waits_for_its_stream(arrays):
    stream, pointer = emulated.create_stream(), memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 3)
    assert arrays.used_on(handle, stream) == "OK"
    loans.fill_later(stream, pointer, NEW)
    arrays.release(handle)
    assert arrays.deleted() == [3]
    assert emulated.read(pointer, 16) == NEW
    assert not emulated.is_pending(stream)


def test_a_wrapped_array_without_work_waits_for_nothing(arrays):
    pointer = memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 3)
    emulated.clear_calls()
    arrays.release(handle)
    assert arrays.deleted() == [3]
    assert set(emulated.call_names()) <= {"cudaGetDeviceCount", "cudaGetDevice"}


def test_memory_of_the_other_device(arrays):
    before = emulated.count_allocations()
    stream = emulated.create_stream(device=1)
    array = arrays.new((4,), "float32", arrays.DEVICE, 1, stream)
    with emulated.current_device(1):
        loans.fill_later(stream, array.ptr, NEW)
    del array
    with emulated.current_device(1):
        emulated.synchronize(stream)
    assert emulated.count_allocations() == before and emulated.get_device() == 0


# -------------------------------------------------------------------------------------------------------- after everybody


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("consumer", [emulated.BLOCKING, emulated.NON_BLOCKING])
def test_pitfall_56_a_consumer_on_a_stream_that_nobody_knows(arrays, export, kind, consumer):
    """Its work, enqueued after the export, is over before the memory goes, whatever stream it is on."""
    unknown = emulated.create_stream(consumer)
    array = fill(arrays.new((4,), "float32", getattr(arrays, kind)), FOUR_OLD)
    EXPORTS[export](arrays, array)
    loans.fill_later(unknown, array.ptr, NEW)
    copy = memory()
    emulated.cuda("cudaMemcpyAsync", *copy_arguments(copy, array.ptr, unknown))
    before = emulated.count_allocations()
    del array
    gc.collect()
    assert not emulated.is_pending(unknown)
    emulated.run_all()
    assert emulated.read(copy, 16) == NEW
    assert emulated.count_allocations() == before - 1


def copy_arguments(to, source, stream):
    from ctypes import c_int, c_size_t, c_void_p

    return c_void_p(to), c_void_p(source), c_size_t(16), c_int(4), c_void_p(stream)


@pytest.mark.parametrize("export", EXPORTS)
def test_pitfall_56_a_deleter_after_a_consumer_that_nobody_knows(arrays, export):
    unknown, pointer = emulated.create_stream(), memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 5)
    array = arrays.give(handle)
    arrays.release(handle)
    EXPORTS[export](arrays, array)
    loans.fill_later(unknown, pointer, NEW)
    del array
    assert arrays.deleted() == [5]
    assert emulated.read(pointer, 16) == NEW


@pytest.mark.parametrize("export", EXPORTS)
def test_pitfall_56_who_knows_better_says_so(arrays, export):
    """CAI_FREE_IN_ORDER: nobody else uses the memory, and nobody waits for others."""
    unknown, pointer = emulated.create_stream(), memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), arrays.FREE_IN_ORDER, 6)
    array = arrays.give(handle)
    arrays.release(handle)
    EXPORTS[export](arrays, array)
    loans.fill_later(unknown, pointer, NEW)
    del array
    assert arrays.deleted() == [6]
    assert emulated.is_pending(unknown)
    assert emulated.read(pointer, 16) == OLD


def test_pitfall_56_in_order_still_waits_for_what_was_told(arrays):
    stream, pointer = emulated.create_stream(), memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), arrays.FREE_IN_ORDER, 7)
    arrays.used_on(handle, stream)
    loans.fill_later(stream, pointer, NEW)
    arrays.release(handle)
    assert arrays.deleted() == [7] and emulated.read(pointer, 16) == NEW


def test_pitfall_56_in_order_waits_for_a_consumer_that_was_told_of(arrays):
    """Under CAI_FREE_IN_ORDER the author tells what consumers do on the streams of their exports."""
    stream, pointer = emulated.create_stream(), memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), arrays.FREE_IN_ORDER, 7)
    Capsule(arrays.give(handle).__dlpack__(stream=stream)).consume()()
    loans.fill_later(stream, pointer, NEW)
    assert arrays.used_on(handle, stream) == "OK"
    arrays.release(handle)
    assert arrays.deleted() == [7]
    assert emulated.read(pointer, 16) == NEW


@pytest.mark.parametrize("mode", [emulated.GLOBAL, emulated.THREAD_LOCAL, emulated.RELAXED])
@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_56_the_wait_breaks_nobodys_capture(arrays, kind, mode):
    """Of a bystander, on a blocking stream or not."""
    bystander, unknown = emulated.create_stream(), emulated.create_stream()
    array = arrays.new((4,), "float32", getattr(arrays, kind))
    array.__cuda_array_interface__
    loans.fill_later(unknown, array.ptr, NEW)
    emulated.begin_capture(bystander, mode)
    del array
    gc.collect()
    assert not emulated.is_pending(unknown)
    emulated.end_capture(bystander)
    assert "cudaDeviceSynchronize" not in emulated.call_names()
    assert checks.capture_mode() == emulated.GLOBAL


@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_59_the_wait_is_without_the_gil(arrays, kind):
    unknown = emulated.create_stream()
    array = arrays.new((4,), "float32", getattr(arrays, kind))
    array.__cuda_array_interface__
    loans.fill_later(unknown, array.ptr, NEW)
    emulated.set_blocking_hook(faults.wait_hook())
    del array
    emulated.set_blocking_hook(None)
    waits, with_gil = faults.count_waits()
    if arrays.__name__ == "arrays":  # the limited API cannot tell whether it is attached
        assert waits > 0 and with_gil == 0


@pytest.mark.parametrize("kind, where", [("pinned", (3, 0)), (None, (1, 0))], ids=["pinned", "host"])
def test_pitfall_55_memory_of_no_device_remembers_whose_stream_a_number_was(arrays, kind, where):
    block = ctypes.create_string_buffer(16)
    pointer = ctypes.addressof(block) if kind is None else emulated.allocate(16, kind, device=1)
    handle = arrays.wrap(pointer, (4,), None, "float32", where, 0, 9)
    with emulated.current_device(1):
        emulated.launch_write(emulated.LEGACY, pointer, NEW)
        assert arrays.used_on(handle, emulated.LEGACY) == "OK"
    arrays.release(handle)
    assert arrays.deleted() == [9]
    assert emulated.read(pointer, 16) == NEW


def test_pitfall_59_an_authors_deleter_runs_without_the_gil():
    """It may wait for the device, and a Python function that is to run there for the GIL."""
    children.run("""
        import ctypes, gc
        import emulated, owntype

        for export in (lambda buffer: None, lambda buffer: buffer.__cuda_array_interface__):
            buffer = owntype.Buffer(4, device=True)
            emulated.run_all()
            export(buffer)
            function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None)
            emulated.cuda("cudaLaunchHostFunc", ctypes.c_void_p(emulated.create_stream()), function, None)
            del buffer
            gc.collect()
            assert owntype.live() == 0
    """)


# --------------------------------------------------------------------------------------------------------------- once


def test_freed_exactly_once(arrays):
    """However many objects, capsules and buffers of it there were."""
    pointer = memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (13, 0), 0, 8)
    assert arrays.used_on(handle, 1) == "OK"
    kept = [arrays.give(handle), arrays.to_capsule(handle), arrays.give(handle).__dlpack__(max_version=(1, 0)),
            arrays.give(handle).__dlpack__(), memoryview(arrays.give(handle)), arrays.keep(arrays.give(handle)),
            arrays.table_make(arrays.Array, arrays.table_give(arrays.give(handle))), arrays.give(handle)._capsule,
            arrays.give(handle).stream]
    arrays.release(handle)
    for _ in range(len(kept)):
        assert arrays.deleted() == []
        del kept[0]
        gc.collect()
        arrays.new((), "int8", arrays.HOST)
    assert arrays.deleted() == [8]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaks_over_many_rounds(arrays, kind):
    for turn in range(30):
        array = arrays.new((turn,), "float32", getattr(arrays, kind))
        EXPORTS[list(EXPORTS)[turn % len(EXPORTS)]](arrays, array)
        del array
        if turn == 10:
            gc.collect()
            emulated.run_all()
            before = checks.cuda_state()
    gc.collect()
    emulated.run_all()
    assert checks.cuda_state() == before


# ----------------------------------------------------------------------------------------------------------- captures


def test_a_capturing_stream_allocates_nothing(arrays):
    """The memory would be the graph's. The capture is intact."""
    stream = emulated.create_stream()
    emulated.begin_capture(stream)
    with pytest.raises(arrays.StreamCaptureError, match="allocate before"):
        arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    assert arrays.new((0,), "float32", arrays.DEVICE, 0, stream).size == 0
    emulated.end_capture(stream)
    assert arrays.new((4,), "float32", arrays.DEVICE, 0, stream).size == 4


@pytest.mark.parametrize("kind", ["NO_POOL", "MANAGED", "PINNED"])
@pytest.mark.parametrize("mode", [emulated.GLOBAL, emulated.THREAD_LOCAL])
def test_other_memory_can_be_allocated_during_a_capture(arrays, kind, mode):
    stream = emulated.create_stream()
    emulated.begin_capture(stream, mode)
    array = arrays.new((4,), "float32", getattr(arrays, kind), 0, stream)
    emulated.end_capture(stream)
    assert array.ptr != 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("mode", [emulated.GLOBAL, emulated.THREAD_LOCAL, emulated.RELAXED])
def test_memory_is_not_freed_while_its_stream_captures(arrays, kind, exported, mode):
    """It is put off until a later call finds the capture over; the graph may still name it."""
    stream = emulated.create_stream()
    before = emulated.count_allocations()
    array = arrays.new((4,), "float32", getattr(arrays, kind), 0, stream)
    if exported:
        array.__cuda_array_interface__
    emulated.begin_capture(stream, mode)
    emulated.clear_calls()
    del array
    gc.collect()
    assert freed_calls() == []
    assert emulated.count_allocations() == before + 1
    arrays.new((), "int8", arrays.HOST)
    assert emulated.count_allocations() == before + 1
    emulated.end_capture(stream)
    arrays.new((), "int8", arrays.HOST)
    emulated.run_all()
    assert emulated.count_allocations() == before


def test_what_was_put_off_is_freed_by_the_next_array_that_comes_in(arrays):
    stream = emulated.create_stream()
    before = emulated.count_allocations()
    array = arrays.new((4,), "float32", arrays.DEVICE, 0, stream)
    emulated.begin_capture(stream)
    del array
    gc.collect()
    assert emulated.count_allocations() == before + 1
    emulated.end_capture(stream)
    handle = arrays.keep(bytearray(4))
    emulated.run_all()
    assert emulated.count_allocations() == before
    arrays.release(handle)


def test_what_was_put_off_is_freed_with_the_module():
    """Nobody would come back to it."""
    module = checks.load("arrays")
    stream = emulated.create_stream()
    before = emulated.count_allocations()
    array = module.new((4,), "float32", module.DEVICE, 0, stream)
    emulated.begin_capture(stream)
    del array
    gc.collect()
    emulated.end_capture(stream)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
    emulated.run_all()
    assert emulated.count_allocations() == before


def test_a_deleter_is_put_off_too(arrays):
    stream, pointer = emulated.create_stream(), memory()
    handle = arrays.wrap(pointer, (4,), None, "float32", (2, 0), 0, 9)
    arrays.set_stream(handle, stream, 10)
    emulated.begin_capture(stream)
    arrays.release(handle)
    assert arrays.deleted() == []
    emulated.end_capture(stream)
    arrays.new((), "int8", arrays.HOST)
    assert arrays.deleted() == [9, 10]


def test_what_was_put_off_goes_with_the_module():
    """Nothing is left behind by a module that ends."""
    module = checks.load("arrays")
    module.forget_deleted()
    stream, pointer = emulated.create_stream(), memory()
    handle = module.wrap(pointer, (4,), None, "float32", (2, 0), 0, 11)
    module.set_stream(handle, stream, -1)
    emulated.begin_capture(stream)
    module.release(handle)
    emulated.end_capture(stream)
    other = module.wrap(pointer, (4,), None, "float32", (2, 0), 0, 12)
    module.release(other)
    assert sorted(module.deleted()) == [11, 12]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_freed_beside_the_captures_of_others(arrays, kind):
    """Another stream's capture stays intact, and the memory goes at once."""
    mine, other = emulated.create_stream(), emulated.create_stream()
    before = emulated.count_allocations()
    array = arrays.new((4,), "float32", getattr(arrays, kind), 0, mine)
    emulated.begin_capture(other, emulated.GLOBAL)
    del array
    emulated.end_capture(other)
    emulated.run_all()
    assert emulated.count_allocations() == before


# ----------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exported", [False, True])
def test_a_free_that_fails_raises_nothing(arrays, kind, exported):
    """Whatever call fails: no exception, no crash, the pending exception untouched, the device as before."""
    for nth in range(1, 40):
        array = arrays.new((4,), "float32", getattr(arrays, kind))
        if exported:
            array.__cuda_array_interface__
        emulated.fail(None, nth, 999)

        def run(array):
            raise KeyError(array.size)

        holder = [array]
        del array
        refusal = checks.catch(lambda: run(holder.pop()))[1]
        assert (refusal.type, refusal.causes) == (KeyError, [])
        came = emulated.count_failures() == 0
        emulated.clear_failures()
        checks.exchange_capture_mode(emulated.GLOBAL)
        emulated.set_device(0)
        if not came:
            break
    assert 1 < nth < 39


EXPORT_CALLS = {
    "interface": lambda arrays, array: array.__cuda_array_interface__,
    "array_interface": lambda arrays, array: array.__array_interface__,
    "legacy": lambda arrays, array: array.__dlpack__(),
    "versioned": lambda arrays, array: array.__dlpack__(max_version=(1, 0), stream=1, dl_device=(13, 0), copy=False),
    "copy": lambda arrays, array: array.__dlpack__(max_version=(1, 0), copy=True),
    "host": lambda arrays, array: array.__dlpack__(max_version=(1, 0), dl_device=(1, 0)),
    "buffer": lambda arrays, array: memoryview(array),
    "capsule": lambda arrays, array: array._capsule,
    "stream": lambda arrays, array: array.stream,
    "repr": lambda arrays, array: repr(array),
    "shape": lambda arrays, array: (array.shape, array.strides, array.dtype, array.device),
    "give": lambda arrays, array: arrays.give(array) if type(array).__name__ == "PyCapsule" else None,
}


@pytest.mark.parametrize("name", EXPORT_CALLS)
def test_the_nth_allocation_of_an_export_fails(arrays, name):
    """MemoryError or the usual result; nothing is leaked, and the array lives on and ends once."""
    call = EXPORT_CALLS[name]
    stream = emulated.create_stream()
    handle = arrays.wrap(emulated.allocate(16, "managed"), (4,), None, "float32", (13, 0), 0, 14)
    arrays.set_stream(handle, stream, -1)
    array = arrays.give(handle)
    arrays.release(handle)
    for _ in range(2):
        call(arrays, array)
    emulated.run_all()
    gc.collect()
    before, references = checks.cuda_state(), sys.getrefcount(array)
    for nth in range(1, 200):
        sys._getframe()
        result, allocations = faults.call_failing(call, nth, arrays, array)
        assert not isinstance(result, BaseException) or type(result) in (MemoryError, AttributeError), result
        del result
        gc.collect()
        assert sys.getrefcount(array) == references
        if allocations < nth:
            break
    else:
        raise AssertionError("never passes")
    emulated.run_all()
    assert checks.cuda_state() == before
    assert arrays.deleted() == []
    del array
    gc.collect()
    assert arrays.deleted() == [14]


@pytest.mark.parametrize("name", ["give", "keep", "to_capsule", "from_capsule", "give_like", "wrap", "new"])
def test_the_nth_allocation_of_a_call_in_c_fails(arrays, name):
    gone = []

    class Owner:
        pass

    for nth in range(1, 300):
        owner = Owner()
        weakref.finalize(owner, gone.append, nth).atexit = False
        array = shown(arrays, SIX, owner=owner)
        handle = arrays.keep(array)
        capsule = array._capsule
        like = np.zeros(1)
        arguments = {"give": (handle,), "keep": (array,), "to_capsule": (handle,), "from_capsule": (capsule,),
                     "give_like": (handle, like), "new": ((2, 3), "float32", arrays.HOST),
                     "wrap": (SIX.ctypes.data, (6,), None, "float32", (1, 0), 0, owner)}[name]
        sys._getframe()
        result, allocations = faults.call_failing(getattr(arrays, name), nth, *arguments)
        assert not isinstance(result, BaseException) or isinstance(result, (MemoryError, arrays.CAIError)), result
        del result, arguments, array, handle, capsule, owner
        gc.collect()
        arrays.new((), "int8", arrays.HOST)
        assert gone[-1:] == [nth]
        if allocations < nth:
            break
    else:
        raise AssertionError("never passes")
    assert gone == list(range(1, nth + 1))


def test_dlpack_names_stay_with_the_capsules(arrays):
    """Capsules keep pointers to their names, which outlive the module."""
    module = checks.load("arrays")
    capsule = wrapped_capsule(module)
    del module
    gc.collect()
    assert dlpack.capsule_name(capsule) == "dltensor_versioned"


def wrapped_capsule(module):
    return module.give(wrapped(module, SIX)).__dlpack__(max_version=(1, 0))
