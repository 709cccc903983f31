"""The complete module that README.md shows: it builds as it stands, and says no to what it does not take."""

import subprocess
import sys

import find_cuda
import pytest
import readme

USE = """
import array, saxpy
try:
    saxpy.saxpy(array.array("f", 3 * [0]), 1, 2)
except saxpy.CAIError as error:
    print(type(error).__name__, error)
"""


def test_the_module_of_the_readme_builds_and_loads(tmp_path):
    toolkit = find_cuda.find_toolkit()
    if toolkit is None or toolkit.nvcc is None:
        pytest.skip("there is no nvcc")
    assert readme.build(tmp_path, toolkit.root, sys.executable) is None
    used = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout.startswith("DeviceMismatchError argument 's': expected an array in CUDA or managed memory; got host")
