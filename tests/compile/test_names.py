"""Names and storage: everything that the headers define is named cai_ or CAI_, and nothing of it can be written to."""

import re

import pytest
from toolchain import INCLUDE, check, compile_to, dialects, dlpack_arguments, modes, oldest, own_python

# What Python's documentation asks every includer to define.
FOREIGN_MACROS = {"PY_SSIZE_T_CLEAN"}

UMBRELLA = "#include <cai/cai.h>\n" + ("#include <cai/dlpack_compat.h>\n" if dlpack_arguments() else "")


def arguments(mode):
    return [f"-I{INCLUDE}", *modes()[mode], *own_python().arguments, *(dlpack_arguments() or ())]


def own_lines(text):
    """Of a preprocessed file what stems from cai's headers."""
    own, lines = False, []
    for line in text.splitlines():
        marker = re.match(r'# \d+ "([^"]*)"', line)
        if marker:
            own = "/include/cai/" in marker.group(1)
        elif own:
            lines.append(line)
    return lines


def preprocessed(mode, tmp_path, *more):
    file = tmp_path / "all.c"
    file.write_text(UMBRELLA)
    return own_lines(check(oldest(dialects())[0].compiler, "-std=c11", *arguments(mode), "-E", *more, file))


def drop_bodies(text):
    """Without what stands in the braces of functions; those of types stay."""
    kept, depth = [], 0
    for part in re.split(r"(\)\s*\{|[{}])", text):
        if depth > 0 or part.startswith(")"):
            depth += part.endswith("{")
            depth -= part == "}"
            kept += [");"] if part.startswith(")") and depth == 1 else []
        else:
            kept.append(part)
    return "".join(kept)


def declared_names(lines):
    """Functions, types, tags, enumerators and variables at file scope."""
    text = re.sub(
        r"__attribute__\s*\(\(.*?\)\)(?=[\s;{]|$)", " ", "\n".join(line for line in lines if not line.startswith("#"))
    )
    text = re.sub(r'extern "C"', " ", text)
    text = re.sub(r"_Static_assert\s*\(.*?\"\s*\)\s*;", " ", text, flags=re.DOTALL)
    text = drop_bodies(text)
    names = set(re.findall(r"\b(?:struct|enum|union)\s+(\w+)\s*\{", text))
    for body in re.findall(r"\benum\b[^{;]*\{([^}]*)\}", text):
        names |= set(re.findall(r"(?:^|,)\s*(\w+)", body))
    names |= set(re.findall(r"\}\s*(\w+)\s*;", re.sub(r"\{[^{}]*\{[^{}]*\}[^{}]*\}", "{}", text)))
    outside = text
    while re.search(r"\{[^{}]*\}", outside):
        outside = re.sub(r"\{[^{}]*\}", " BRACES ", outside)
    for declaration in outside.split(";"):
        declaration = declaration.strip()
        if declaration.startswith("typedef"):
            function = re.search(r"\(\s*\*\s*(\w+)\s*\)", declaration)
            names.add(function.group(1) if function else re.findall(r"\w+", declaration)[-1])
        elif "(" in declaration:
            names |= set(re.findall(r"\b(\w+)\s*\(", declaration)[:1])
        elif "=" in declaration:
            names |= set(re.findall(r"(\w+)\s*(?:\[[^\]]*\])?\s*=", declaration)[:1])
    return names - {"BRACES"}


@pytest.mark.parametrize("mode", modes())
def test_macros_are_named_cai(mode, tmp_path):
    names = {
        line.split()[1].split("(")[0] for line in preprocessed(mode, tmp_path, "-dD") if line.startswith("#define")
    }
    assert len(names) > 100
    assert {name for name in names if not name.startswith("CAI_")} <= FOREIGN_MACROS


@pytest.mark.parametrize("mode", modes())
def test_declarations_are_named_cai(mode, tmp_path):
    names = declared_names(preprocessed(mode, tmp_path))
    # Enough of each kind was understood.
    assert {
        "cai_call_begin",
        "cai_view_t",
        "cai_view",
        "CAI_WRITABLE",
        "cai_status_name",
        "CAI_ERROR_INVALID_SHAPE",
        "cai_stream_t",
        "cai_impl_view_reset",
        "cai_float32",
    } <= names and len(names) > 500
    allowed = re.compile(r"(cai_|CAI_)\w+|emulator_cuda\w+" if mode == "prefix" else r"(cai_|CAI_)\w+")
    assert {name for name in names if not allowed.fullmatch(name)} <= {"CUstream_st"}


@pytest.mark.parametrize("mode", modes())
def test_documented_declarations_are_public_and_the_others_private(mode, tmp_path):
    """What stands behind the line "bodies" and is no public function is private."""
    names = declared_names(preprocessed(mode, tmp_path))
    declared = set()
    for header in (INCLUDE / "cai").glob("*.h"):
        declared |= set(re.findall(r"\bcai_\w+", header.read_text().split("- bodies -")[0]))
    public = {name for name in names if name.startswith("cai_") and not name.startswith("cai_impl_")}
    generated = {name for name in public if re.fullmatch(r"cai_(b?complex|float|bfloat|u?int)\d+\w*|cai_bool", name)}
    assert public - generated <= declared


@pytest.mark.parametrize("mode", modes())
def test_nothing_can_be_written_to(mode, tmp_path):
    """No mutable static, no static Python object: all is laid out, and no symbol is in a writable section."""
    compiler = next((dialect for dialect in oldest(dialects()) if dialect.compiler == "gcc"), None)
    if compiler is None:
        pytest.skip("needs gcc, which can keep functions that nobody calls")
    # Not position-independent: there, constant tables of pointers would be in a section that the loader writes to.
    output = compile_to(
        tmp_path,
        "all",
        compiler,
        UMBRELLA,
        *arguments(mode),
        "-O0",
        "-fno-pic",
        "-fkeep-inline-functions",
        "-fkeep-static-functions",
    )
    symbols = re.findall(r"([a-zA-Z]) (\S+)$", check("nm", output), re.MULTILINE)
    functions = [name for kind, name in symbols if kind in "tT" and name.startswith("cai_")]
    assert len(functions) > 250
    # What Python's own headers keep, if anything, is not cai's.
    assert [name for kind, name in symbols if kind in "bBdDCgGsS"] == []
