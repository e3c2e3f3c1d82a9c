"""A latency table: what layers and whole networks took on one device in one setting. Layer 1, standard library only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepmad_hw.errors import ConfigError
from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement, OperationMeasurement
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.layer import ACTIVATIONS, LayerSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationNetwork:
    """A whole network timed in the same run as the layers; it tells how well their sum predicts.

    Args:
        architecture: the network.
        measurement: its unprofiled times.
    """

    architecture: Architecture
    measurement: NetworkMeasurement


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyTable:
    """Measured rows, the networks that calibrate them, and where all were taken.

    Args:
        name: how limits and results call it.
        environment: the table's fingerprint.
        rows: one per layer, no two of one spec.
        calibration: whole networks, empty for a table without margins.
        measured_on: date of the last measurement (UTC, ``YYYY-MM-DD``), or None.
        canary_us: what the canary took while the table was made.
        notes: what a reader should know, such as how it was profiled.
        fused_activations: activations that cost this runtime nothing, so that a row with the first of them answers for
            all; empty where each was measured.
        operations: timed operations outside the block families, which laws are fitted to; no two of one spec.
    """

    name: str
    environment: Environment
    rows: tuple[LayerMeasurement, ...]
    calibration: tuple[CalibrationNetwork, ...] = ()
    measured_on: str | None = None
    canary_us: float | None = None
    notes: tuple[str, ...] = ()
    fused_activations: tuple[str, ...] = ()
    operations: tuple[OperationMeasurement, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two rows of one layer or operation, unknown activations, and a canary without a time."""
        number = isinstance(self.canary_us, int | float) and not isinstance(self.canary_us, bool)
        if self.canary_us is not None and not (number and 0 < self.canary_us < float("inf")):
            raise ConfigError(f"expected a canary time above 0 us, got {self.canary_us!r}", where=self.name)
        for activation in self.fused_activations:
            if activation not in ACTIVATIONS:
                raise ConfigError(f"unknown activation {activation!r}", where="fused_activations")
        seen: set[LayerSpec] = set()
        for row in self.rows:
            key = self.key(row.spec)
            if key in seen:
                raise ConfigError(f"two rows of one layer: {row.spec}", where=self.name)
            seen.add(key)
        if len({row.spec for row in self.operations}) < len(self.operations):
            raise ConfigError("two measurements of one operation", where=self.name)

    def key(self, spec: LayerSpec) -> LayerSpec:
        """Return the layer whose row answers for a layer.

        Args:
            spec: the layer asked for.
        """
        if spec.activation not in self.fused_activations:
            return spec
        return replace(spec, activation=self.fused_activations[0])
