"""The module of README.md, built as README.md says: what a reader would have who copies it."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def build(folder, cuda, python):
    """Write saxpy.c and kernel.cu into the folder and run the commands; what failed, or None.

    `cuda` is the folder of a toolkit. python3-config is that of `python`, whatever is first in PATH."""
    (folder / "saxpy.c").write_text(blocks("c")[0])
    (folder / "kernel.cu").write_text(blocks("cuda")[0])
    (commands,) = (block for block in blocks("sh") if "nvcc" in block)
    config = folder / "python3-config"
    config.write_text(f"#!/bin/sh\nexec '{python}' '{ROOT / 'tools/python_config.py'}' \"$@\"\n")
    config.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(cuda) / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CAI": str(ROOT), "CUDA": str(cuda)}
    done = subprocess.run(["bash", "-e", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr


def example():
    """The lines of Python that use the module."""
    (lines,) = (block for block in blocks("python") if "saxpy" in block)
    return lines
