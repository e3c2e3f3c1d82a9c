"""Engines are native code: only those that this user built on this machine are loaded."""

import hashlib
import json
from dataclasses import replace

import pytest

from deepmad_hw.errors import InputFileError, StorageError
from profilers.engine_manifest import Manifest, ShapeProfile, TensorInfo, key_path, manifest_path, read_engine, sealed

PLAN = b"native code"
MANIFEST = Manifest(
    flavour="tensorrt",
    version="11.4.0",
    gpu="Card 1000",
    compute_capability="9.0",
    driver="600.1",
    flags=("TF32",),
    settings=(("optimization_level", "3"),),
    types=("float32", "int8"),
    profiles=(ShapeProfile(tensor="image", smallest=(1, 3), usual=(2, 3), largest=(4, 3)),),
    tensors=(TensorInfo(name="image", kind="input", dtype="float32", shape=(-1, 3)),),
    onnx_sha256="0" * 64,
    plan_sha256=hashlib.sha256(PLAN).hexdigest(),
)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "network.plan"
    path.write_bytes(PLAN)
    manifest_path(path).write_bytes(sealed(MANIFEST))
    return path


def test_an_engine_that_was_built_here_is_loaded(engine):
    assert read_engine(engine) == (MANIFEST, PLAN)


def test_the_key_is_the_user_s_alone_and_stays(engine):
    key = key_path().read_bytes()
    assert key_path().stat().st_mode & 0o077 == 0
    assert key_path().parent.stat().st_mode & 0o077 == 0
    sealed(MANIFEST)
    assert key_path().read_bytes() == key
    assert [path.name for path in key_path().parent.iterdir()] == ["engine.key"]


def test_an_engine_without_a_manifest_is_refused(engine):
    manifest_path(engine).unlink()
    with pytest.raises(InputFileError, match="native code, and this one has no manifest of this machine"):
        read_engine(engine)


@pytest.mark.parametrize("state", ["elsewhere", "engine"], ids=["another key", "no key"])
def test_an_engine_of_another_machine_is_refused(engine, monkeypatch, tmp_path, state):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    if state == "elsewhere":
        sealed(MANIFEST)
    with pytest.raises(InputFileError, match="not built by this user on this machine, or was changed since"):
        read_engine(engine)


def test_a_manifest_that_was_changed_is_refused(engine):
    path = manifest_path(engine)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"gpu": "Card 2000"}))
    with pytest.raises(InputFileError, match="or was changed since"):
        read_engine(engine)


def test_an_engine_that_was_changed_is_refused(engine):
    engine.write_bytes(PLAN + b"!")
    with pytest.raises(InputFileError, match="not the one its manifest describes"):
        read_engine(engine)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seal": 1}', '{"seal": ""}', '{"seal": "\\u00e4"}', "\0", "nan"])
def test_what_is_no_manifest_is_refused_in_one_line(engine, text):
    manifest_path(engine).write_text(text)
    with pytest.raises(InputFileError) as caught:
        read_engine(engine)
    assert "\n" not in str(caught.value)


def test_a_manifest_of_another_schema_is_refused(engine, monkeypatch):
    monkeypatch.setattr("profilers.engine_manifest.SCHEMA", 2)
    manifest_path(engine).write_bytes(sealed(MANIFEST))
    monkeypatch.setattr("profilers.engine_manifest.SCHEMA", 1)
    with pytest.raises(InputFileError, match="another version of this program"):
        read_engine(engine)


def test_an_engine_that_is_not_there_is_refused(engine):
    engine.unlink()
    with pytest.raises(InputFileError, match="cannot read the engine"):
        read_engine(engine)


def test_a_key_that_others_may_read_is_refused(engine):
    key_path().chmod(0o644)
    with pytest.raises(InputFileError, match="not yours alone; delete it"):
        read_engine(engine)


def test_a_key_that_is_a_link_is_refused(engine, tmp_path):
    key_path().rename(tmp_path / "moved")
    key_path().symlink_to(tmp_path / "moved")
    with pytest.raises(InputFileError, match="cannot read the key"):
        read_engine(engine)


def test_a_key_of_another_size_is_refused(engine):
    key_path().write_bytes(b"short")
    with pytest.raises(InputFileError, match="damaged"):
        sealed(MANIFEST)


def test_a_key_that_cannot_be_kept_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises((StorageError, InputFileError), match="key of engines"):
        sealed(MANIFEST)


def test_seals_differ_where_manifests_do(engine):
    one, other = (json.loads(sealed(each))["seal"] for each in (MANIFEST, replace(MANIFEST, gpu="none")))
    assert one != other
