"""How tests/run counts: from files that test programs write, where a crash is a failure and silence is no pass."""

import json
import sys

import pytest
import results

PYTEST = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest">
  <testcase classname="python.test_a" name="test_passes" />
  <testcase classname="python.test_a" name="test_fails"><failure message="assert 0">…</failure></testcase>
  <testcase classname="python.test_a" name="test_errs"><error message="fixture">…</error></testcase>
  <testcase classname="python.test_a" name="test_skips">
    <skipped type="pytest.skip" message="torch is not installed">…</skipped>
  </testcase>
</testsuite></testsuites>
"""

MESON = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="cai.unit - cai:dtype">
  <testcase name="1 - dtype::passes  (0.01s)" classname="cai.unit - cai:dtype" />
  <testcase name="2 - dtype::fails" classname="cai.unit - cai:dtype"><failure /></testcase>
  <testcase name="3 - dtype::skips" classname="cai.unit - cai:dtype"><skipped /><system-out>no GPU</system-out></testcase>
</testsuite></testsuites>
"""


@pytest.fixture
def found():
    return results.Results("suite")


def write(path, text):
    path.write_text(text)
    return path


def test_pytest_results(found, tmp_path):
    results.add_pytest(found, write(tmp_path / "report.xml", PYTEST), 1)
    assert found.passed == 1
    assert found.failures == ["python.test_a::test_fails", "python.test_a::test_errs"]
    assert found.skips == [("python.test_a::test_skips", "torch is not installed")]
    assert found.ran() == 3


PASSES = '<testsuites><testsuite><testcase classname="a" name="b" /></testsuite></testsuites>'


@pytest.mark.parametrize("status", [1, 2, 3, 4, 139, -11])
def test_pytest_that_failed_without_a_failing_test(found, tmp_path, status):
    results.add_pytest(found, write(tmp_path / "report.xml", PASSES), status)
    assert found.failures == [f"pytest: exit status {status}"]


@pytest.mark.parametrize("text", [None, "", "<testsuites><testsuite><testc"])
@pytest.mark.parametrize("status", [0, 1, 139])
def test_pytest_that_left_no_results(found, tmp_path, text, status):
    if text is not None:
        write(tmp_path / "report.xml", text)
    results.add_pytest(found, tmp_path / "report.xml", status)
    assert found.failures == [f"pytest: exit status {status}, and no results"]


def meson_logs(folder, junit, *told):
    write(folder / "testlog.junit.xml", junit)
    lines = [json.dumps({"name": name, "result": result, "returncode": code}) for name, result, code in told]
    write(folder / "testlog.json", "\n".join(lines))
    return folder


def test_meson_results(found, tmp_path):
    logs = meson_logs(tmp_path, MESON, ("unit - cai:dtype", "FAIL", 1), ("unit - cai:status", "OK", 0))
    results.add_meson(found, logs, 1)
    assert found.passed == 1
    assert found.failures == ["cai.unit - cai:dtype::dtype::fails"]
    assert found.skips == [("cai.unit - cai:dtype::dtype::skips", "no GPU")]


@pytest.mark.parametrize("result", ["ERROR", "TIMEOUT", "FAIL", "INTERRUPT"])
def test_program_that_died_without_a_failing_test(found, tmp_path, result):
    results.add_meson(found, meson_logs(tmp_path, PASSES, ("unit - cai:status", result, -11)), 1)
    assert found.failures == [f"unit - cai:status: {result}, exit status -11"]


def test_meson_that_failed_silently(found, tmp_path):
    results.add_meson(found, meson_logs(tmp_path, PASSES, ("unit - cai:status", "OK", 0)), 2)
    assert found.failures == ["meson test: exit status 2"]


def test_meson_that_left_no_results(found, tmp_path):
    results.add_meson(found, tmp_path, 0)
    assert found.failures == ["meson test left no results"]


def test_closing_line(capsys):
    everything = [
        results.Results("a", passed=3),
        results.Results("b", passed=1, skips=[("x", "no GPU"), ("y", "no GPU")]),
    ]
    assert results.print_total(everything) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 0 failed, 2 skipped"
    everything[0].fail("something")
    assert results.print_total(everything) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 1 failed, 2 skipped"
    results.print_skips(everything)
    results.print_failures(everything)
    assert capsys.readouterr().out == "\nskipped:\n  b: 2 x no GPU\n\nfailed:\n  a: something\n"


def test_suite_that_ran_nothing_is_a_failure(monkeypatch):
    import run_tests

    monkeypatch.setattr(run_tests, "run_pytest", lambda *_: None)
    options = run_tests.parse_arguments(["style"])
    python = type("Python", (), {"environment": lambda self: {}})()
    assert run_tests.run_suite("style", python, None, options).failures == ["ran no test"]


def test_arguments_of_the_runner():
    import run_tests

    assert run_tests.parse_arguments([]).suites == ["unit", "python", "compile", "style"]
    assert run_tests.parse_arguments(["--gpu"]).suites == ["unit", "python", "compile", "style", "gpu"]
    assert run_tests.parse_arguments(["--gpu", "gpu"]).suites == ["gpu"]
    options = run_tests.parse_arguments(["python", "-k", "order", "--", "-x", "--pdb"])
    assert options.suites == ["python"] and options.pytest == ["-k", "order", "-x", "--pdb"]
    with pytest.raises(SystemExit):
        run_tests.parse_arguments(["pyhton"])


def test_the_running_interpreter_is_recognised():
    """What decides whether an interpreter is used as it is."""
    import setup_python

    python, broken = setup_python.ask(sys.executable, ["pytest", "no-such-package"], ["pytest", "no_such_module"])
    assert python.packages.keys() == {"pytest"} and broken == ["no_such_module"]
    assert python.executable.exists() and python.sites
    assert setup_python.ask("/nonexistent/python", [], ["pytest"]) == (None, ["pytest"])
