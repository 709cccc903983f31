"""Public constants in static initialisers, of both languages and without code that runs at start-up."""

import re

import pytest
from toolchain import HEADERS, INCLUDE, check, compile_to, dialects

# Macros that are no constants: attributes, lists, options, and what is said about the compiler.
NO_CONSTANTS = {"CAI_API", "CAI_NODISCARD"}


def constants():
    """Object-like public macros and their values."""
    found = {}
    for header in HEADERS:
        if header in ("python_compat.h", "cuda_api.h", "dlpack_compat.h"):
            continue
        text = (INCLUDE / "cai" / header).read_text()
        for name, value in re.findall(r"^#define (CAI_(?!IMPL)\w+)[ \t]+(\S.*)$", text, re.MULTILINE):
            if name not in NO_CONSTANTS:
                found[name] = value
    return found


def enumerators():
    texts = [(INCLUDE / "cai" / header).read_text() for header in HEADERS]
    bodies = [body for text in texts for body in re.findall(r"\benum\b[^{;]*\{([^}]*)\}", text)]
    names = {name for body in bodies for name in re.findall(r"^\s*(CAI_\w+)", body, re.MULTILINE)}
    return sorted(name for name in names if not name.startswith("CAI_IMPL_") and name != "CAI_STATUS_LIST")


def declarations():
    lines = []
    for name, value in constants().items():
        kind = (
            "cai_dtype_t"
            if value.startswith("{")
            else "const char *"
            if value.startswith('"')
            else f"__typeof__({name})"
        )
        lines.append(f"extern {kind} const c_{name};\n{kind} const c_{name} = {name};")
    lines += [f"extern const long e_{name};\nconst long e_{name} = {name};" for name in enumerators()]
    return lines


SOURCE = """
#include <cai/core.h>
{declarations}
extern const cai_dtype_t opaque, dtypes[2];
const cai_dtype_t opaque = CAI_OPAQUE(16), dtypes[2] = {{CAI_FLOAT32, CAI_BFLOAT16}};
extern const int64_t shape[2];
const int64_t shape[2] = {{CAI_EXTENT(3), CAI_EMPTY_EXTENT}};
extern const uint32_t require;
const uint32_t require = CAI_WRITABLE | CAI_C_CONTIGUOUS;
"""

DESIGNATED = """
extern const cai_request_t want;
const cai_request_t want = {.name = "x", .dtype = CAI_FLOAT32, .ndim = 2, .shape = {CAI_EXTENT(0), CAI_EMPTY_EXTENT},
                            .require = CAI_WRITABLE | CAI_SAME_SHAPE, .memory = CAI_ANYWHERE, .protocols = CAI_VIA_DLPACK};
extern const cai_request_t wants[1];
const cai_request_t wants[1] = {{.name = "y", .dtypes = dtypes, .n_dtypes = 2, .ndim = CAI_SCALAR}};
"""


def test_enough_constants_were_found():
    assert len(constants()) > 50 and len(enumerators()) >= 70


@pytest.mark.parametrize("dialect", dialects(), ids=str)
def test_constants_in_static_initialisers(dialect, tmp_path):
    # In C++ before C++20 designated initialisers are an extension.
    source = SOURCE.format(declarations="\n".join(declarations()))
    if not dialect.is_cpp or dialect.standard != "c++17":
        source += DESIGNATED
    more = ["-Wno-missing-field-initializers"] if dialect.is_cpp else []
    output = compile_to(tmp_path, "constants", dialect, source, f"-I{INCLUDE}", "-DCAI_NO_CUDA", "-O0", *more)
    symbols = check("nm", output)
    assert not re.search(r"_GLOBAL__sub_I|__cxx_global_var_init|__static_initialization", symbols), (
        "code runs at start-up"
    )
