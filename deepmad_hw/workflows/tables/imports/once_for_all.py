"""Latency tables of Once-for-all and ProxylessNAS: YAML, one block a key, its mean in milliseconds. Layer 4.

A key says what was timed: ``expanded_conv-input:112x112x16-output:56x56x24-expand:96-kernel:3-stride:2-idskip:0``
(rows x columns x channels; with ``se`` and ``hs`` for MobileNetV3), and so do ``Conv``, ``Conv_1``, ``AvgPool2D`` and
``Logits``. A block is a whole inverted bottleneck, which a table here holds layer by layer, so its time is divided.
Source: LatencyEstimator of mit-han-lab/proxylessnas and once-for-all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deepmad_hw.errors import DeepmadError, InputFileError
from deepmad_hw.latency.measurement import Environment, LayerMeasurement
from deepmad_hw.latency.table import LatencyTable
from deepmad_hw.network import families
from deepmad_hw.network.expand import spec_of
from deepmad_hw.network.families.base import BlockShape
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.predict.blocks import divided_us
from deepmad_hw.workflows.tables.imports import ImportRequest

LARGEST_BYTES = 4 * 2**20  # reading one takes fifty times as much memory
_BLOCK = "expanded_conv"
_CONVOLUTIONS = ("Conv", "Conv_1", "Conv_2")
_FIELDS = {_BLOCK: ("input", "output", "expand", "kernel", "stride", "idskip")}
_LARGEST_NUMBER = 10**6


def read(path: Path, request: ImportRequest) -> LatencyTable:
    """Return the layers of all blocks as a table.

    Args:
        path: the YAML file.
        request: the device, and the batch that the times are for.

    Raises:
        InputFileError: the file cannot be read, or an entry is none of the format.
    """
    blocks = [(_layers(key, where), mean_ms * 1e3) for where, key, mean_ms in _entries(path)]
    samples: dict[LayerSpec, list[float]] = {}
    for (specs, _), times_us in zip(blocks, divided_us(blocks), strict=True):
        for spec, time_us in zip(specs, times_us, strict=True):
            samples.setdefault(spec, []).append(time_us)
    return LatencyTable(
        name=request.name,
        environment=Environment(
            device=request.device or "unknown phone",
            machine="aarch64",
            cores=1,
            features=("asimd",),
            governor="unknown",
            runtime="unknown",
            runtime_version="unknown",
            precision=request.precision,
            batch=request.batch,
        ),
        rows=tuple(LayerMeasurement(spec=spec, samples_us=tuple(times)) for spec, times in samples.items()),
        notes=(
            f"imported from {path.name} (Once-for-all), {len(blocks)} blocks",
            "blocks were timed, not layers: their times are divided by a fitted law, and add up to what was measured",
        ),
    )


def _entries(path: Path) -> Iterator[tuple[str, str, float]]:
    """Yield place, key and mean of every entry."""
    import yaml

    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputFileError(f"larger than {LARGEST_BYTES} bytes", where=str(path))
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"
        raise InputFileError(f"is no YAML: {error.problem or error.context}", where=where) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputFileError(f"is no YAML: {str(error).splitlines()[0]}", where=f"{path}:1:1") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise InputFileError("expected one key a block", where=f"{path}:1:1")
    seen: set[str] = set()
    for key, value in root.value:
        where = f"{path}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
        if not isinstance(key, yaml.ScalarNode) or key.value in seen:
            raise InputFileError("expected a block's name that no other entry has", where=where)
        seen.add(key.value)
        yield where, key.value, _mean_ms(value, path, where)


def _mean_ms(value: object, path: Path, where: str) -> float:
    import yaml

    pairs = value.value if isinstance(value, yaml.MappingNode) else []
    means = [item for key, item in pairs if isinstance(key, yaml.ScalarNode) and key.value == "mean"]
    if len(means) != 1 or not isinstance(means[0], yaml.ScalarNode):
        raise InputFileError("expected one mean in milliseconds", where=where)
    mark = means[0].start_mark
    try:
        mean_ms = float(means[0].value)
    except ValueError:
        mean_ms = float("nan")
    if not 0 < mean_ms < float("inf"):
        raise InputFileError(
            f"mean: expected a time above 0 ms, got {means[0].value[:20]!r}",
            where=f"{path}:{mark.line + 1}:{mark.column + 1}",
        )
    return mean_ms


def _layers(key: str, where: str) -> list[LayerSpec]:
    """Return the layers that an entry stands for."""
    kind, _, rest = key.partition("-")
    fields = dict(part.partition(":")[::2] for part in rest.split("-"))
    try:
        if kind == _BLOCK:
            return _block(fields, where)
        if kind in _CONVOLUTIONS:
            return [_convolution(fields, where)]
        if kind == "AvgPool2D":
            rows, columns, channels = _shape(fields, "input", where)
            return [
                LayerSpec(op="global_pool", in_channels=channels, out_channels=channels, height=rows, width=columns)
            ]
        if kind == "Logits":
            inside, outside = (_shape(fields, name, where)[2] for name in ("input", "output"))
            return [LayerSpec(op="linear", in_channels=inside, out_channels=outside, height=1, width=1)]
    except InputFileError:
        raise
    except DeepmadError as error:  # the shapes are no layer's
        raise InputFileError(f"{key[:80]}: {error.what}", where=where) from error
    raise InputFileError(f"unknown block {kind[:40]!r}", where=where, hint=f"known: {_BLOCK}, Conv, AvgPool2D, Logits")


def _block(fields: dict[str, str], where: str) -> list[LayerSpec]:
    rows, columns, inside = _shape(fields, "input", where)
    outside = _shape(fields, "output", where)[2]
    inner, kernel, stride, skip = (_number(fields, name, where) for name in _FIELDS[_BLOCK][2:])
    squeezed, hard = (_number(fields, name, where) if name in fields else 0 for name in ("se", "hs"))
    shape = BlockShape(
        in_channels=inside,
        out_channels=outside,
        bottleneck=inner,
        kernel=kernel,
        stride=stride,
        height=rows,
        width=columns,
        activation="hardswish" if hard else "relu6",
        first=not skip,
        identity=bool(skip),
    )
    layers = [spec_of(form) for form in families.get("mbconv_se" if squeezed else "mbconv").block(shape)]
    # A block that does not widen has no first convolution.
    return layers[1:] if inner == inside else layers


def _convolution(fields: dict[str, str], where: str) -> LayerSpec:
    rows, columns, inside = _shape(fields, "input", where)
    out_rows, _, outside = _shape(fields, "output", where)
    stride = max(1, round(rows / max(out_rows, 1)))
    spec = LayerSpec(
        op="conv", in_channels=inside, out_channels=outside, height=rows, width=columns, activation="relu6"
    )
    return replace(spec, stride=stride, kernel=3) if stride > 1 else spec


def _shape(fields: dict[str, str], name: str, where: str) -> tuple[int, int, int]:
    """Return rows, columns and channels; a vector has one row and one column."""
    words = fields.get(name, "").split("x")
    if len(words) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,7}", word, re.ASCII) for word in words):
        raise InputFileError(
            f"{name}: expected rows x columns x channels, got {fields.get(name, '')[:40]!r}", where=where
        )
    numbers = [int(word) for word in words]
    return (1, 1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1], numbers[2])


def _number(fields: dict[str, str], name: str, where: str) -> int:
    word = fields.get(name, "")
    if not re.fullmatch(r"[0-9]{1,7}", word, re.ASCII) or int(word) > _LARGEST_NUMBER:
        raise InputFileError(f"{name}: expected a whole number, got {word[:40]!r}", where=where)
    return int(word)
