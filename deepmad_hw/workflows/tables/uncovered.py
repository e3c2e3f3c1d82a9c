"""Tables without rows of some operations: said before a design is sought, or counted as nothing and listed. Layer 4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.latency.model import Curve, LatencyModel
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.expand import expand
from deepmad_hw.network.layer import LayerSpec
from deepmad_hw.predict.network import TableModel
from deepmad_hw.problem import sampling
from deepmad_hw.problem.space import Space

SAMPLES = 8  # random designs whose common operations are taken for those of every design


def operation_of(spec: LayerSpec) -> str:
    """Return what sort of operation a layer is, as far as tables hold rows of some sorts and not of others.

    Args:
        spec: a layer.
    """
    if spec.op != "conv":
        return spec.op
    if spec.height == spec.width == 1:
        return "conv on one pixel"
    return "depthwise conv" if spec.depthwise else "conv"


class LenientModel:
    """A table that counts operations which it has no row of at all as nothing. Implements `LatencyModel`.

    Layers of operations that it has rows of are covered, or not, as in the table.

    Args:
        model: the table.
    """

    def __init__(self, model: TableModel) -> None:
        self._model = model
        self.table = model.table
        self._known = frozenset(operation_of(row.spec) for row in model.table.rows if row.samples_us)

    @property
    def name(self) -> str:
        """Return the table's name."""
        return self._model.name

    @property
    def device(self) -> str:
        """Return what the table's device calls itself."""
        return self._model.device

    @property
    def batch(self) -> int:
        """Return how many images the table's times are for."""
        return self._model.batch

    @property
    def curve(self) -> Curve:
        """Return what a network takes for the sum over its layers."""
        return self._model.curve

    @property
    def confidence(self) -> float:
        """Return the share of networks that the margin covers."""
        return self._model.confidence

    @property
    def margin(self) -> float | None:
        """Return the table's margin."""
        return self._model.margin

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether the table can answer, or its operation counts as nothing.

        Args:
            specs: n layers.
        """
        return self._model.covers(specs) | ~self._counted(specs)

    def layers_ms(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return each layer's share in milliseconds, 0 for operations without rows.

        Args:
            specs: n layers.

        Raises:
            NotCoveredError: the table cannot answer for one of them.
        """
        counted = np.flatnonzero(self._counted(specs))
        times_ms = np.zeros(len(specs))
        times_ms[counted] = self._model.layers_ms([specs[int(index)] for index in counted])
        return times_ms

    def left_out(self, specs: Iterable[LayerSpec]) -> Counter[str]:
        """Return how many layers count as nothing, by operation.

        Args:
            specs: layers of a network.
        """
        return Counter(kind for kind in map(operation_of, specs) if kind not in self._known)

    def _counted(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        return np.array([operation_of(spec) in self._known for spec in specs], dtype=np.bool_)


def require_operations(space: Space, model: LatencyModel) -> None:
    """Refuse a table without rows of an operation that every design of a space has.

    Args:
        space: where a design is sought.
        model: the table.

    Raises:
        NotCoveredError: naming the operations.
    """
    if not isinstance(model, TableModel):
        return
    random = np.random.default_rng(0)
    drawn = [sampling.random_architecture(space, random) for _ in range(SAMPLES)]
    shared = set.intersection(*({operation_of(node.spec) for node in expand(each)} for each in drawn))
    missing = sorted(shared - {operation_of(row.spec) for row in model.table.rows if row.samples_us})
    if missing:
        raise NotCoveredError(
            f"the table has no rows of {', '.join(missing)}, which every design of this space needs",
            where=model.name,
            hint="--allow-uncovered counts them as nothing and lists them",
        )


def notes(architecture: Architecture | None, models: Mapping[str, LatencyModel]) -> tuple[str, ...]:
    """Return what a reader must know of the tables that a design's latency rests on.

    Args:
        architecture: the design, or None.
        models: its tables by name.
    """
    specs = [] if architecture is None else [node.spec for node in expand(architecture)]
    said = []
    for name, model in models.items():
        left_out = model.left_out(specs) if isinstance(model, LenientModel) else Counter[str]()
        if left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
            said.append(f"layers that {name} has no rows of count as 0 ms: {kinds}")
        if model.margin is None:
            said.append(f"{name} has no calibration networks: its predictions are sums of layers without a margin")
    return tuple(said)
