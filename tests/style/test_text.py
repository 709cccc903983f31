"""What formatters do not look at: versions, words, paths, links, and the reason at the top of each file."""

import re
import subprocess
import sys

import pitfalls
import pytest
from conftest import FILES, ROOT, files, relative, scripts

TEXT = [path for path in FILES if path.suffix not in (".png", ".pdf")]
CODE = files(".c", ".h", ".cc", ".cpp", ".cu", ".py", ".sh") + scripts("bash")

# ------------------------------------------------------------------------------------------------------------- versions


def version_in_the_headers():
    text = (ROOT / "include/cai/config.h").read_text()
    parts = [re.search(rf"#define CAI_VERSION_{part}\s+(\d+)", text).group(1) for part in ("MAJOR", "MINOR", "PATCH")]
    assert re.search(r'#define CAI_VERSION_STRING "(.*)"', text).group(1) == ".".join(parts)
    return ".".join(parts)


def test_one_version_everywhere():
    version = version_in_the_headers()
    assert (
        re.search(r"project\('cai'.*?version: '([^']*)'", (ROOT / "meson.build").read_text(), re.DOTALL).group(1)
        == version
    )
    changes = ROOT / "CHANGELOG.md"
    if changes.exists():
        assert version in changes.read_text()


def test_meson_is_new_enough_wherever_it_is_pinned():
    wanted = re.search(r"meson_version: '>=([\d.]+)'", (ROOT / "meson.build").read_text()).group(1)
    for path in FILES:
        if path.name == "meson.build" and "meson_version" in path.read_text():
            assert f"meson_version: '>={wanted}'" in path.read_text(), relative(path)


def test_meson_build_files_refuse_another_version(tmp_path):
    """The comparison at configuration is there, and works."""
    copy = tmp_path / "cai"
    subprocess.run(
        ["cp", "-r", ROOT / "include", ROOT / "meson.build", ROOT / "meson.options", ROOT / "LICENSE", tmp_path],
        check=True,
    )
    config = tmp_path / "include/cai/config.h"
    config.write_text(config.read_text().replace(version_in_the_headers(), "9.9.9"))
    command = [
        sys.executable,
        "-m",
        "mesonbuild.mesonmain",
        "setup",
        copy,
        tmp_path,
        "-Dtests=disabled",
        "-Dcuda=disabled",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if "No module named" in result.stderr:
        pytest.skip("Meson is not installed")
    assert result.returncode != 0 and "the version in meson.build is not that of include/cai/config.h" in result.stdout


# --------------------------------------------------------------------------------------------------------------- words

# Spelt so that this file does not find itself.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
MACHINE_PATHS = re.compile(r"(?<![\w./>-])/(" + "|".join(["home", "root", "work", "Users", "mnt", "tmp"]) + r")/\w")


@pytest.mark.parametrize("path", TEXT, ids=relative)
def test_words(path):
    text = path.read_text()
    assert not UNFINISHED.findall(text), "something is unfinished"
    assert not MACHINE_PATHS.findall(text), "a path of one machine"
    assert not re.findall(r"[ \t]+$", text, re.MULTILINE), "blanks at the end of a line"
    assert "\t" not in text, "a tabulator"
    assert "\r" not in text, "line ends of another system"
    assert text == "" or text.endswith("\n"), "no line end at the end"


@pytest.mark.parametrize("path", files(".c", ".h", ".cc", ".cpp", ".cu", ".py", ".sh"), ids=relative)
def test_lines_are_not_too_long(path):
    """A little more than the formatter's 120, for comments and texts, which it does not break; #error is one line."""
    lines = path.read_text().splitlines()
    assert [line for line in lines if len(line) > 125 and not line.startswith("#error")] == []


# The poisoned headers of the compile tests are one line each, which speaks for itself.
@pytest.mark.parametrize("path", [path for path in CODE if "poison" not in path.parts], ids=relative)
def test_file_says_what_it_is_for(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#!")]
    assert lines and re.match(r'(/\*|//|"""|#) ?\S?|/\*\*$', lines[0]), "no comment at the top"


# --------------------------------------------------------------------------------------------------------------- links


def links():
    for path in files(".md"):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
            if not re.match(r"https?:|mailto:", target):
                yield pytest.param(path, target, id=f"{relative(path)}-{target}")


def anchors(path):
    """The names under which GitHub and others find the headings of a page."""
    headings = re.findall(r"^#+ +(.*?) *$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r" ", "-", re.sub(r"[^\w\- ]", "", heading.lower())) for heading in headings}


@pytest.mark.parametrize("path, target", list(links()))
def test_link_leads_somewhere(path, target):
    file, _, anchor = target.partition("#")
    there = (path.parent / file).resolve() if file else path
    assert there.exists(), target
    assert there.is_relative_to(ROOT), f"{target} is outside of the project"
    if anchor:
        assert anchor in anchors(there), target


def test_pages_name_files_that_exist():
    """Paths in code style, like `examples/run`, that look like files of the project."""
    missing = []
    for path in files(".md"):
        for name in re.findall(r"`((?:include|docs|examples|tests|tools)/[\w./-]+)`", path.read_text()):
            if not (ROOT / name.rstrip("/")).exists():
                missing.append(f"{relative(path)}: {name}")
    assert missing == []


# ------------------------------------------------------------------------------------------------------------ the rest


def test_pitfalls_have_a_test_or_a_reason():
    assert pitfalls.complaints() == []


def test_pitfalls_page_is_compared(monkeypatch):
    """The comparison finds a row that is wrong, one that is missing, and one that claims too much."""
    rows = pitfalls.rows()
    monkeypatch.setattr(pitfalls, "rows", lambda: {n: row for n, row in rows.items() if n != 5})
    assert "pitfall 5 is not on the page" in pitfalls.complaints()
    monkeypatch.setattr(pitfalls, "rows", lambda: {**rows, 5: ("subject", "not yet: for some reason or other")})
    assert any(line.startswith("pitfall 5 is tested") for line in pitfalls.complaints())
    monkeypatch.setattr(pitfalls, "rows", lambda: rows)
    monkeypatch.setattr(pitfalls, "tested", dict)
    assert any(line.startswith("pitfall 5 has no test") for line in pitfalls.complaints())


def test_every_unit_test_is_built():
    listed = (ROOT / "tests/unit/meson.build").read_text()
    assert [path.name for path in (ROOT / "tests/unit").glob("test_*") if f"'{path.name}'" not in listed] == []


def test_requirements_are_pinned():
    for path in FILES:
        if path.name.startswith("requirements") and path.suffix == ".txt":
            lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
            pin = re.compile(r"[\w.-]+==[\w.]+(; python_version \S+ \"3\.\d+\")?")
            assert lines and [line for line in lines if not pin.fullmatch(line)] == []


def test_pins_that_stand_twice_are_the_same():
    """The environment of the tests serves the examples too."""
    tests, examples = ((ROOT / name / "requirements.txt").read_text().splitlines() for name in ("tests", "examples"))
    assert {line for line in examples if "==" in line} <= set(tests)


def test_ignored_files_are_those_that_git_ignores():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    try:
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not to be had, or does not trust this folder")
    there = {name for name in listed if name and (ROOT / name).is_file()}
    assert {relative(path) for path in FILES} == there
