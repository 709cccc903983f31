"""Fixtures: an emulator that starts fresh for every test, and what every test leaves behind."""

import contextlib
import gc
import sys

import pytest

pytest.register_assert_rewrite("checks")

import checks  # noqa: E402
import emulated  # noqa: E402


def pytest_sessionfinish():
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def small_heap():
    """Every test collects garbage: what imports and earlier tests left behind need not be looked at each time."""
    gc.collect()
    gc.freeze()


# The limited API has the buffer protocol since 3.11.
PROBES = ["probe"] if sys.version_info < (3, 11) else ["probe", "probe_limited"]


@pytest.fixture(params=PROBES)
def probe(request):
    """The probe with a state and a type cache of its own: once per build of the library over the emulator."""
    return checks.load(request.param)


ARRAYS = ["arrays"] if sys.version_info < (3, 11) else ["arrays", "arrays_limited"]


@pytest.fixture(params=ARRAYS)
def arrays(request):
    """The module that makes and keeps arrays, with a state of its own: once per build of the library."""
    module = checks.load(request.param)
    module.forget_deleted()
    return module


@pytest.fixture
def accepts(probe):
    return checks.Checks(probe).accepts


@pytest.fixture
def refuses(probe):
    return checks.Checks(probe).refuses


@pytest.fixture(autouse=True)
def clean_emulator():
    """Every test begins with an empty emulator, and ends with device 0 current and nothing used wrongly."""
    emulated.reset()
    yield
    violations = emulated.violations()
    device = emulated.get_device()
    gc.collect()
    emulated.reset()
    assert violations == []
    assert device == 0


@pytest.fixture
def unchanged():
    """A context in which the reference counts of objects must not change."""

    @contextlib.contextmanager
    def check(*objects):
        gc.collect()
        before = [sys.getrefcount(item) for item in objects]
        yield
        emulated.run_all()  # what is given back late is
        gc.collect()
        assert [sys.getrefcount(item) for item in objects] == before

    return check
