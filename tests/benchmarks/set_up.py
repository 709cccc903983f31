"""Sets up what the benchmark needs and starts it: what tests/benchmarks/run does once there is a Python."""

import dataclasses
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/benchmarks")]

import benchmark  # noqa: E402  these lie in the folders named above
import cases  # noqa: E402
import find_cuda  # noqa: E402
import setup_machine  # noqa: E402
import setup_python  # noqa: E402

BUILD = ROOT / "build"


def prepare(options):
    """The choice of an interpreter with packages, and the CUDA toolkit of the machine, if there is one."""
    files = [ROOT / "tests/benchmarks/requirements.txt"]
    toolkit = find_cuda.find_toolkit()
    if toolkit is None:
        files.append(ROOT / "tools/requirements-cuda.txt")
    # On a GPU machine the interpreter's own libraries are what there is to compare with.
    used = [] if find_cuda.has_gpu() else setup_python.names_of(setup_python.read_requirements(files[:1]))
    if toolkit is None:
        used += ["nvidia-cuda-runtime", "nvidia-cuda-crt"]
    chosen = options.python is not None
    return setup_python.Setup(BUILD, ["numpy"], used, files, chosen=chosen), toolkit


def main(arguments):
    options = benchmark.parse_arguments(arguments)
    if options.list:
        print("\n".join(case.name for case in cases.CASES))
        return 0
    setup, toolkit = prepare(options)
    needs = [
        setup_machine.c_compiler(),
        dataclasses.replace(setup_machine.cpp_compiler(), without="the peers that are modules cannot be built"),
        setup_machine.python_headers(),
    ]
    setup_machine.provide(needs + setup.needs())
    python = setup.choose()
    cuda = toolkit or find_cuda.find_wheel(python.sites)
    if cuda is None or cuda.library is None:
        setup_machine.fail(
            "the CUDA runtime is missing: install a CUDA toolkit, or the PyPI packages nvidia-cuda-runtime and\n"
            "    nvidia-cuda-crt into the interpreter"
        )
    setup_machine.say(f"Python {python.version.split()[0]}: {python.executable}; {cuda}")
    environment = {
        **python.environment(),
        "CAI_CUDART_ROOT": str(cuda.root),
        "CAI_BENCHMARK_BUILD": str(BUILD / "benchmarks"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
    sys.stdout.flush()
    command = [python.executable, ROOT / "tests/benchmarks/benchmark.py", *arguments]
    return subprocess.run([str(part) for part in command], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
