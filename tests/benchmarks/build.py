"""Builds the modules that are timed, by calling the compiler, and times the compiler itself."""

import dataclasses
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
FLAGS = ["-O2", "-DNDEBUG", "-fPIC", "-fvisibility=hidden"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a module is built of, and flags beside those that all have."""

    sources: list
    includes: list
    libraries: list = dataclasses.field(default_factory=list)
    flags: tuple = ()
    link_flags: tuple = ()


class Builder:
    """Compiles into a folder, against one CUDA runtime."""

    def __init__(self, folder, cuda):
        self.folder = Path(folder)
        self.cuda = cuda

    def _compiler(self, source):
        is_c = source.suffix == ".c"
        variable, usual, standard = ("CC", "cc", "-std=c11") if is_c else ("CXX", "c++", "-std=c++17")
        return [*shlex.split(os.environ.get(variable, usual)), standard]

    def compile_command(self, source, target, recipe):
        folders = [f"-I{folder}" for folder in (*recipe.includes, sysconfig.get_paths()["include"])]
        return [*self._compiler(source), *FLAGS, *recipe.flags, *folders, "-c", source, "-o", target]

    def link_command(self, objects, target, recipe):
        paths = [part for library in recipe.libraries for part in (library, f"-Wl,-rpath,{Path(library).parent}")]
        return [
            *self._compiler(recipe.sources[0])[:-1],
            "-shared",
            *recipe.link_flags,
            *objects,
            *paths,
            "-o",
            target,
        ]

    def module(self, name, recipe):
        """The file of a module, built if its recipe or a source has changed."""
        target = self.folder / f"{name}{SUFFIX}"
        objects = [self.folder / f"{name}-{source.stem}.o" for source in recipe.sources]
        commands = [self.compile_command(*pair, recipe) for pair in zip(recipe.sources, objects)]
        commands.append(self.link_command(objects, target, recipe))
        stamp = self.folder / f"{name}.json"
        key = json.dumps([[str(part) for command in commands for part in command], _digest(recipe.sources)])
        if not (target.is_file() and stamp.is_file() and stamp.read_text() == key):
            print(f"== Building {target.relative_to(ROOT)}", flush=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            for command in commands:
                _run(command)
            stamp.write_text(key)
        return target

    def cuda_recipe(self, *sources):
        return Recipe(
            [HERE / source for source in sources], [ROOT / "include", self.cuda.include], [self.cuda.library]
        )

    def minimal(self, rounds):
        """Seconds of a processor to compile, and bytes after strip, of the minimal modules of each library."""
        recipes = {
            "floor": (lambda: Recipe([HERE / "minimal/minimal_floor.c"], [])),
            "cai": (lambda: self.cuda_recipe("minimal/minimal_cai.c")),
            "nanobind": small_nanobind_recipe,
            # A project compiles nanobind's own library once.
            "nanobind, without its library": (lambda: first_source_only(small_nanobind_recipe())),
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
            if "without" not in library:
                sizes[library] = self._stripped_size(library, recipes[library])
        return tuple({library: found[library] for library in recipes if library in found} for found in (times, sizes))

    def _objects(self, library, sources):
        return [self.folder / f"minimal-{library}-{source.stem}.o" for source in sources]

    def _compile_once(self, library, recipe):
        before = os.times()
        for source, target in zip(recipe.sources, self._objects(library, recipe.sources)):
            _run(self.compile_command(source, target, recipe))
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def _stripped_size(self, library, recipe):
        target = self.folder / f"minimal-{library}.so"
        _run(self.link_command(self._objects(library, recipe.sources), target, recipe))
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
    return Recipe([HERE / source, folder / "src/nb_combined.cpp"], includes)


def small_nanobind_recipe():
    """With what nanobind's own build adds for the size of a release."""
    sections = ("-ffunction-sections", "-fdata-sections")
    recipe = nanobind_recipe("minimal/minimal_nanobind.cpp")
    return dataclasses.replace(recipe, flags=("-Os", *sections), link_flags=("-Wl,--gc-sections",))


def first_source_only(recipe):
    return dataclasses.replace(recipe, sources=recipe.sources[:1])


def pybind11_recipe(source="peers/pybind11_peer.cpp"):
    return Recipe([HERE / source], [_package("pybind11") / "include"])


def tvm_ffi_recipe():
    folder = _package("tvm_ffi")
    return Recipe([HERE / "peers/tvm_ffi_peer.cpp"], [folder / "include"], [folder / "lib/libtvm_ffi.so"])


def load(name, path):
    """Import a module from its file."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
