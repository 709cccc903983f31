"""Times statements: calibrated loops, interleaved repeats, medians with their spread."""

import contextlib
import gc
import itertools
import time
from dataclasses import dataclass, field

# A statement stands so often in a loop that the loop itself weighs nothing.
UNROLLED = 10


class Cannot(Exception):
    """Why a library does not do a case."""


@dataclass
class Plan:
    """What to time: a statement over names. `context` makes what it runs in; `settle`, untimed, ends its work.

    The clock is that of the thread, which stands still while another process has the core.
    """

    statement: str
    names: dict
    context: object = contextlib.nullcontext
    settle: object = None
    most: int = 1 << 20  # calls in one go, before the work on a GPU is waited for
    clock: object = time.thread_time_ns


@dataclass
class Spread:
    """A median and the tenth and ninetieth of a hundred."""

    ns: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        ordered = sorted(values)
        return cls(*(quantile(ordered, part) for part in (0.5, 0.1, 0.9)))


def quantile(ordered, part):
    """Of sorted values, between two of them by weight."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def reason_of(error):
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    words = lines[0] if lines else ""
    return words if isinstance(error, Cannot) else f"{type(error).__name__}: {words}"[:160]


@dataclass
class Timer:
    """One library in one case."""

    plan: Plan
    chunk: object = None
    times: int = 1
    chunks: int = 1
    results: list = field(default_factory=list)

    def __post_init__(self):
        parameters = ", ".join(["_repeat", "_clock", *self.plan.names])
        body = "\n".join([f"        {self.plan.statement}"] * UNROLLED)
        loop = f"    _start = _clock()\n    for _ in _repeat:\n{body}\n    return _clock() - _start"
        scope = {}
        exec(f"def chunk({parameters}):\n{loop}", scope)
        self.chunk = scope["chunk"]

    def _run(self, times):
        spent = self.chunk(itertools.repeat(None, times), self.plan.clock, *self.plan.names.values())
        if self.plan.settle is not None:
            self.plan.settle()
        return spent

    def try_once(self):
        """The statement alone, so that what it cannot do is seen before anything is timed."""
        with self.plan.context():
            self._run(1)

    def calibrate(self, target):
        """Choose how often the statement runs for about `target` nanoseconds."""
        most = max(1, self.plan.most // UNROLLED)
        with self.plan.context():
            while self._run(self.times) * 8 < target and self.times * 2 <= most:
                self.times *= 2
            each = max(1, min(self._run(self.times) for _ in range(3))) / self.times
        wanted = max(1, round(target / each))
        self.times = min(most, wanted)
        self.chunks = max(1, round(wanted / self.times))

    def sample(self):
        """One more result, in nanoseconds for one statement."""
        with self.plan.context():
            spent = sum(self._run(self.times) for _ in range(self.chunks))
        self.results.append(spent / (self.times * UNROLLED * self.chunks))


class Race:
    """A case under way: plans by library, or the Cannot of one that has none. Libraries take turns."""

    def __init__(self, plans, target=2_000_000):
        self.order, self.timers, self.failures = list(plans), {}, {}
        for library, plan in plans.items():
            try:
                if isinstance(plan, Exception):
                    raise plan
                timer = Timer(plan)
                timer.try_once()
                timer.calibrate(target)
                self.timers[library] = timer
            except Exception as error:
                self.failures[library] = Cannot(reason_of(error))

    def sample(self, repeats):
        """So many more results for each library."""
        gc.collect()
        gc.disable()
        try:
            for _ in range(repeats):
                for library, timer in list(self.timers.items()):
                    try:
                        timer.sample()
                    except Exception as error:
                        self.failures[library] = Cannot(reason_of(error))
                        del self.timers[library]
        finally:
            gc.enable()

    def results(self):
        """Spreads and Cannots, by library."""
        results = self.failures | {library: Spread.of(timer.results) for library, timer in self.timers.items()}
        return {library: results[library] for library in self.order}


def shares(repeats, sweeps):
    """The repeats, divided among sweeps as evenly as can be."""
    return [repeats // sweeps + (sweep < repeats % sweeps) for sweep in range(sweeps)]
