"""Finds the CUDA runtime: in a toolkit, or in the PyPI packages nvidia-cuda-runtime and nvidia-cuda-crt."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

OLDEST = 12000

# The first includes the second, which comes with another PyPI package.
HEADERS = ("cuda_runtime_api.h", "crt/host_defines.h")


@dataclass(frozen=True)
class Cuda:
    """A CUDA runtime: what to pass to Meson as cudart_root, and where things are in it."""

    root: Path
    include: Path
    library: Path | None
    nvcc: Path | None
    version: int

    def __str__(self):
        return f"CUDA {self.version // 1000}.{self.version % 1000 // 10} in {self.root}"


def _version(header):
    found = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", header.read_text(errors="replace"))
    return int(found.group(1)) if found else 0


def look(root):
    """The runtime in a folder, if it is one and new enough."""
    targets = ("", "targets/x86_64-linux", "targets/sbsa-linux")
    include = next(
        (root / t / "include" for t in targets if all((root / t / "include" / name).is_file() for name in HEADERS)),
        None,
    )
    if include is None or _version(include / "cuda_runtime_api.h") < OLDEST:
        return None
    names = [
        folder / name
        for t in targets
        for folder in (root / t / "lib64", root / t / "lib")
        for name in ("libcudart.so", "libcudart.so.13", "libcudart.so.12")
    ]
    library = next((name for name in names if name.is_file()), None)
    nvcc = root / "bin/nvcc"
    return Cuda(root, include, library, nvcc if nvcc.is_file() else None, _version(include / "cuda_runtime_api.h"))


def _toolkit_folders():
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        yield Path(nvcc).resolve().parent.parent
        yield Path(nvcc).parent.parent
    yield Path("/usr/local/cuda")


def find_toolkit():
    """An installed toolkit of CUDA 12.0 or newer, or None."""
    return next((found for found in map(look, _toolkit_folders()) if found is not None), None)


def find_wheel(site_packages):
    """The PyPI packages in one of these folders, or None."""
    found = (look(Path(site, "nvidia/cu13")) for site in site_packages)
    return next((cuda for cuda in found if cuda is not None and cuda.library is not None), None)


def has_gpu():
    """Whether the machine has an NVIDIA GPU and its driver."""
    return Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()
