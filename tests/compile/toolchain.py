"""What the compile tests work with: the project's headers, the machine's compilers, Pythons, CUDA and DLPack."""

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
POISON = Path(__file__).resolve().parent / "poison"

sys.path.insert(0, str(ROOT / "tools"))
import find_cuda  # noqa: E402  the folder has to be on the path first

# ------------------------------------------------------------------------------------------------------- the headers

HEADERS = re.findall(r"^  '(\w+\.h)',$", (INCLUDE / "cai/meson.build").read_text(), re.MULTILINE)

# Headers without Python.h, by what core.h includes.
CORE_HEADERS = ["core.h"] + re.findall(r"#include <cai/(\w+\.h)>", (INCLUDE / "cai/core.h").read_text())

# Headers that need the official DLPack header, or the CUDA runtime whatever the options.
NEEDS_DLPACK = {"dlpack_compat.h"}
NEEDS_CUDA = {"cuda_api.h"}

# ------------------------------------------------------------------------------------------------------ the compilers

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef", "-Werror"]
CPP_WARNINGS = ["-Wold-style-cast"]


@dataclass(frozen=True)
class Dialect:
    """A compiler in one language and standard."""

    compiler: str
    standard: str

    @property
    def is_cpp(self):
        return "++" in self.compiler

    @property
    def suffix(self):
        return ".cc" if self.is_cpp else ".c"

    @property
    def command(self):
        return [self.compiler, f"-std={self.standard}", *WARNINGS, *(CPP_WARNINGS if self.is_cpp else [])]

    def __str__(self):
        return f"{self.compiler}-{self.standard}"


@dataclass(frozen=True)
class Compilation:
    """One call of a compiler: the command, without file names, and what to compile."""

    command: tuple
    source: str
    suffix: str = ".c"

    def run(self):
        """Compile to an object that nobody keeps."""
        with tempfile.TemporaryDirectory(prefix="cai-compile-") as folder:
            file = Path(folder, "source" + self.suffix)
            file.write_text(self.source)
            output = Path(folder, "object.o")
            return subprocess.run([*self.command, "-c", str(file), "-o", str(output)], capture_output=True, text=True)


def compilation(dialect, source, *arguments):
    return Compilation((*dialect.command, *map(str, arguments)), source, dialect.suffix)


def compile_to(folder, name, dialect, source, *arguments):
    """Compile to an object file in a folder; its path. Fails the test with the compiler's words."""
    file, output = Path(folder, name + dialect.suffix), Path(folder, name + ".o")
    file.write_text(source)
    check(*dialect.command, *arguments, "-c", file, "-o", output)
    return output


def check(*command, **more):
    """Run a program, which has to succeed; its standard output."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


def _accepts(compiler, standard):
    suffix = "c++" if "++" in compiler else "c"
    command = [compiler, f"-std={standard}", "-x", suffix, "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


@functools.cache
def dialects():
    """Every compiler of this machine in every standard that it has; of two spellings of one standard the first."""
    found = []
    for compilers, standards in (
        (("gcc", "clang"), (("c11",), ("c17",), ("c23", "c2x"))),
        (("g++", "clang++"), (("c++17",), ("c++20",), ("c++23", "c++2b"))),
    ):
        for compiler in filter(shutil.which, compilers):
            for spellings in standards:
                known = [standard for standard in spellings if _accepts(compiler, standard)]
                found += [Dialect(compiler, known[0])] if known else []
    return found


def oldest(all_dialects):
    """Of each compiler the oldest standard."""
    return [dialect for dialect in all_dialects if dialect.standard in ("c11", "c++17")]


# ------------------------------------------------------------------------------------------------ CUDA, Python, DLPack


@functools.cache
def cuda():
    """The CUDA runtime: the one that tests/run found, or one found now; None if there is none."""
    if os.environ.get("CAI_CUDART_ROOT"):
        return find_cuda.look(Path(os.environ["CAI_CUDART_ROOT"]))
    return find_cuda.find_toolkit() or find_cuda.find_wheel([sysconfig.get_paths()["purelib"]])


def cuda_arguments():
    return ["-isystem", str(cuda().include)]


# The ways to build, and the arguments for each. Without CUDA's headers only one is left.
def modes():
    ways = {"no-cuda": ["-DCAI_NO_CUDA"]}
    if cuda() is not None:
        ways["cuda"] = cuda_arguments()
        ways["prefix"] = ["-DCAI_CUDA_PREFIX=emulator_", *cuda_arguments()]
    return ways


@dataclass(frozen=True)
class PythonHeaders:
    """The headers of a Python: its version as a number, and where they are."""

    name: str
    version: int
    folder: Path

    @property
    def arguments(self):
        return ["-isystem", str(self.folder)]


def _python_in(folder):
    text = (folder / "patchlevel.h").read_text()
    numbers = [int(re.search(rf"#define PY_{part}_VERSION\s+(\d+)", text).group(1)) for part in ("MAJOR", "MINOR")]
    level = int(re.search(r"#define PY_MICRO_VERSION\s+(\d+)", text).group(1))
    threads = "t" if folder.name.endswith("t") else ""
    return PythonHeaders(f"{numbers[0]}.{numbers[1]}.{level}{threads}", numbers[0] << 24 | numbers[1] << 16, folder)


def own_python():
    return _python_in(Path(sysconfig.get_paths()["include"]))


@functools.cache
def pythons():
    """Every Python of this machine whose headers are there: the running one first, then pyenv's, uv's, the system's."""
    home = Path.home()
    places = [
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv")).glob("versions/*/include/python3.*"),
        home.glob(".local/share/uv/python/*/include/python3.*"),
        Path("/usr/include").glob("python3.*"),
        Path("/usr/local/include").glob("python3.*"),
        Path("/opt").glob("*/include/python3.*"),
    ]
    found = [own_python()]
    for folder in (folder for place in places for folder in sorted(place)):
        if (folder / "Python.h").is_file():
            python = _python_in(folder)
            if python.name not in [known.name for known in found]:
                found.append(python)
    return found


def supported_pythons():
    return [python for python in pythons() if python.version >= 0x030A0000]


@dataclass(frozen=True)
class DlpackHeader:
    """An official DLPack header, as somebody ships it."""

    owner: str
    path: Path
    version: int  # 100 * major + minor

    def __str__(self):
        return f"{self.owner}-{self.version // 100}.{self.version % 100}"

    def folder(self, parent):
        """An include folder in which the header is <dlpack/dlpack.h>."""
        folder = Path(parent, str(self))
        (folder / "dlpack").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.path, folder / "dlpack/dlpack.h")
        return folder


def _dlpack_version(text):
    major = re.search(r"#define DLPACK_MAJOR_VERSION (\d+)", text)
    if major:
        return int(major.group(1)) * 100 + int(re.search(r"#define DLPACK_MINOR_VERSION (\d+)", text).group(1))
    old = re.search(r"#define DLPACK_VERSION 0*(\d+)", text)
    return int(old.group(1)) // 10 if old else 0


@functools.cache
def dlpack_headers():
    """Every official DLPack header in this interpreter's packages and in /usr/include, each text once."""
    site = Path(sysconfig.get_paths()["purelib"])
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(site)
        for name in names
        if name in ("dlpack.h", "dlpack_abi.h")
    ]
    files += [path for path in [Path("/usr/include/dlpack/dlpack.h")] if path.is_file()]
    found, texts = [], set()
    for path in sorted(files):
        text = path.read_text(errors="replace")
        if "typedef struct DLManagedTensor" not in text or text in texts:
            continue
        texts.add(text)
        owner = path.relative_to(site).parts[0] if path.is_relative_to(site) else "debian"
        while f"{owner}-{_dlpack_version(text)}" in {f"{header.owner}-{header.version}" for header in found}:
            owner += "'"
        found.append(DlpackHeader(owner, path, _dlpack_version(text)))
    return found


# Files that live as long as the tests.
_scratch = tempfile.TemporaryDirectory(prefix="cai-compile-")


@functools.cache
def dlpack_arguments():
    """Arguments with which <dlpack/dlpack.h> is the newest header that there is; None if there is none."""
    newest = max(dlpack_headers(), key=lambda header: header.version, default=None)
    return None if newest is None else ("-isystem", str(newest.folder(_scratch.name)))


# ------------------------------------------------------------------------------------------------------ running them


class Farm:
    """Compiles beforehand what the selected tests will ask for, two at a time, so that a test only has to wait."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._results = {}

    def start(self, compilation):
        if compilation not in self._results:
            self._results[compilation] = self._pool.submit(compilation.run)

    def result(self, compilation):
        self.start(compilation)
        return self._results[compilation].result()

    def close(self):
        self._pool.shutdown(wait=True, cancel_futures=True)
