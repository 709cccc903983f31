"""Every header by itself: in every language, by every compiler, in every way to build, and twice in one file."""

import pytest
from toolchain import (
    HEADERS,
    INCLUDE,
    NEEDS_CUDA,
    NEEDS_DLPACK,
    compilation,
    cuda,
    dialects,
    dlpack_arguments,
    oldest,
    modes,
    own_python,
)


def test_the_list_of_headers_is_complete():
    assert sorted(HEADERS) == sorted(path.name for path in (INCLUDE / "cai").glob("*.h"))
    assert list((INCLUDE / "cai").rglob("*.h")) == list((INCLUDE / "cai").glob("*.h")), "a header in a subfolder"


def headers_for(mode):
    return [header for header in HEADERS if mode != "no-cuda" or header not in NEEDS_CUDA]


def cases():
    """One mode in every dialect, the others in the oldest of each compiler."""
    full = "cuda" if cuda() is not None else "no-cuda"
    for mode, arguments in modes().items():
        for header in headers_for(mode):
            for dialect in dialects() if mode == full else oldest(dialects()):
                more = dlpack_arguments() if header in NEEDS_DLPACK else ()
                if more is None:
                    continue  # test_dlpack.py says so
                yield pytest.param(
                    compilation(
                        dialect,
                        f"#include <cai/{header}>\n#include <cai/{header}>\n",
                        f"-I{INCLUDE}",
                        *arguments,
                        *own_python().arguments,
                        *more,
                    ),
                    id=f"{header}-{mode}-{dialect}",
                )


@pytest.mark.parametrize("compilation", list(cases()))
def test_header_alone_and_twice(compiled):
    assert compiled.returncode == 0, compiled.stderr
