"""The tests that use CuPy and cai alone, once more under compute-sanitizer: no access outside what is allocated."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
TESTS = " or ".join(
    ["by_cupy", "reused", "cupy_stream", "freed_later", "come_and_go", "copy_on_the_device", "consumers_stream"]
)


def sanitizer():
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def test_memcheck_finds_nothing():
    if os.environ.get("CAI_MEMCHECK") == "1":
        pytest.skip("this is the run that is checked")
    if sanitizer() is None:
        pytest.skip("compute-sanitizer is not installed")
    program = [sanitizer(), "--tool", "memcheck", "--target-processes", "all", "--error-exitcode", "9"]
    suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={HERE}"]
    command = [*program, *suite, str(HERE / "test_arrays_out.py"), "-k", TESTS]
    environment = {**os.environ, "CAI_MEMCHECK": "1", "CUPY_CACHE_IN_MEMORY": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and "ERROR SUMMARY: 0 errors" in done.stdout, done.stdout[-4000:] + done.stderr[-1000:]
