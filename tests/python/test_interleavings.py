"""Any sequence of acquire, use, release, export and drop, on several arrays, streams and devices, is seen in its order.

CAI_INTERLEAVINGS is the number of programs for a long run of new ones; a usual run has the same few hundred every time.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import loans
from interleavings import Machine

LONG = int(os.environ.get("CAI_INTERLEAVINGS", "0"))

# Operations, with the number of numbers that each of them takes, the more common ones more often.
OPERATIONS = {
    "lend": 3, "make": 3, "work": 2, "acquire": 3, "keep": 4, "use": 2, "tell": 1, "end": 2, "call": 5, "export": 3,
    "use_elsewhere": 3, "tell_owner": 2, "set_stream": 2, "drop": 2, "order": 2, "synchronize": 1, "step": 2,
}
COMMON = ["lend", "make", "work", "acquire", "use", "use", "use", "end", "drop", "step"]

# One number has what all the choices of an operation are made by.
BASE = 12
operations = st.tuples(st.sampled_from([*OPERATIONS, *COMMON]), st.integers(0, BASE ** max(OPERATIONS.values()) - 1))

# Lists of lists are as long as programs should be, and still shrink to nothing.
programs = st.lists(st.lists(operations, max_size=12), max_size=12)


@pytest.fixture
def machine():
    machine = Machine()
    with loans.torch_imported():
        yield machine
    machine.end()


@settings(max_examples=LONG or 300, derandomize=not LONG, database=None, deadline=None,
          suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
@given(parts=programs, seed=st.integers(0, 2**32))
def test_any_program_sees_its_own_order(machine, parts, seed):
    program = machine.program()
    try:
        for name, number in (operation for part in parts for operation in part):
            getattr(program, name)(*(number // BASE**place % BASE for place in range(OPERATIONS[name])))
        program.finish(seed)
    except BaseException:
        note("\n".join(program.said))
        program.abandon()
        machine.begin_again()
        raise
