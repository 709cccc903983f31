"""Builds the modules that are timed, by calling the compiler, and times the compiler itself."""

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from measure import Cannot, Spread

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
FLAGS = ["-O2", "-fPIC", "-fvisibility=hidden"]


class Builder:
    """Compiles into a folder, against one CUDA runtime."""

    def __init__(self, folder, cuda):
        self.folder = Path(folder)
        self.cuda = cuda

    def _compiler(self, source):
        is_c = source.suffix == ".c"
        variable, usual, standard = ("CC", "cc", "-std=c11") if is_c else ("CXX", "c++", "-std=c++17")
        return [*shlex.split(os.environ.get(variable, usual)), standard]

    def compile_command(self, source, target, includes):
        folders = [*includes, sysconfig.get_paths()["include"]]
        return [*self._compiler(source), *FLAGS, *(f"-I{folder}" for folder in folders), "-c", source, "-o", target]

    def link_command(self, objects, target, libraries, source):
        paths = [part for library in libraries for part in (library, f"-Wl,-rpath,{Path(library).parent}")]
        return [*self._compiler(source)[:-1], "-shared", *objects, *paths, "-o", target]

    def module(self, name, recipe):
        """The file of a module, built if its recipe or a source has changed."""
        sources, includes, libraries = recipe
        target = self.folder / f"{name}{SUFFIX}"
        objects = [self.folder / f"{name}-{source.stem}.o" for source in sources]
        commands = [self.compile_command(*pair, includes) for pair in zip(sources, objects)]
        commands.append(self.link_command(objects, target, libraries, sources[0]))
        stamp = self.folder / f"{name}.json"
        key = json.dumps([[str(part) for command in commands for part in command], _digest(sources)])
        if not (target.is_file() and stamp.is_file() and stamp.read_text() == key):
            print(f"== Building {target.relative_to(ROOT)}", flush=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            for command in commands:
                _run(command)
            stamp.write_text(key)
        return target

    def cuda_recipe(self, *sources):
        return [HERE / source for source in sources], [ROOT / "include", self.cuda.include], [self.cuda.library]

    def minimal(self, rounds):
        """Seconds of a processor to compile, and bytes after strip, of the minimal modules of each library."""
        recipes = {
            "floor": (lambda: ([HERE / "minimal/minimal_floor.c"], [], [])),
            "cai": (lambda: self.cuda_recipe("minimal/minimal_cai.c")),
            "nanobind": (lambda: nanobind_recipe("minimal/minimal_nanobind.cpp")),
            "pybind11": (lambda: pybind11_recipe("minimal/minimal_pybind11.cpp")),
        }
        times, sizes = {}, {}
        for library, recipe in recipes.items():
            try:
                recipes[library] = recipe()
            except Cannot as reason:
                recipes[library], times[library], sizes[library] = None, reason, reason
        self.folder.mkdir(parents=True, exist_ok=True)
        seconds = {library: [] for library, recipe in recipes.items() if recipe is not None}
        for _ in range(rounds):
            for library in seconds:
                seconds[library].append(self._compile_once(library, recipes[library]))
        for library, measured in seconds.items():
            times[library] = Spread.of([1e9 * value for value in measured])
            sizes[library] = self._stripped_size(library, recipes[library])
        return {library: times[library] for library in recipes}, {library: sizes[library] for library in recipes}

    def _objects(self, library, sources):
        return [self.folder / f"minimal-{library}-{source.stem}.o" for source in sources]

    def _compile_once(self, library, recipe):
        sources, includes, _ = recipe
        before = os.times()
        for source, target in zip(sources, self._objects(library, sources)):
            _run(self.compile_command(source, target, includes))
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def _stripped_size(self, library, recipe):
        sources, _, libraries = recipe
        target = self.folder / f"minimal-{library}.so"
        _run(self.link_command(self._objects(library, sources), target, libraries, sources[0]))
        strip = shutil.which("strip")
        if strip is None:
            return Cannot("there is no strip on this machine")
        _run([strip, target])
        return target.stat().st_size


def _run(command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()[:1]
        raise Cannot(f"does not build: {' '.join(errors[:1])[-200:]}")


def _digest(sources):
    headers = sorted((ROOT / "include/cai").glob("*.h"))
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in [*sources, *headers])).hexdigest()


def _package(name):
    """The folder of a package, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise Cannot(f"{name} is not installed")
    return Path(found.submodule_search_locations[0])


def nanobind_recipe(source="peers/nanobind_peer.cpp"):
    folder = _package("nanobind")
    includes = [folder / "include", folder / "ext/robin_map/include"]
    return [HERE / source, folder / "src/nb_combined.cpp"], includes, []


def pybind11_recipe(source="peers/pybind11_peer.cpp"):
    return [HERE / source], [_package("pybind11") / "include"], []


def tvm_ffi_recipe():
    folder = _package("tvm_ffi")
    return [HERE / "peers/tvm_ffi_peer.cpp"], [folder / "include"], [folder / "lib/libtvm_ffi.so"]


def load(name, path):
    """Import a module from its file."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
