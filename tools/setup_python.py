"""Which Python a run uses: the virtual environment in the build folder, or an interpreter that has the packages."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import setup_machine
from setup_machine import say

# Asked of an interpreter: where it is, and which packages it has in which version. Nothing is imported but what a run
# cannot do without, so that the answer comes at once.
_QUESTION = """
import importlib, importlib.metadata, json, site, sys, sysconfig
names, modules = json.loads(sys.argv[1])
found = {}
for name in names:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
broken = []
for name in modules:
    try:
        importlib.import_module(name)
    except Exception:
        broken.append(name)
print(json.dumps({"executable": sys.executable, "version": sys.version, "packages": found, "broken": broken,
                  "sites": [sysconfig.get_paths()["purelib"], *site.getsitepackages()],
                  "scripts": sysconfig.get_path("scripts")}))
"""

# Module names of the packages that a run may not do without.
_MODULES = {
    "meson": "mesonbuild",
    "pytest": "pytest",
    "pytest-timeout": "pytest_timeout",
    "numpy": "numpy",
    "hypothesis": "hypothesis",
}


@dataclass
class Python:
    """An interpreter with packages for the run."""

    executable: Path
    version: str
    packages: dict = field(default_factory=dict)
    sites: list = field(default_factory=list)
    scripts: Path = Path()

    def environment(self):
        """os.environ with the interpreter's programs first on the PATH."""
        folders = [str(self.scripts), str(self.executable.parent), os.environ.get("PATH", "")]
        return {**os.environ, "PATH": os.pathsep.join(folders)}

    def program(self, name):
        """A program of the interpreter's packages, or of the machine; None if there is none."""
        return shutil.which(name, path=self.environment()["PATH"])


def read_requirements(files):
    """The lines of requirements files, without comments."""
    lines = [line.split("#")[0].strip() for file in files for line in Path(file).read_text().splitlines()]
    return [line for line in lines if line]


def name_of(line):
    """The package that a line of a requirements file is about."""
    return re.match(r"[\w.-]+", line).group(0)


def names_of(lines):
    return list(dict.fromkeys(name_of(line) for line in lines))


def ask(executable, names, modules=()):
    """What an interpreter has, as a Python and the modules that it cannot import; None if it does not run."""
    question = json.dumps([list(names), list(modules)])
    command = [str(executable), "-c", _QUESTION, question]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, list(modules)
    told = json.loads(answer.splitlines()[-1])
    python = Python(Path(told["executable"]), told["version"], told["packages"], told["sites"], Path(told["scripts"]))
    return python, told["broken"]


def _lacks(python, broken, names):
    """Names of packages that an interpreter lacks. Ninja may also be a program of the machine."""
    lacks = [name for name in names if name not in python.packages or _MODULES.get(name) in broken]
    if "ninja" in lacks and python.program("ninja") is not None:
        lacks.remove("ninja")
    return lacks


class Setup:
    """Chooses the interpreter of a run.

    needed: packages that the run cannot do without; used: those and what else it uses, so that an interpreter that has
    them all is taken as it is, unless prefer_venv; files: requirements for a virtual environment; extra: requirements
    whose failure is only worth a word; chosen: the user named the interpreter, so that what it needs is enough.
    """

    def __init__(self, build, needed, used, files, extra=(), prefer_venv=False, chosen=False):
        self.venv = Path(build, "venv")
        self.stamp = self.venv / "cai-packages.json"
        self.needed = list(needed)
        self.used = list(dict.fromkeys([*needed, *used]))
        self.lines = read_requirements(files)
        self.extra = read_requirements(extra)
        self.prefer_venv = prefer_venv and not chosen
        self.chosen = chosen

    # What identifies the interpreter that a virtual environment is made of.
    @property
    def base(self):
        return [sys.executable, sys.version]

    def _recorded(self):
        try:
            recorded = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return []
        return recorded["lines"] if recorded["base"] == self.base else []

    def _ask_venv(self):
        return ask(self.venv / "bin/python", self._names())[0]

    @functools.cache  # noqa: B019  there is one of these in a run
    def _ask_own(self):
        """The interpreter that runs this, and which modules it cannot import."""
        return ask(sys.executable, self._names(), [_MODULES[name] for name in self.needed if name in _MODULES])

    def _names(self):
        return list(dict.fromkeys(self.used + names_of(self.lines + self.extra)))

    def _pip(self, lines, what):
        """Install into the virtual environment; whether that worked."""
        say(f"Installing {what} into {self.venv}")
        started = time.monotonic()
        command = [
            self.venv / "bin/python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--retries",
            "2",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            *lines,
        ]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            print("\n".join(result.stdout.strip().splitlines()[-4:]), flush=True)
            return False
        say(f"done in {time.monotonic() - started:.0f} s")
        return True

    def _record(self, lines):
        names = set(names_of(lines))
        kept = [line for line in self._recorded() if name_of(line) not in names]
        self.stamp.write_text(json.dumps({"base": self.base, "lines": kept + lines}))

    def _make_venv(self):
        """Bring the virtual environment up to date; whether it has what the run cannot do without."""
        if not self._recorded():
            command = [sys.executable, "-m", "venv", "--clear", self.venv]
            if subprocess.run(command, capture_output=True).returncode != 0:
                return False
        if set(self.lines) - set(self._recorded()):
            if not self._pip(self.lines, "pinned packages"):
                return False
            self._record(self.lines)
        if set(self.extra) - set(self._recorded()):
            if self._pip(self.extra, ", ".join(names_of(self.extra))):
                self._record(self.extra)
            else:
                say(f"Without {', '.join(names_of(self.extra))}: what needs it is skipped")
        return True

    def _takes_own(self):
        """Whether the interpreter that runs this has what it needs, so that no virtual environment is asked for."""
        own, broken = (None, []) if self.prefer_venv else self._ask_own()
        return own is not None and not _lacks(own, broken, self.needed if self.chosen else self.used)

    def _has_venv(self):
        return set(self.lines + self.extra) <= set(self._recorded())

    def needs(self):
        """What the machine has to have for this, besides a network."""
        return [] if self._takes_own() or self._has_venv() else [setup_machine.venv_module()]

    def choose(self):
        """The interpreter of the run. Ends the program where there is none."""
        if self._takes_own():
            return self._as_it_is(*self._ask_own())
        if self._has_venv() or self._make_venv():
            python = self._ask_venv()
            if python is not None and not _lacks(python, [], self.needed):
                return python
        own, broken = self._ask_own()
        lacks = self.needed if own is None else _lacks(own, broken, self.needed)
        if not lacks:
            return self._as_it_is(own, broken)
        return setup_machine.fail(
            f"the packages cannot be installed, and {sys.executable} lacks {', '.join(lacks)}.\n"
            f"    With a network run this again; without one, pass an interpreter that has them with --python PATH"
        )

    def _as_it_is(self, own, broken):
        lacks = _lacks(own, broken, self.used)
        if lacks:
            say(f"Using {own.executable} as it is, without {', '.join(lacks)}")
        return own
