"""Somebody else's project that uses cai: as a subproject, installed, uninstalled, copied; and the DLPack wrap."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from toolchain import HEADERS, ROOT, check, cuda, dialects, dlpack_headers, oldest, own_python

CONSUMER = ROOT / "tests/consumer"
MESON = [sys.executable, "-m", "mesonbuild.mesonmain"]

USE = """
import array, consumer
assert consumer.total(array.array("d", [1, 2, 3.5])) == 6.5
try:
    consumer.total(array.array("f", [1]))
except consumer.DtypeMismatchError as error:
    assert "argument 'array': expected float64" in str(error), error
else:
    raise SystemExit("not refused")
"""


def environment(**more):
    """Nothing of the caller's that would help to find cai."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PKG_CONFIG")}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), **more}


def build_and_use(source, build, *settings, **more):
    """Set up, build, import, and call the consumer's module."""
    check(*MESON, "setup", build, source, f"-Dpython={sys.executable}", *settings, env=environment(**more))
    check(*MESON, "compile", "-C", build, env=environment(**more))
    check(sys.executable, "-c", USE, env=environment(PYTHONPATH=str(build)))


def introspect(build, what):
    return json.loads(check(*MESON, "introspect", what, build))


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the consumer with cai in its subprojects."""
    folder = tmp_path_factory.mktemp("project") / "consumer"
    shutil.copytree(CONSUMER, folder)
    shutil.copytree(
        ROOT, folder / "subprojects/cai", ignore=shutil.ignore_patterns("build*", ".git", ".venv*", "__pycache__")
    )
    return folder


def test_as_a_subproject(project, tmp_path):
    """Nothing is downloaded, no C++ compiler is needed, and cai's tests stay off."""
    build_and_use(project, tmp_path, "--wrap-mode=nodownload", CXX="/bin/false")
    assert introspect(tmp_path, "--tests") == []
    assert [target["name"].split(".")[0] for target in introspect(tmp_path, "--targets")] == ["consumer"]
    assert [part["name"] for part in introspect(tmp_path, "--projectinfo")["subprojects"]] == ["cai"]


def test_installed_with_its_parent(project, tmp_path):
    build, prefix = tmp_path / "build", tmp_path / "prefix"
    check(*MESON, "setup", build, project, f"-Dpython={sys.executable}", f"--prefix={prefix}", env=environment())
    check(*MESON, "install", "-C", build, env=environment())
    assert sorted(path.name for path in (prefix / "include/cai").iterdir()) == sorted(HEADERS)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """cai's build folder, and the prefix that it is installed to."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    check(*MESON, "setup", build, ROOT, f"--prefix={prefix}", "-Dtests=disabled", env=environment(CXX="/bin/false"))
    check(*MESON, "install", "-C", build, env=environment())
    return build, prefix


def test_what_is_installed(installed):
    _, prefix = installed
    files = sorted(str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file())
    assert files == sorted([f"include/cai/{header}" for header in HEADERS] + ["share/pkgconfig/cai.pc"])


def test_from_an_installed_prefix(installed, tmp_path):
    build_and_use(CONSUMER, tmp_path, "--wrap-mode=nofallback", PKG_CONFIG_PATH=str(installed[1] / "share/pkgconfig"))


def test_from_the_build_folder(installed, tmp_path):
    build_and_use(CONSUMER, tmp_path, "--wrap-mode=nofallback", PKG_CONFIG_PATH=str(installed[0] / "meson-uninstalled"))


def test_pkg_config_without_meson(installed, tmp_path):
    _, prefix = installed
    more = environment(PKG_CONFIG_PATH=str(prefix / "share/pkgconfig"))
    assert check("pkg-config", "--cflags", "cai", env=more).split() == [f"-I{prefix}/include"]
    assert check("pkg-config", "--libs", "cai", env=more).split() == []
    assert check("pkg-config", "--variable=headers", "cai", env=more).strip() == f"{prefix}/include"


def test_copied_into_another_tree(tmp_path):
    """What the README calls copying: the headers, one folder on the include path, one call of the compiler."""
    shutil.copytree(ROOT / "include/cai", tmp_path / "vendor/cai")
    module = tmp_path / ("consumer" + sysconfig.get_config_var("EXT_SUFFIX"))
    check(
        oldest(dialects())[0].compiler,
        "-std=c11",
        "-shared",
        "-fPIC",
        "-DCAI_NO_CUDA",
        f"-I{tmp_path / 'vendor'}",
        *own_python().arguments,
        CONSUMER / "consumer.c",
        "-o",
        module,
    )
    check(sys.executable, "-c", USE, env=environment(PYTHONPATH=str(tmp_path)))


@pytest.mark.parametrize("given", ["named", "found"])
def test_with_the_cuda_runtime(given, project, tmp_path):
    if cuda() is None or cuda().library is None:
        pytest.skip("no CUDA runtime was found")
    if given == "found" and not Path("/usr/local/cuda/include/cuda_runtime_api.h").is_file():
        pytest.skip("no toolkit where Meson looks for one")
    settings = [f"-Dcai:cudart_root={cuda().root}"] if given == "named" else []
    build_and_use(project, tmp_path, "-Dcuda=true", *settings)


def test_without_the_cuda_runtime_there_is_no_such_dependency(project, tmp_path):
    result = subprocess.run(
        [*MESON, "setup", tmp_path, project, f"-Dpython={sys.executable}", "-Dcuda=true", "-Dcai:cuda=disabled"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0 and "cai-cuda" in result.stdout


def test_cudart_root_that_is_none(tmp_path):
    result = subprocess.run(
        [*MESON, "setup", tmp_path, ROOT, "-Dtests=disabled", f"-Dcudart_root={tmp_path}"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0 and "where one of these is missing" in result.stdout


def test_dlpack_wrap(project, tmp_path):
    """The wrap brings the official header: from a repository on this machine, which git takes for the real one."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    official = next((header for header in dlpack_headers() if header.version == 103), None)
    if official is None:
        pytest.skip("no header of DLPack 1.3 is installed (apache-tvm-ffi has one)")
    repository = tmp_path / "dlpack"
    official.folder(tmp_path).joinpath("dlpack").rename(tmp_path / "headers")
    (repository / "include").mkdir(parents=True)
    (tmp_path / "headers").rename(repository / "include/dlpack")
    identity = {
        f"GIT_{role}_{what}": f"{what.lower()}@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "DLPack"], ["tag", "v1.3"]):
        check("git", "-C", repository, *command, env=environment(**identity, GIT_CONFIG_GLOBAL=os.devnull))

    source = tmp_path / "consumer"
    shutil.copytree(project, source)
    shutil.copy(ROOT / "subprojects/dlpack.wrap", source / "subprojects")
    shutil.copytree(ROOT / "subprojects/packagefiles", source / "subprojects/packagefiles")
    build_and_use(
        source,
        tmp_path / "build",
        "-Ddlpack=true",
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.file://{repository}.insteadOf",
        GIT_CONFIG_VALUE_0="https://github.com/dmlc/dlpack.git",
    )
    assert (source / "subprojects/dlpack/include/dlpack/dlpack.h").is_file()
