"""Sets up, builds and shows the examples: what examples/run does once there is a Python."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import find_cuda
import setup_machine
import setup_python
from setup_machine import fail, say

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
HEADERS = BUILD / "headers"
EXAMPLES = ("pycai", "owntype")


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="examples/run",
        description="Sets up what the examples need, builds them, and runs them on every kind of array that this machine "
        "has. Without a network, what is installed is used, and what is missing is said.",
    )
    parser.add_argument(
        "--python", metavar="PATH", help="the interpreter to use (3.10 or newer), with its array libraries"
    )
    return parser.parse_args(arguments)


def prepare(options):
    """The choice of an interpreter with packages, and the CUDA toolkit of the machine, if there is one."""
    files = [ROOT / "examples/requirements.txt"]
    toolkit = find_cuda.find_toolkit()
    used = []
    if toolkit is None:
        files.append(ROOT / "tools/requirements-cuda.txt")
        used += ["nvidia-cuda-runtime", "nvidia-cuda-crt"]
    if find_cuda.has_gpu() and (toolkit is None or toolkit.nvcc is None):
        files.append(ROOT / "tools/requirements-nvcc.txt")
        used.append("nvidia-cuda-nvcc")
    # An interpreter that has the needed packages is taken as it is: its other libraries are what there is to show.
    chosen = options.python is not None
    return setup_python.Setup(BUILD, ["meson", "ninja", "numpy"], used, files, chosen=chosen), toolkit


def meson(python, *arguments):
    """Run Meson; its output is shown only where it fails, or while it compiles."""
    quiet = arguments[0] == "setup"
    sys.stdout.flush()
    result = subprocess.run(
        [python.executable, "-m", "mesonbuild.mesonmain", *map(str, arguments)],
        cwd=ROOT,
        env=python.environment(),
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if result.returncode != 0:
        fail(f"meson {' '.join(map(str, arguments))} failed{':' if quiet else ''}\n{result.stdout or ''}")


def configure(python, folder, source, settings):
    """Set a build folder up; nothing is done where it is set up in the same way already."""
    key = json.dumps([settings, python.version])
    stamp = folder / "cai-settings.json"
    if (folder / "build.ninja").is_file() and stamp.is_file() and stamp.read_text() == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    meson(python, "setup", folder, source, *settings)
    stamp.write_text(key)


def build(python, cuda):
    """Build the examples as their users do, by pkg-config, which finds cai where it lies here."""
    configure(python, HEADERS, ROOT, ["-Dtests=disabled", "-Dcuda=disabled"])
    common = [
        f"--pkg-config-path={HEADERS / 'meson-uninstalled'}",
        "--buildtype=release",
        f"-Dpython={python.executable}",
    ]
    has_cuda = cuda is not None and cuda.library is not None
    for name in EXAMPLES:
        folder = BUILD / name
        without = "-Dkernel=disabled" if name == "pycai" else "-Dcuda=disabled"
        say(f"Building examples/{name} in {folder.relative_to(ROOT)}, with {cuda if cuda else 'no CUDA runtime'}")
        configure(
            python, folder, ROOT / "examples" / name, [*common, f"-Dcudart_root={cuda.root}" if has_cuda else without]
        )
        meson(python, "compile", "-C", folder)


def main(arguments):
    options = parse_arguments(arguments)
    setup, toolkit = prepare(options)
    needs = [
        setup_machine.c_compiler(),
        setup_machine.cpp_compiler_for_kernels(),
        setup_machine.pkg_config(),
        setup_machine.python_headers(),
    ]
    setup_machine.provide(needs + setup.needs())
    python = setup.choose()
    cuda = toolkit or find_cuda.find_wheel(python.sites)
    say(f"Python {python.version.split()[0]}: {python.executable}")
    build(python, cuda)
    say("examples/show.py")
    sys.stdout.flush()
    paths = os.pathsep.join(str(BUILD / name) for name in EXAMPLES)
    environment = {**python.environment(), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([python.executable, ROOT / "examples/show.py"], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
