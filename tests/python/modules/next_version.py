"""Writes the headers of a later version of cai: what an extension was built with that meets today's in one process.

next_version.py HEADERS FOLDER STAMP: the version is another, and an array has more behind the part that is frozen.
"""

import sys
from pathlib import Path

CHANGES = {
    "config.h": [
        ("#define CAI_VERSION_MINOR  1", "#define CAI_VERSION_MINOR  2"),
        ('"0.1.0"', '"0.2.0"'),
    ],
    "array.h": [
        ("typedef struct cai_impl_own_array {\n    cai_array_t         array;",
         "typedef struct cai_impl_own_array {\n    cai_array_t         array;\n    uint64_t            news[5];"),
    ],
}  # fmt: skip


def main(headers, folder, stamp):
    target = Path(folder) / "cai"
    target.mkdir(parents=True, exist_ok=True)
    for header in sorted(Path(headers).glob("*.h")):
        text = header.read_text()
        for old, new in CHANGES.get(header.name, []):
            assert text.count(old) == 1, f"{header.name} has not: {old}"
            text = text.replace(old, new)
        (target / header.name).write_text(text)
    Path(stamp).write_text("/* the headers of the next version are written */\n")


main(*sys.argv[1:])
