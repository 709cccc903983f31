"""What the CUDA runtime does by itself: the suite that the emulator passes too, on the GPU that is here.

CAI_BEHAVIOURS_LOG=PATH writes what it saw to that file, with date and versions; tests/emulator/gpu-log.txt is such a log.
"""

import collections
import datetime
import os
import pathlib
import shutil
import subprocess

import pytest

PROGRAM = pathlib.Path(os.environ.get("CAI_BEHAVIOURS", "behaviours_device"))
LOG = os.environ.get("CAI_BEHAVIOURS_LOG")

EXPLANATION = """\
# What the suite of behaviours (behaviours.c) saw on a real GPU. The emulator passes the same tests. Lines that begin with
# "# answer" are noted and judged by nobody: they are what the emulator goes by where neither measurement nor header said.
# Written by tests/gpu/test_behaviours.py: CAI_BEHAVIOURS_LOG=tests/emulator/gpu-log.txt tests/run --gpu gpu -k behaviours
"""


def version(number):
    """13.0 for what CUDA calls 13000."""
    return f"{number // 1000}.{number % 1000 // 10}"


def describe_gpus():
    """The lines "GPU" and "driver" of the log, as nvidia-smi tells them."""
    if shutil.which("nvidia-smi") is None:
        return ["# GPU: unknown, for want of nvidia-smi"]
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    rows = [[part.strip() for part in line.split(",")] for line in result.stdout.splitlines() if line.count(",") == 1]
    names = collections.Counter(name for name, _ in rows)
    gpus = [f"# GPU: {count} x {name}" for name, count in sorted(names.items())]
    return gpus + [f"# driver: {driver}" for driver in sorted({driver for _, driver in rows})]


def log(cuda, output):
    """The text of the log, in which nothing but the date differs between two runs that saw the same."""
    versions = [version(cuda.number(name)) for name in ("cudaRuntimeGetVersion", "cudaDriverGetVersion")]
    header = [
        f"# date: {datetime.datetime.now(datetime.timezone.utc).date().isoformat()}",
        *describe_gpus(),
        f"# CUDA runtime: {versions[0]}; the driver's own: {versions[1]}",
    ]
    return EXPLANATION + "".join(f"{line.rstrip()}\n" for line in [*header, *output.splitlines()])


def test_behaviours_of_the_runtime(cuda):
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM.name} is not built")
    result = subprocess.run([str(PROGRAM)], capture_output=True, text=True, timeout=300)
    if LOG:
        pathlib.Path(LOG).write_text(log(cuda, result.stdout))
    failed = [line for line in result.stdout.splitlines() if line.startswith("not ok")]
    assert failed == [] and result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
