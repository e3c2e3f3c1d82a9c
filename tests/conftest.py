"""Settings that every test shares, and promises: tests that `make stress` tries ten times as often."""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings

TENTHS = 10

# Timing decides no test, and the same commit always tries the same examples.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory):
    """Give each test process a temporary folder, and so a device lock, of its own: tests measure beside each other."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture
def digits_folder():
    """Return the folder of small trained networks, one per family."""
    return Path(__file__).parent / "data" / "digits"


@pytest.fixture(scope="module")
def written_page(request, tmp_path_factory):
    """Return the folder of a module's PAGE, written anew by its generator in benchmarks/."""
    page, folder = request.module.PAGE, tmp_path_factory.mktemp("page")
    command = [sys.executable, f"benchmarks/{page.stem}_page.py", "--out", folder / page.name]
    done = subprocess.run(command, cwd=page.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


# --- promises -------------------------------------------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption("--stress", action="store_true", help="try each promise as often as docs/reliability.md says")
    parser.addoption("--tried", metavar="FILE", help="write what was tried of each promise, and what passed, as JSON")


def pytest_generate_tests(metafunc):
    """Give a test that asks for `tries` its numbers: a tenth of them, or with --stress all, a tenth at a time."""
    if "tries" not in metafunc.fixturenames:
        return
    full = metafunc.definition.get_closest_marker("promise").args[1]
    edges = [full * tenth // TENTHS for tenth in range(TENTHS + 1)]
    tenths = [range(first, last) for first, last in pairwise(edges)]
    chosen = tenths if metafunc.config.getoption("--stress") else tenths[:1]
    metafunc.parametrize("tries", chosen, ids=[f"{each.start}-{each.stop - 1}" for each in chosen])


def pytest_collection_modifyitems(items):
    """Note on every test of a promise what it tries; a test that asks for no `tries` is one."""
    for item in items:
        for mark in item.iter_markers("promise"):
            count = len(item.callspec.params["tries"]) if "tries" in item.fixturenames else 1
            item.user_properties.append(("promise", [mark.args[0], item.originalname, count]))


def pytest_terminal_summary(terminalreporter, config):
    """Write what was tried; a part of which one try fails counts as failed whole."""
    if not config.getoption("--tried"):
        return
    found = defaultdict(lambda: {"tried": 0, "passed": 0, "skipped": 0, "seconds": 0.0})
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            for promise, name, count in (value for key, value in report.user_properties if key == "promise"):
                row = found[f"{promise} {name}"]
                row["seconds"] += report.duration
                if outcome == "skipped":
                    row["skipped"] += count
                else:
                    row["tried"] += count
                    row["passed"] += count * (outcome == "passed")
    text = json.dumps(dict(sorted(found.items())), indent=1)
    Path(config.getoption("--tried")).write_text(f"{text}\n", encoding="utf-8")
