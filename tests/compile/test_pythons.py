"""Every Python whose headers are on this machine, the limited API, and free-threaded builds."""

import pytest
from toolchain import INCLUDE, compilation, dialects, modes, oldest, own_python, supported_pythons

KEEP = "-DCAI_API=static inline __attribute__((used))"
SOURCE = "#include <cai/cai.h>\n"

LIMITED = 0x030B0000


def variants():
    """A Python, and what to define: nothing, the limited API of 3.11 and of itself, and a free-threaded build."""
    for python in supported_pythons():
        yield python, "full", []
        if python.version >= LIMITED:
            yield python, "limited-3.11", [f"-DPy_LIMITED_API={LIMITED:#010x}"]
        if python.version > LIMITED:
            yield python, "limited-own", [f"-DPy_LIMITED_API={python.version:#010x}"]
        # Free-threaded builds have the same headers with this set in their pyconfig.h.
        if python.version >= 0x030D0000 and not python.name.endswith("t"):
            yield python, "free-threaded", ["-DPy_GIL_DISABLED=1"]


def cases():
    mode, of_mode = list(modes().items())[-1]
    for python, variant, defines in variants():
        for dialect in oldest(dialects()):
            yield pytest.param(
                compilation(dialect, SOURCE, f"-I{INCLUDE}", *of_mode, *python.arguments, *defines, KEEP, "-O1"),
                id=f"{python.name}-{variant}-{dialect}",
            )


@pytest.mark.parametrize("compilation", list(cases()))
def test_pitfall_70_every_python(compiled):
    assert compiled.returncode == 0, compiled.stderr


@pytest.mark.parametrize("dialect", oldest(dialects()), ids=str)
def test_pitfall_70_limited_api_hides_the_rest(dialect):
    """The case above compiles because nothing else is used, and not because the option had no effect."""
    result = compilation(
        dialect,
        SOURCE + "const void *use = &PyTuple_GET_SIZE;\n",
        f"-I{INCLUDE}",
        "-DCAI_NO_CUDA",
        *own_python().arguments,
        f"-DPy_LIMITED_API={LIMITED:#010x}",
    ).run()
    if own_python().version < LIMITED:
        pytest.skip("this Python has no limited API of 3.11")
    assert result.returncode != 0 and "PyTuple_GET_SIZE" in result.stderr
