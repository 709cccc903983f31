"""What must not compile, and what the compiler then says."""

import subprocess

import pytest
from toolchain import INCLUDE, Dialect, Compilation, cuda, cuda_arguments, dialects, own_python

C = [dialect for dialect in dialects() if dialect.standard == "c11"]
CPP = [dialect for dialect in dialects() if dialect.standard == "c++17"]

PYTHON_3_9 = "#define PY_VERSION_HEX 0x03090DF0\ntypedef struct { void *buf; } Py_buffer;\n"
CUDA_11 = "#define CUDART_VERSION 11080\n"


def refuse(dialect, source, *arguments):
    """The words of a compiler that refuses; warnings are no errors here, so that nothing else can be the reason."""
    command = [dialect.compiler, f"-std={dialect.standard}", "-Wall", f"-I{INCLUDE}", *map(str, arguments)]
    result = Compilation(tuple(command), source, dialect.suffix).run()
    assert result.returncode != 0, "it compiles"
    return result.stderr


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_options_that_contradict_each_other(dialect):
    words = refuse(dialect, "#include <cai/core.h>\n", "-DCAI_NO_CUDA", "-DCAI_CUDA_PREFIX=emulator_")
    assert "CAI_NO_CUDA and CAI_CUDA_PREFIX contradict each other" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_missing_cuda_header_names_both_ways_out(dialect):
    probe = subprocess.run(
        [dialect.compiler, "-x", "c", "-E", "-"],
        input="#include <cuda_runtime_api.h>\n",
        text=True,
        capture_output=True,
    )
    if probe.returncode == 0:
        pytest.skip("the CUDA headers are where compilers look by themselves")
    words = refuse(dialect, "#include <cai/core.h>\n")
    assert "cuda_runtime_api.h is not found" in words and "nvidia-cuda-runtime" in words and "CAI_NO_CUDA" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_cuda_api_without_cuda(dialect):
    words = refuse(dialect, "#include <cai/cuda_api.h>\n", "-DCAI_NO_CUDA")
    assert "cai/cuda_api.h was included although CAI_NO_CUDA is defined" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_cuda_older_than_12(dialect, tmp_path):
    (tmp_path / "cuda_runtime_api.h").write_text(CUDA_11)
    assert "cai needs CUDA 12.0 or newer" in refuse(dialect, "#include <cai/cuda_api.h>\n", "-isystem", tmp_path)


@pytest.mark.parametrize("dialect", C, ids=str)
@pytest.mark.parametrize("standard", ["c99", "gnu99", "c90"])
def test_c_older_than_c11(dialect, standard):
    assert "cai needs C11 or newer" in refuse(
        Dialect(dialect.compiler, standard), "#include <cai/core.h>\n", "-DCAI_NO_CUDA"
    )


@pytest.mark.parametrize("dialect", CPP, ids=str)
@pytest.mark.parametrize("standard", ["c++14", "c++11"])
def test_cpp_older_than_cpp17(dialect, standard):
    words = refuse(Dialect(dialect.compiler, standard), "#include <cai/core.h>\n", "-DCAI_NO_CUDA")
    assert "cai needs C++17 or newer" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_python_older_than_3_10(dialect, tmp_path):
    (tmp_path / "Python.h").write_text(PYTHON_3_9)
    words = refuse(dialect, "#include <cai/python_compat.h>\n", "-DCAI_NO_CUDA", f"-I{tmp_path}")
    assert "cai needs Python 3.10 or newer" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
@pytest.mark.parametrize("limited", ["0x030A0000", "0x03080000", "3"])
def test_limited_api_older_than_3_11(dialect, limited):
    words = refuse(
        dialect,
        "#include <cai/python_compat.h>\n",
        "-DCAI_NO_CUDA",
        f"-DPy_LIMITED_API={limited}",
        *own_python().arguments,
    )
    assert "cai needs Py_LIMITED_API of 0x030B0000" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_official_dlpack_header_missing(dialect):
    probe = subprocess.run(
        [dialect.compiler, "-x", "c", "-E", "-"], input="#include <dlpack/dlpack.h>\n", text=True, capture_output=True
    )
    if probe.returncode == 0:
        pytest.skip("a DLPack header is where compilers look by themselves")
    assert "dlpack/dlpack.h is not found" in refuse(dialect, "#include <cai/dlpack_compat.h>\n", "-DCAI_NO_CUDA")


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_official_dlpack_header_older_than_0_6(dialect, tmp_path):
    (tmp_path / "dlpack").mkdir()
    (tmp_path / "dlpack/dlpack.h").write_text("#define DLPACK_VERSION 050\n")
    words = refuse(dialect, "#include <cai/dlpack_compat.h>\n", "-DCAI_NO_CUDA", f"-I{tmp_path}")
    assert "cai/dlpack_compat.h needs DLPack 0.6 or newer" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_official_dlpack_header_with_another_layout(dialect, tmp_path):
    """What the assertions of dlpack_compat.h are there for."""
    changed = (
        "#pragma once\n#define DLPACK_VERSION 80\n#include <stdint.h>\n"
        "typedef enum { kDLCPU = 1 } DLDeviceType;\n"
        "typedef struct { DLDeviceType device_type; int device_id; } DLDevice;\n"
        "typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;\n"
        "typedef struct { void *data; DLDevice device; int64_t ndim; DLDataType dtype; int64_t *shape, *strides;\n"
        "                 uint64_t byte_offset; } DLTensor;\n"
        "typedef struct DLManagedTensor { DLTensor dl_tensor; void *manager_ctx;\n"
        "                                 void (*deleter)(struct DLManagedTensor *); } DLManagedTensor;\n"
    )
    (tmp_path / "dlpack").mkdir()
    (tmp_path / "dlpack/dlpack.h").write_text(changed)
    words = refuse(dialect, "#include <cai/dlpack_compat.h>\n", "-DCAI_NO_CUDA", f"-I{tmp_path}")
    assert "cai_tensor_t.dtype lies elsewhere than DLTensor.dtype" in words
    (tmp_path / "dlpack/dlpack.h").write_text(changed.replace("int64_t ndim", "int ndim"))
    command = [dialect.compiler, f"-std={dialect.standard}", f"-I{INCLUDE}", f"-I{tmp_path}", "-DCAI_NO_CUDA"]
    right = Compilation(tuple(command), "#include <cai/dlpack_compat.h>\n", dialect.suffix).run()
    assert right.returncode == 0, right.stderr


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
@pytest.mark.parametrize("call", ["cai_tensor_validate(NULL, NULL)", "cai_request_check(NULL, NULL, 0, NULL, NULL)"])
def test_status_that_is_not_looked_at(dialect, call):
    source = f"#include <cai/core.h>\nvoid use(void);\nvoid use(void)\n{{\n    {call};\n}}\n"
    words = refuse(dialect, source, "-DCAI_NO_CUDA", "-Werror=unused-result")
    assert "unused" in words or "ignoring return value" in words


@pytest.mark.parametrize("dialect", C + CPP, ids=str)
def test_message_format_is_checked(dialect):
    source = (
        "#include <cai/core.h>\nvoid use(void);\nvoid use(void)\n{\n    cai_error_t error;\n"
        '    (void)cai_error_set(&error, CAI_ERROR_MEMORY, "%s", 1);\n}\n'
    )
    assert "format" in refuse(dialect, source, "-DCAI_NO_CUDA", "-Werror=format")


def test_the_same_compiles_where_nothing_is_wrong():
    """None of the refusals above is due to the way of compiling."""
    for dialect in C + CPP:
        arguments = [f"-I{INCLUDE}", *(cuda_arguments() if cuda() else ["-DCAI_NO_CUDA"]), *own_python().arguments]
        command = [dialect.compiler, f"-std={dialect.standard}", *arguments]
        result = Compilation(tuple(command), "#include <cai/cai.h>\n", dialect.suffix).run()
        assert result.returncode == 0, result.stderr
