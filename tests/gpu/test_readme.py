"""The module of README.md, and the lines that use it, on the GPU."""

import subprocess
import sys

import find_cuda
import readme


def test_the_lines_of_the_readme(tmp_path, cupy, torch):
    """All but the last, which is refused as the comment behind it says."""
    assert readme.build(tmp_path, find_cuda.find_toolkit().root, sys.executable) is None
    *lines, last = readme.example().rstrip().splitlines()
    error, words = last.split("# ")[1].rstrip("…").split(": ", 1)
    program = "\n".join(
        [
            *lines,
            "assert s.tolist() == [1.0, 3.0, 5.0, 7.0, 9.0], s",
            "try:",
            f"    {last}",
            f"except saxpy.{error} as error:",
            f"    assert str(error).startswith({words!r}), error",
            "else:",
            "    raise AssertionError('not refused')",
        ]
    )
    used = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
