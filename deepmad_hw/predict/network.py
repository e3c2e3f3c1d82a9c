"""A latency table as a model of whole networks: layers add up, whole networks calibrate the sum. Layer 3."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.latency.model import Curve
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.predict.corrections import Observed, corrections, left_out_errors
from deepmad_hw.predict.interpolate import Interpolator
from deepmad_hw.predict.intervals import CONFIDENCE, conformal_margin, grouped_margins
from deepmad_hw.predict.odd import OddRow
from deepmad_hw.predict.operations import OperationLaws

# A measured row is taken as it is if its median is this sure; else the rows around it know better.
EXACT_RELATIVE_ERROR = 0.05
FOLDS = 4  # in which rows are left out to see how well the others predict them

Sort = tuple[str, bool]


def _sort(spec: LayerSpec) -> Sort:
    return spec.op, spec.depthwise


class TableModel:
    """Predicts networks from a table. Implements `deepmad_hw.latency.model.LatencyModel`.

    Rows that were measured well are taken as they are, others are interpolated; odd ones are left out of both. A
    network's latency is ``curve(gain * sum of (layer + constant))``, see `deepmad_hw.predict.corrections`; the gain is
    the median of measured over summed among the table's calibration networks. It is near 1, because layers are timed
    inside networks; a separate overhead could not be told from it.

    Args:
        table: the measured rows.
        confidence: share of new networks, and of new layers, that intervals shall cover.

    Attributes:
        corrections: what makes the sum of rows a latency, as far as the calibration networks show it.
        curve: from the sum over layers to a network's latency.
    """

    def __init__(self, table: LatencyTable, *, confidence: float = CONFIDENCE) -> None:
        self.table = table
        self.confidence = confidence
        self._interpolator = Interpolator(table.rows, batch=table.environment.batch)
        odd = {row.spec for row in self.odd_rows}
        self._sound = [row for row in table.rows if row.status == "ok" and row.spec not in odd]
        self._exact_us = {row.spec: row.median_us for row in self._sound if row.relative_error <= EXACT_RELATIVE_ERROR}
        self._sure = {row.spec: row.relative_error for row in self._sound if row.spec in self._exact_us}
        self._networks = self._observed(table.calibration)
        self.corrections = corrections(self._networks)
        self.curve: Curve = self.corrections.curve

    @property
    def name(self) -> str:
        """Return the table's name."""
        return self.table.name

    @property
    def device(self) -> str:
        """Return what the table's device calls itself."""
        return self.table.environment.device

    @property
    def batch(self) -> int:
        """Return how many images the table's times are for."""
        return self.table.environment.batch

    @property
    def odd_rows(self) -> tuple[OddRow, ...]:
        """Return the table's rows that no prediction uses, because the rows around them say something else."""
        return self._interpolator.odd

    @cached_property
    def calibration_errors(self) -> tuple[float, ...]:
        """Return of each calibration network measured over predicted by the others, less one."""
        return left_out_errors(self._networks)

    @property
    def margin(self) -> float | None:
        """Return m of ``upper = predicted * (1 + m)`` at the confidence, or None with too few calibration networks."""
        return conformal_margin(self.calibration_errors, confidence=self.confidence)

    @cached_property
    def operations(self) -> OperationLaws:
        """Return the laws of operations outside the block families, scaled like the layers."""
        return OperationLaws(
            self.table.operations, batch=self.batch, gain=self.corrections.gain, confidence=self.confidence
        )

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether it was measured or lies between measured rows.

        Args:
            specs: n layers.
        """
        keys = [self.table.key(spec) for spec in specs]
        covered = np.array([key in self._exact_us for key in keys], dtype=np.bool_)
        if not covered.all():
            rest = np.flatnonzero(~covered)
            covered[rest] = self._interpolator.covers([keys[index] for index in rest])
        return covered

    def layers_ms(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return what each layer adds to the sum, in milliseconds.

        Args:
            specs: n layers.

        Raises:
            NotCoveredError: the table cannot answer for one of them.
        """
        return (self._layers_us(specs) + self.corrections.us_per_layer) * (self.corrections.gain / 1e3)

    def extrapolated_ms(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return what layers outside the measured ones would take by the law of their operation, NaN without one.

        Args:
            specs: n layers.
        """
        keys = [self.table.key(spec) for spec in specs]
        known = np.flatnonzero(self._interpolator.extrapolates(keys))
        times_ms = np.full(len(keys), np.nan)
        times_ms[known] = self._interpolator.predict_us([keys[index] for index in known]) * (
            self.corrections.gain / 1e3
        )
        return times_ms

    def layer_margins(self, specs: Sequence[LayerSpec]) -> list[float | None]:
        """Return for each layer m of ``layer * (1 +- m)``, within which a measurement of it lies at the confidence.

        What a row of the table takes is as sure as its median. The others are judged by rows like them that were left
        out of the fit in turn.

        Args:
            specs: n layers, all covered.
        """
        keys = [self.table.key(spec) for spec in specs]
        return [self._sure[key] if key in self._sure else self._margin_between_rows(key) for key in keys]

    def margins_between_rows(self, specs: Sequence[LayerSpec]) -> list[float]:
        """Return for each layer how far rows around it may mislead, 0 for a layer that has a sure row of its own.

        Args:
            specs: n layers, all covered.
        """
        keys = [self.table.key(spec) for spec in specs]
        return [0.0 if key in self._sure else self._margin_between_rows(key) or 0.0 for key in keys]

    def _margin_between_rows(self, key: LayerSpec) -> float | None:
        return self._margins_between_rows.get(_sort(key), self._margins_between_rows[None])

    @cached_property
    def _margins_between_rows(self) -> dict[Sort | None, float | None]:
        """Return the margin of each sort of layers, and of all together (under None)."""
        rows = self._sound
        order = np.random.default_rng(0).permutation(len(rows))
        errors: list[tuple[Sort, float]] = []
        for fold in np.array_split(order, FOLDS):
            left_out = set(fold.tolist())
            kept = [row for index, row in enumerate(rows) if index not in left_out]
            rest = Interpolator(kept, batch=self.batch)
            known = rest.covers([rows[index].spec for index in fold])
            asked = [rows[index] for index in fold[known]]
            predicted_us = rest.predict_us([row.spec for row in asked])
            errors += [
                (_sort(row.spec), row.median_us / float(value_us) - 1)
                for row, value_us in zip(asked, predicted_us, strict=True)
            ]
        return grouped_margins(errors, confidence=self.confidence)

    def _layers_us(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        covered = self.covers(specs)
        if not covered.all():
            first = specs[int(np.argmin(covered))]
            raise NotCoveredError(f"no rows surround {first}", where=self.name)
        keys = [self.table.key(spec) for spec in specs]
        distinct = list(dict.fromkeys(key for key in keys if key not in self._exact_us))
        known = self._exact_us
        if distinct:
            known = known | dict(zip(distinct, self._interpolator.predict_us(distinct).tolist(), strict=True))
        return np.array([known[key] for key in keys], dtype=np.float64)

    def _observed(self, networks: Sequence[CalibrationNetwork]) -> list[Observed]:
        """Return the calibration networks that the rows cover."""
        found = []
        for network in networks:
            specs = [node.spec for node in expand(network.architecture)]
            if network.measurement.samples_us and self.covers(specs).all():
                rows_us = float(self._layers_us(specs).sum())
                measured_us = network.measurement.median_us
                found.append(Observed(measured_us=measured_us, rows_us=rows_us, layers=len(specs)))
        return found
