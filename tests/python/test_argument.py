"""Arrays as arguments of PyArg_ParseTuple: a converter that cleans up after an argument that fails behind it."""

import gc
import sys

import numpy as np
import pytest

import checks
import emulated
import loans
from producers import DLPack, Interface

SIX = np.arange(6, dtype="f4").reshape(2, 3)
REQUIRED, OPTIONAL = "O&O&i", "O&|O&i"


class Counted:
    """An integer that says whether it was asked for, or raises."""

    def __init__(self, raises=None):
        self.asked, self.raises = 0, raises

    def __index__(self):
        self.asked += 1
        if self.raises is not None:
            raise self.raises
        return 7


def sources():
    """An array of each kind that holds something until it is released."""
    return [Interface(SIX), DLPack(SIX, tensor={"owner": None}),
            loans.table_array(loans.Owning, SIX.tobytes(), shape=(2, 3)), SIX.copy(), bytearray(24)]


def held(probe, items):
    """What would change if one of them were still held."""
    checks.Checks(probe).settle(lambda: emulated.count_pending() == 0)
    for item in items:
        if isinstance(item, bytearray):
            item.append(0)  # raises while somebody holds the buffer
            del item[-1:]
    gc.collect()
    return [sys.getrefcount(item) for item in items], checks.cuda_state()


@pytest.mark.parametrize("kind", range(5))
def test_views_of_arguments(probe, kind):
    x, y = sources()[kind], sources()[kind]
    request = {"memory": probe.ANYWHERE}
    before = held(probe, [x, y])
    for _ in range(2):
        views, number, statuses = probe.parse((x, y, 5), "adopt", request, REQUIRED)
        assert [view["size"] for view in views] == [24 if kind == 4 else 6] * 2
        assert views[0]["pointer"] != views[1]["pointer"]
        assert (number, statuses) == (5, ("OK", "OK"))
    del views
    assert held(probe, [x, y]) == before


def test_arguments_that_are_left_out(probe):
    """Their views hold nothing, and may be released."""
    views, number, statuses = probe.parse((Interface(SIX),), "adopt", {}, OPTIONAL)
    assert views[0]["shape"] == (2, 3) and views[1] is None
    assert (number, statuses) == (0, ("OK", "OK"))


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("third", ["text", Counted(ZeroDivisionError), Counted(KeyboardInterrupt), 1 << 40, None],
                         ids=["text", "raises", "ends", "large", "missing"])
def test_a_later_argument_that_fails(probe, kind, third):
    """What was converted before is given back, and the exception is that of the argument."""
    x, y = sources()[kind], sources()[kind]
    before = held(probe, [x, y])
    arguments = (x, y) if third is None else (x, y, third)
    made, refusal = checks.catch(probe.parse, arguments, "adopt", {"memory": probe.ANYWHERE}, REQUIRED)
    assert made is None
    plain = OverflowError if type(third) is int else TypeError
    assert refusal.type is (third.raises if isinstance(third, Counted) else plain)
    assert refusal.causes == []
    del arguments
    assert held(probe, [x, y]) == before
    if isinstance(x, DLPack):
        assert [item.deletions for item in [*x.made, *y.made]] == ([] if third is None else [1, 1])


def test_a_second_array_that_is_refused(probe):
    """By the message of an acquire; the first array is given back, and what is behind is not looked at."""
    x, third = DLPack(SIX, tensor={"owner": None}), Counted()
    before = held(probe, [x])
    made, refusal = checks.catch(probe.parse, (x, np.zeros(3), third), "adopt", {"name": "y"}, REQUIRED)
    assert made is None and refusal.type is probe.DeviceMismatchError
    assert refusal.message.startswith("argument 'y': expected an array in CUDA or managed memory")
    assert third.asked == 0
    assert held(probe, [x]) == before and [item.deletions for item in x.made] == [1]


def test_a_first_array_that_is_refused(probe):
    """There is nothing to clean up."""
    y = Interface(SIX)
    before = sys.getrefcount(y)
    made, refusal = checks.catch(probe.parse, (object(), y, 1), "adopt", {}, REQUIRED)
    assert made is None and refusal.type is probe.InterfaceNotImplementedError
    assert sys.getrefcount(y) == before


def test_arguments_are_ordered(probe):
    """The producer's work comes before the consumer's, and what was enqueued comes before the producer's next."""
    stream, consumer = emulated.create_stream(), emulated.create_stream()
    loans_ = [loans.Loan("interface-v3", stream) for _ in range(2)]
    arguments = (loans_[0].give(), loans_[1].give(), 1)
    views = probe.parse(arguments, consumer, {}, REQUIRED)[0]
    assert [view["stream"] for view in views] == [consumer] * 2
    seen = loans_[0].read_later(consumer)
    emulated.synchronize(consumer)
    assert seen == [loans.NEW]


def test_a_clean_up_that_fails(probe):
    """A CUDA call fails while the first array is given back: the exception stays the later argument's."""
    stream, consumer = emulated.create_stream(), emulated.create_stream()
    x = Interface(SIX, stream=stream)
    before = sys.getrefcount(x)

    class Failing:
        def __index__(self):
            emulated.fail(None, 1, 999)
            raise ZeroDivisionError

    made, refusal = checks.catch(probe.parse, (x, x, Failing()), consumer, {}, REQUIRED)
    emulated.clear_failures()
    assert made is None and (refusal.type, refusal.causes) == (ZeroDivisionError, [])
    assert sys.getrefcount(x) == before and emulated.get_device() == 0
