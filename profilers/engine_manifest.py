"""Says what an engine file is, and loads it only if this user built it on this machine. Layer 3, device side.

An engine is native code, so a file from elsewhere is a program from elsewhere. Every engine has a manifest beside it,
sealed with a random key that lies in the user's own state folder and never leaves it. What the seal says: a process of
this user, on this machine, built exactly these bytes. What it does not say: that the bytes do no harm, or that nobody
else acts as this user; whoever can read the key can make seals.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepmad_hw.errors import InputFileError, StorageError

SCHEMA = 1
ENGINE_SUFFIX = ".plan"
KEY_BYTES = 32
REBUILD = "build it here: deepmad-hw export"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """An input or output of an engine.

    Args:
        name: of the tensor.
        kind: ``input`` or ``output``.
        dtype: such as ``float32``.
        shape: -1 where the size is free.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeProfile:
    """The sizes that an engine with free dimensions takes.

    Args:
        tensor: name of the input.
        smallest: least shape.
        usual: the shape it is tuned for.
        largest: greatest shape.
    """

    tensor: str
    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an engine was made of, by what, for what.

    Args:
        flavour: module that built it, ``tensorrt`` or ``tensorrt_rtx``.
        version: of that module.
        gpu: card it was tuned for, ``none`` if it was built without one.
        compute_capability: of the card, such as ``9.0``, or ``none``.
        driver: its version, or ``none``.
        flags: builder flags that were set, ascending.
        settings: other builder settings, as words.
        types: number types of the network's tensors, ascending.
        profiles: of inputs with free dimensions.
        tensors: inputs and outputs.
        onnx_sha256: of the ONNX file.
        plan_sha256: of the engine.
    """

    flavour: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    flags: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    types: tuple[str, ...]
    profiles: tuple[ShapeProfile, ...]
    tensors: tuple[TensorInfo, ...]
    onnx_sha256: str
    plan_sha256: str


def manifest_path(engine: Path) -> Path:
    """Return where an engine's manifest lies.

    Args:
        engine: the engine's file.
    """
    return engine.with_name(f"{engine.name}.json")


def sealed(manifest: Manifest) -> bytes:
    """Return the manifest as the text of its file, sealed with this user's key, which is made if there is none.

    Args:
        manifest: of an engine that was built here, just now.

    Raises:
        StorageError: the key cannot be written.
        InputFileError: the key is not this user's alone.
    """
    data = {"schema": SCHEMA, **asdict(manifest), "settings": dict(manifest.settings)}
    sealed_data = {**data, "seal": _seal(data, _key(make=True))}
    return (json.dumps(sealed_data, indent=1) + "\n").encode()


def read_engine(path: Path) -> tuple[Manifest, bytes]:
    """Return an engine that this user built on this machine, and what it is.

    Args:
        path: the engine's file, its manifest beside it.

    Raises:
        InputFileError: it has no manifest, the manifest was made elsewhere or changed, or the engine was.
    """
    manifest = _read_manifest(manifest_path(path))
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"cannot read the engine ({error.strerror})", where=str(path)) from error
    if hashlib.sha256(plan).hexdigest() != manifest.plan_sha256:
        raise InputFileError("the engine is not the one its manifest describes", where=str(path), hint=REBUILD)
    return manifest, plan


def _read_manifest(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputFileError(
            "an engine is native code, and this one has no manifest of this machine", where=str(path), hint=REBUILD
        ) from error
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read the engine's manifest ({error})", where=str(path), hint=REBUILD) from error
    seal = data.pop("seal", None) if isinstance(data, dict) else None
    if not isinstance(seal, str) or not hmac.compare_digest(seal.encode(), _seal(data, _key(make=False)).encode()):
        raise InputFileError(
            "an engine is native code, and this one was not built by this user on this machine, or was changed since",
            where=str(path),
            hint=REBUILD,
        )
    return _manifest(data, where=str(path))


def _manifest(data: dict[str, Any], *, where: str) -> Manifest:
    """Return the manifest in data whose seal is right, so that only another version can have written another form."""
    if data.pop("schema") != SCHEMA:
        raise InputFileError("the manifest is of another version of this program", where=where, hint=REBUILD)
    lists: dict[str, Any] = {name: tuple(data[name]) for name in ("flags", "types")}
    shapes = ("smallest", "usual", "largest")
    profiles = tuple(
        ShapeProfile(tensor=item["tensor"], **{name: tuple(item[name]) for name in shapes}) for item in data["profiles"]
    )
    tensors = tuple(TensorInfo(**{**item, "shape": tuple(item["shape"])}) for item in data["tensors"])
    settings = tuple(data["settings"].items())
    return Manifest(**{**data, **lists, "profiles": profiles, "tensors": tensors, "settings": settings})


def _seal(data: dict[str, Any], key: bytes) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes:
    path = key_path()
    with contextlib.suppress(FileNotFoundError):
        return _read_key(path)
    if not make:
        return secrets.token_bytes(KEY_BYTES)  # no key, so no seal of it: one that fits none
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # another process was first: its key counts
            os.link(temporary, path)
        temporary.unlink()
    except OSError as error:
        raise StorageError(f"cannot keep the key of engines ({error.strerror})", where=str(path)) from error
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputFileError(f"cannot read the key of engines ({error.strerror})", where=str(path)) from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        key = file.read(KEY_BYTES + 1)
    private = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
    if not private or len(key) != KEY_BYTES:
        raise InputFileError(
            "the key of engines is damaged or not yours alone",
            where=str(path),
            hint="delete it; engines must then be built again",
        )
    return key


def key_path() -> Path:
    """Return where the key lies: in the user's state folder (``XDG_STATE_HOME``)."""
    folder = os.environ.get("XDG_STATE_HOME")
    return (Path(folder) if folder else Path.home() / ".local" / "state") / "deepmad-hw" / "engine.key"
