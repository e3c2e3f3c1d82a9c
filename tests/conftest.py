"""Settings that every test shares."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

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
