"""The layers: which header includes which, and that no header sees Python, CUDA or DLPack where it must not."""

import re

import pytest
from toolchain import (
    CORE_HEADERS,
    HEADERS,
    INCLUDE,
    NEEDS_CUDA,
    NEEDS_DLPACK,
    POISON,
    compilation,
    cuda,
    dialects,
    modes,
    oldest,
    own_python,
)

# What each header includes, and no more. Headers of the C library are free to all.
LAYERS = {
    "config.h": [],
    "status.h": ["config"],
    "dlpack_abi.h": ["config"],
    "dtype.h": ["dlpack_abi", "status"],
    "tensor.h": ["dtype"],
    "request.h": ["tensor"],
    "stream.h": ["status"],
    "cuda_api.h": ["config", "<cuda_runtime_api.h>"],
    "device.h": ["cuda_api", "tensor"],
    "order_pool.h": ["device", "stream"],
    "order.h": ["order_pool"],
    "view.h": ["order", "request"],
    "array.h": ["order", "request"],
    "managed_tensor.h": ["array", "view"],
    "core.h": [
        "config",
        "status",
        "dlpack_abi",
        "dtype",
        "tensor",
        "request",
        "stream",
        "cuda_api",
        "device",
        "order_pool",
        "order",
        "view",
        "array",
        "managed_tensor",
    ],
    "python_compat.h": ["core", "<Python.h>", "<structmember.h>"],
    "return_queue.h": ["python_compat"],
    "state.h": ["return_queue"],
    "reader.h": ["state"],
    "cuda_array_interface.h": ["reader"],
    "dlpack.h": ["managed_tensor", "reader"],
    "exchange.h": ["managed_tensor", "reader"],
    "buffer.h": ["reader"],
    "numpy_array.h": ["reader"],
    "cuda_stream.h": ["reader"],
    "array_type.h": ["buffer", "cuda_array_interface", "cuda_stream", "dlpack", "exchange"],
    "view_order.h": ["reader"],
    "at_once.h": ["exchange", "numpy_array"],
    "object.h": ["array_type", "at_once", "view_order"],
    "array_object.h": ["object"],
    "argument.h": ["object"],
    "call.h": ["object"],
    "cai.h": [
        "python_compat",
        "core",
        "return_queue",
        "state",
        "reader",
        "cuda_array_interface",
        "dlpack",
        "exchange",
        "buffer",
        "numpy_array",
        "at_once",
        "view_order",
        "cuda_stream",
        "array_type",
        "object",
        "array_object",
        "argument",
        "call",
    ],
    "dlpack_compat.h": ["core", "<dlpack/dlpack.h>"],
}

C_LIBRARY = {"stdarg.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h", "pthread.h"}


def included_by(header):
    """The headers of cai without their suffix, foreign ones in angle brackets, the C library's left out."""
    names = re.findall(r"^\s*#\s*include\s+[<\"]([^>\"]+)[>\"]", (INCLUDE / "cai" / header).read_text(), re.MULTILINE)
    return [
        name[len("cai/") : -len(".h")] if name.startswith("cai/") else f"<{name}>"
        for name in names
        if name not in C_LIBRARY
    ]


def test_every_header_has_its_place():
    assert sorted(LAYERS) == sorted(HEADERS)


@pytest.mark.parametrize("header", HEADERS)
def test_header_includes_what_its_layer_allows(header):
    assert sorted(included_by(header)) == sorted(LAYERS.get(header, []))


@pytest.mark.parametrize("header", HEADERS)
def test_headers_are_included_with_angle_brackets(header):
    assert not re.findall(r'^\s*#\s*include\s+"', (INCLUDE / "cai" / header).read_text(), re.MULTILINE)


# ----------------------------------------------------------------------------------------------------- poisoned headers

PYTHON, CUDA, DLPACK = (f"-I{POISON / name}" for name in ("python", "cuda", "dlpack"))


def poisoned(header, dialect, mode, *poison):
    """A header compiled with poisoned folders before all others."""
    python = [] if PYTHON in poison else own_python().arguments
    return pytest.param(
        compilation(dialect, f"#include <cai/{header}>\n", *poison, f"-I{INCLUDE}", *modes()[mode], *python),
        id=f"{header}-{mode}-{dialect.compiler}",
    )


def core_cases():
    for mode in modes():
        for header in CORE_HEADERS:
            if mode != "no-cuda" or header not in NEEDS_CUDA:
                poison = [PYTHON, DLPACK] + ([CUDA] if mode == "no-cuda" else [])
                yield from (poisoned(header, dialect, mode, *poison) for dialect in oldest(dialects()))


@pytest.mark.parametrize("compilation", list(core_cases()))
def test_the_core_floor_needs_neither_python_nor_dlpack_nor_without_cuda_the_runtime(compiled):
    assert compiled.returncode == 0, compiled.stderr


def other_cases():
    for mode in modes():
        for header in HEADERS:
            if header not in NEEDS_DLPACK and (mode != "no-cuda" or header not in NEEDS_CUDA):
                poison = [DLPACK] + ([CUDA] if mode == "no-cuda" else [])
                yield from (poisoned(header, dialect, mode, *poison) for dialect in oldest(dialects())[:1])


@pytest.mark.parametrize("compilation", list(other_cases()))
def test_no_header_needs_dlpack_nor_without_cuda_the_runtime(compiled):
    assert compiled.returncode == 0, compiled.stderr


POISONOUS = {"python_compat.h": PYTHON, "dlpack_compat.h": DLPACK, "cuda_api.h": CUDA}


@pytest.mark.parametrize(
    "compilation",
    [
        poisoned(header, oldest(dialects())[0], "no-cuda" if header not in NEEDS_CUDA else "cuda", poison)
        for header, poison in POISONOUS.items()
        if header not in NEEDS_CUDA or cuda() is not None
    ],
)
def test_the_poison_works(compiled):
    assert compiled.returncode != 0
    assert "was included where it must not be" in compiled.stderr
