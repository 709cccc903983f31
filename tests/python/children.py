"""Python in a process of its own: for what would end, hang or change the process of the tests."""

import os
import subprocess
import sys
import textwrap

if sys.version_info >= (3, 13):
    import _interpreters as interpreters
else:
    import _xxsubinterpreters as interpreters

TIMEOUT = 60  # seconds


class Interpreter:
    """One more interpreter in this process, which shares the GIL."""

    def __init__(self):
        self._id = interpreters.create("legacy") if sys.version_info >= (3, 13) else interpreters.create(isolated=False)

    def run(self, code):
        """What it raises is raised here."""
        run = interpreters.exec if sys.version_info >= (3, 13) else interpreters.run_string
        failed = run(self._id, code)
        assert failed is None, failed.formatted

    def destroy(self):
        interpreters.destroy(self._id)


def run(code, *arguments, timeout=TIMEOUT):
    """Run code with the tests' modules at hand: what it printed. It must end by itself, well, and without a word of
    complaint."""
    path = os.pathsep.join(entry or os.curdir for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], env=environment,
                           capture_output=True, text=True, timeout=timeout)
    assert (child.returncode, child.stderr) == (0, ""), f"{child.returncode}\n{child.stdout}\n{child.stderr}"
    return child.stdout
