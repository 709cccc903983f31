"""What the CUDA runtime does by itself: the suite that the emulator passes too, on the GPU that is here."""

import os
import pathlib
import subprocess

import pytest

PROGRAM = pathlib.Path(os.environ.get("CAI_BEHAVIOURS", "behaviours_device"))


def test_behaviours_of_the_runtime():
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM.name} is not built")
    result = subprocess.run([str(PROGRAM)], capture_output=True, text=True, timeout=300)
    failed = [line for line in result.stdout.splitlines() if line.startswith("not ok")]
    assert failed == [] and result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
