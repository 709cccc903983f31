"""Compares docs/pitfalls.md with the tests: each pitfall has a test that names it, or a reason why not.

A test is one of pitfall 7 if its name, or the id of one of its cases, contains `pitfall_07_`. Run as a program, this
says what is wrong with the page; with --write it fills in which suites test what, and leaves the reasons alone.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/pitfalls.md"
COUNT = 70

_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \|$")
_NAME = re.compile(r"pitfall_(\d\d)_")


def _names_in_python(path):
    """Names of test functions, and texts in their decorators, where the ids of cases stand."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test"):
            yield node.name
            for decorator in node.decorator_list:
                yield from (
                    part.value
                    for part in ast.walk(decorator)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )


def _names_in_c(path):
    """Names of Criterion's tests, and of those that a TAP program runs by name."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.DOTALL)
    yield from re.findall(r"^(?:[A-Z_]*TEST|Test|ParameterizedTest)\(([^)]*)\)", text, re.MULTILINE)


def tested():
    """The suites that test each pitfall: number to sorted list of names."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*")):
        suite = path.relative_to(ROOT / "tests").parts[0]
        names = {".py": _names_in_python, ".c": _names_in_c, ".cpp": _names_in_c}.get(path.suffix, lambda _: [])(path)
        for number in (int(number) for name in names for number in _NAME.findall(name)):
            found.setdefault(number, set()).add(suite)
    return {number: sorted(suites) for number, suites in found.items()}


def where(suites):
    """What the page says of a pitfall that is tested."""
    return "tested: " + ", ".join(suites)


def rows():
    """The rows of the page: number to (subject, where it is tested or why not)."""
    found = [_ROW.match(line) for line in PAGE.read_text().splitlines()]
    return {int(row.group(1)): (row.group(2), row.group(3)) for row in found if row}


def complaints():
    """What is wrong with the page, as lines."""
    listed, suites = rows(), tested()
    lines = [f"pitfall {number} is not on the page" for number in range(1, COUNT + 1) if number not in listed]
    lines += [f"there is no pitfall {number}" for number in {*listed, *suites} if not 1 <= number <= COUNT]
    for number, (_, said) in sorted(listed.items()):
        if number in suites and said != where(suites[number]):
            lines.append(f"pitfall {number} is {where(suites[number])}; the page says '{said}'")
        elif number not in suites and not re.fullmatch(r"not (yet|applicable): .{10,}", said):
            lines.append(
                f"pitfall {number} has no test named pitfall_{number:02}_…, and no reason on the page ('not yet: …')"
            )
    return lines


def write():
    """Bring the last column up to date."""
    suites, lines = tested(), []
    for line in PAGE.read_text().splitlines():
        row = _ROW.match(line)
        if row and int(row.group(1)) in suites:
            line = f"| {row.group(1)} | {row.group(2)} | {where(suites[int(row.group(1))])} |"
        lines.append(line)
    PAGE.write_text("\n".join(lines) + "\n")


def main(arguments):
    if arguments == ["--write"]:
        write()
    found = complaints()
    print("\n".join(found) if found else f"{COUNT} pitfalls, {len(tested())} with tests")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
