"""What a run needs of the machine: finds what is missing, installs Debian's packages, or says what to install."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def say(text):
    print(f"== {text}", flush=True)


def fail(text):
    sys.stdout.flush()
    sys.exit(f"error: {text}")


@dataclass(frozen=True)
class Need:
    """One thing that a run needs. `without` says what becomes of the run without it; None: it cannot go on."""

    what: str
    packages: str
    is_there: Callable[[], bool]
    without: str | None = None


def _runs(*command, stdin=""):
    try:
        return subprocess.run(command, input=stdin, text=True, capture_output=True).returncode == 0
    except OSError:
        return False


def _compiles(variable, default, language, header):
    compiler = os.environ.get(variable, default).split()
    return _runs(*compiler, "-x", language, "-fsyntax-only", "-", stdin=f"#include <{header}>\n")


def _has_python_headers():
    return Path(sysconfig.get_paths()["include"], "Python.h").is_file()


def _python_packages(package):
    """Debian's package for its own interpreter; for any other, what there is to say."""
    if Path(sys.executable).resolve().is_relative_to("/usr/bin") or Path(sys.base_prefix) == Path("/usr"):
        return package
    return ""


def c_compiler():
    return Need("a C compiler", "gcc libc6-dev", lambda: _compiles("CC", "cc", "c", "stdio.h"))


def cpp_compiler():
    return Need("a C++ compiler", "g++", lambda: _compiles("CXX", "c++", "c++", "cstdio"))


def cpp_compiler_for_kernels():
    return Need(
        "a C++ compiler", "g++", lambda: _compiles("CXX", "c++", "c++", "cstdio"), "nvcc cannot build the kernel"
    )


def pkg_config():
    return Need(
        "pkg-config", "pkg-config", lambda: shutil.which(os.environ.get("PKG_CONFIG", "pkg-config")) is not None
    )


def python_headers():
    return Need(f"the headers of {sys.executable}", _python_packages("python3-dev"), _has_python_headers)


def clang():
    return Need(
        "clang", "clang", lambda: _compiles("", "clang", "c", "stdio.h"), "everything is compiled with gcc alone"
    )


def criterion():
    return Need(
        "Criterion",
        "libcriterion-dev",
        lambda: _runs("pkg-config", "--exists", "criterion"),
        "the unit tests of the core floor are skipped",
    )


def old_dlpack():
    return Need(
        "DLPack 0.6",
        "libdlpack-dev",
        lambda: Path("/usr/include/dlpack/dlpack.h").is_file(),
        "the oldest DLPack header is not compared",
    )


def _has_venv_module():
    importlib.invalidate_caches()
    return all(importlib.util.find_spec(name) is not None for name in ("ensurepip", "venv"))


def venv_module():
    """Asked for only where a virtual environment has to be made."""
    return Need(
        "Python's venv module",
        _python_packages("python3-venv"),
        _has_venv_module,
        "no virtual environment can be made",
    )


def _root_command():
    """What to put before a command that needs root; None if that is not to be had without a password."""
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if _runs("sudo", "-n", "true") else None


def _install(packages):
    """Install Debian packages; whether that worked."""
    root = _root_command()
    if root is None or shutil.which("apt-get") is None:
        return False
    apt = [
        *root,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-qq",
        "-o",
        "Acquire::Retries=1",
        "-o",
        "Acquire::http::Timeout=20",
    ]
    say(f"Installing the Debian packages {' '.join(packages)}")
    # A failed update is no reason to stop: the lists that are there may do.
    subprocess.run([*apt, "update"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = [*apt, "install", "-y", "--no-install-recommends", *packages]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        print(result.stdout[-2000:], flush=True)
    return result.returncode == 0


def _packages(needs):
    return [name for need in needs for name in need.packages.split()]


def provide(needs):
    """See to it that everything is there. Ends the program where something that a run cannot do without is not."""
    missing = [need for need in needs if not need.is_there()]
    required = [need for need in missing if need.without is None]
    optional = [need for need in missing if need.without is not None]
    for group in (required, optional):
        if _packages(group):
            _install(_packages(group))
    required = [need for need in required if not need.is_there()]
    optional = [need for need in optional if not need.is_there()]
    for need in optional:
        line = f"; to have it, run as root: apt-get install {need.packages}" if need.packages else ""
        say(f"Without {need.what}: {need.without}{line}")
    if required:
        words = ", ".join(need.what for need in required)
        packages = _packages(required)
        line = f". On Debian or Ubuntu run, as root:\n    apt-get install {' '.join(packages)}" if packages else ""
        rest = _packages(optional)
        if line and rest:
            line += f"\n    and, for what is said above: apt-get install {' '.join(rest)}"
        fail(f"missing: {words}{line}")
