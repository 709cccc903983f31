"""A machine with one GPU is spared questions: everything else is as on a machine with several."""

import itertools

import numpy as np
import pytest

import checks
import emulated
import loans
import producers
import tables
from emulated import LEGACY, PER_THREAD

# What a machine with one GPU need not ask.
QUESTIONS = {"cudaGetDevice", "cudaSetDevice", "cudaGetDeviceCount", "cudaStreamGetDevice", "cudaPointerGetAttributes"}

FOUR = np.zeros(4, "f4")


def own_array(arrays, stream):
    handle = arrays.new_handle((4,), "float32", arrays.DEVICE, 0, stream)
    made = arrays.give(handle)
    arrays.release(handle)
    return made


# Arguments, made of the array module and two streams; tables tell the stream of the last tensor that was made.
KINDS = {
    "tensor": lambda arrays, s, t: loans.table_array(loans.Tensor),
    "interface": lambda arrays, s, t: producers.Interface(FOUR, stream=s),
    "interface on another stream": lambda arrays, s, t: producers.Interface(FOUR, stream=t),
    "interface on legacy": lambda arrays, s, t: producers.Interface(FOUR, stream=LEGACY),
    "interface on the thread's stream": lambda arrays, s, t: producers.Interface(FOUR, stream=PER_THREAD),
    "interface that is ready": lambda arrays, s, t: producers.Interface(FOUR, stream=None),
    "interface that is silent": lambda arrays, s, t: producers.Interface(FOUR, version=2),
    "empty interface": lambda arrays, s, t: producers.Interface(FOUR[:0], stream=t),
    "pinned interface": lambda arrays, s, t: producers.Interface(FOUR, stream=s, kind="pinned"),
    "managed interface": lambda arrays, s, t: producers.Interface(FOUR, stream=s, kind="managed"),
    "DLPack": lambda arrays, s, t: producers.DLPack(FOUR, stream=s),
    "both": lambda arrays, s, t: producers.Both(FOUR, stream=s),
    "array": lambda arrays, s, t: own_array(arrays, s),
    "array on the thread's stream": lambda arrays, s, t: own_array(arrays, PER_THREAD),
    "NumPy": lambda arrays, s, t: FOUR,
}

PAIRS = list(itertools.product(KINDS, repeat=2))


def calls_of(n_devices, kinds, order):
    """What a call on those arguments tells, and which calls of CUDA it makes, on a machine with so many GPUs."""
    emulated.reset()
    assert emulated.set_device_count(n_devices) == 0
    probe, arrays = checks.load("probe"), checks.load("arrays")
    s, t = emulated.create_stream(), emulated.create_stream()
    names = {s: "s", t: "t", LEGACY: "legacy", PER_THREAD: "per-thread", None: None, 0: None}
    tables.set_stream(s)
    arguments = tuple(KINDS[kind](arrays, s, t) for kind in kinds)
    requests = tuple({"name": name, "memory": probe.ANYWHERE} for name in "ab"[:len(kinds)])
    rounds = []
    for _ in range(2):  # the types are known from the second time on
        emulated.run_all()
        emulated.clear_calls()
        told, refusal = checks.catch(probe.call, arguments, requests, t if order == "wait" else order, None)
        if refusal is not None:
            rounds.append(refusal.type.__name__)
            continue
        emulated.run_all()
        views = [(names[view["stream"]], view["flags"], view["size"], view["device"])
                 for view in told["views"]]
        made = [(call["name"], names.get(call["stream"], "a helper")) for call in emulated.calls()
                if call["name"] not in QUESTIONS]
        rounds.append((names[told["stream"]], told["device"], views, made))
    del arguments, told
    emulated.run_all()
    probe.acquire(FOUR, "none", {"memory": probe.ANYWHERE}).release()  # what comes back late has come back
    return rounds


@pytest.mark.parametrize("order", ["adopt", "none", "block", "wait"])
@pytest.mark.parametrize("kinds", [(kind,) for kind in KINDS] + PAIRS, ids=lambda kinds: " and ".join(kinds))
def test_a_call_orders_what_it_orders_on_a_machine_with_several(kinds, order):
    with loans.torch_imported():
        several, one = calls_of(2, kinds, order), calls_of(1, kinds, order)
    assert one == several
    assert len(several) == 2


def test_two_streams_are_ordered_there_and_back_on_one_gpu():
    """That the comparison above is not one of nothing with nothing."""
    with loans.torch_imported():
        stream, device, _, made = calls_of(1, ("tensor", "interface on another stream"), "adopt")[1]
    assert (stream, device) == ("s", (2, 0))
    assert [stream for name, stream in made if name == "cudaStreamWaitEvent"] == ["s", "t"]
