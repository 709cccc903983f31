"""Starts the compilations of all selected tests at once; a test then waits for its own."""

import pytest
import toolchain

_farm = toolchain.Farm()


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        return
    for item in session.items:
        wanted = getattr(item, "callspec", None) and item.callspec.params.get("compilation")
        if wanted is not None:
            _farm.start(wanted)


def pytest_sessionfinish(session):
    _farm.close()


@pytest.fixture
def compiled(compilation):
    """What came of the test's parameter `compilation`."""
    return _farm.result(compilation)


@pytest.fixture(scope="session")
def cuda():
    """The CUDA runtime's headers, or a skip."""
    if toolchain.cuda() is None:
        pytest.skip("no headers of the CUDA runtime were found")
    return toolchain.cuda()
