"""The headers in CUDA files."""

import shutil

import pytest
from toolchain import HEADERS, INCLUDE, NEEDS_DLPACK, Compilation, cuda, dlpack_arguments, own_python

NVCC = (cuda().nvcc if cuda() is not None else None) or shutil.which("nvcc")
WARNINGS = ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Wshadow,-Werror"]
KEEP = "-DCAI_API=static inline __attribute__((used))"

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


def nvcc(header, standard, *arguments):
    command = (str(NVCC), f"-std={standard}", *WARNINGS, f"-I{INCLUDE}", *own_python().arguments, *arguments)
    return pytest.param(
        Compilation(command, f"#include <cai/{header}>\n#include <cai/{header}>\n", ".cu"), id=f"{header}-{standard}"
    )


def cases():
    for header in HEADERS:
        more = dlpack_arguments() if header in NEEDS_DLPACK else ()
        if more is not None:
            yield nvcc(header, "c++17", *more)
    yield from (nvcc(header, "c++20", KEEP, "-O2") for header in ("cai.h", "core.h"))


@pytest.mark.parametrize("compilation", list(cases()))
def test_header_in_a_cuda_file(compiled):
    assert compiled.returncode == 0, compiled.stderr
