"""The bodies of all public functions: compiled and optimised, although nobody calls them."""

import re
import subprocess

import pytest
from toolchain import HEADERS, INCLUDE, compilation, dialects, dlpack_arguments, modes, oldest, own_python

# CAI_API is an option of the headers: with this value, compilers may not leave a function out.
KEEP = "-DCAI_API=static inline __attribute__((used))"


def umbrella():
    return "#include <cai/cai.h>\n" + ("#include <cai/dlpack_compat.h>\n" if dlpack_arguments() else "")


def arguments():
    return [f"-I{INCLUDE}", *own_python().arguments, *(dlpack_arguments() or ()), KEEP]


def cases():
    for mode, of_mode in modes().items():
        for dialect in oldest(dialects()):
            for level in ("-O0", "-O2", "-O3"):
                yield pytest.param(
                    compilation(dialect, umbrella(), *arguments(), *of_mode, level), id=f"{mode}-{dialect}{level}"
                )
    mode, of_mode = list(modes().items())[-1]
    for dialect in dialects():
        if dialect not in oldest(dialects()):
            yield pytest.param(
                compilation(dialect, umbrella(), *arguments(), *of_mode, "-O2"), id=f"{mode}-{dialect}-O2"
            )


@pytest.mark.parametrize("compilation", list(cases()))
def test_every_body_compiles(compiled):
    assert compiled.returncode == 0, compiled.stderr


def declared_functions():
    """Public functions as the headers declare them, in files without the lists of macros."""
    texts = [(INCLUDE / "cai" / header).read_text() for header in HEADERS]
    return {name for text in texts for name in re.findall(r"^CAI_API [^;{(]*?\b(cai_\w+)\(", text, re.MULTILINE)}


@pytest.mark.parametrize("mode", modes())
def test_every_declared_function_has_a_body(mode, tmp_path):
    dialect = oldest(dialects())[0]
    file, output = tmp_path / "all.c", tmp_path / "all.o"
    file.write_text(umbrella())
    subprocess.run([*dialect.command, *arguments(), *modes()[mode], "-O0", "-c", file, "-o", output], check=True)
    symbols = subprocess.run(["nm", output], check=True, capture_output=True, text=True).stdout
    found = set(re.findall(r" t (cai_\w+)$", symbols, re.MULTILINE))
    missing = declared_functions() - found - ({"cai_cuda_status"} if mode == "no-cuda" else set())
    assert len(found) > 80 and not missing
