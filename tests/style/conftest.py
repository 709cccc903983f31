"""The files of the project, and the programs that check them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/tools")]

# What is no file of the project although it lies in its folder; .gitignore says the same.
IGNORED = re.compile(r"^(build|\.venv|\.git$|\.hypothesis$|\.pytest_cache$|\.ruff_cache$|__pycache__$)")


def project_files():
    """Every file, by walking: git need not be there."""
    for folder, folders, names in os.walk(ROOT):
        inside = Path(folder).relative_to(ROOT)
        folders[:] = sorted(name for name in folders if not IGNORED.match(name))
        if inside == Path("subprojects"):
            folders[:] = [name for name in folders if name == "packagefiles"]
        yield from (Path(folder, name) for name in sorted(names) if not name.endswith(".pyc"))


FILES = list(project_files())


def relative(path):
    return str(path.relative_to(ROOT))


def files(*suffixes):
    return [path for path in FILES if path.suffix in suffixes]


def scripts(language):
    """Files that are run by an interpreter although their names do not say so."""
    return [
        path
        for path in FILES
        if path.suffix == ""
        and path.read_bytes()[:64].startswith(b"#!")
        and language in path.read_bytes()[:64].splitlines()[0].decode()
    ]


def pinned(package):
    """The version that tests/requirements.txt asks for."""
    return re.search(
        rf"^{re.escape(package)}==(\S+)$", (ROOT / "tests/requirements.txt").read_text(), re.MULTILINE
    ).group(1)


def program(package, name=None):
    """A checker in the pinned version. Elsewhere than in CI the test is skipped without it."""
    import importlib.metadata

    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found == pinned(package):
        beside = Path(sys.executable).parent / (name or package)
        return str(beside) if beside.exists() else shutil.which(name or package)
    words = f"{package} {pinned(package)} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    return pytest.skip(words)


def run(*command):
    """Run a checker, which has to find nothing."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    return result.stdout
