"""Fixtures: an emulator that starts fresh for every test, and what every test leaves behind."""

import contextlib
import gc
import sys

import pytest

import emulated


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
        gc.collect()
        assert [sys.getrefcount(item) for item in objects] == before

    return check
