"""What can be limited: the one list of it. Layer 2.

A limit that is a sum over layers is its entry here and nothing else: command line, run files, sweeps, solvers, prices,
reports and certificates read this list. One that is no such sum also says in `deepmad_hw.optimize.quantities` how the
solvers see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from deepmad_hw import units
from deepmad_hw.errors import ConfigError, known_names
from deepmad_hw.network import costs
from deepmad_hw.network.architecture import Architecture
from deepmad_hw.network.families.base import LayerForm, Number
from deepmad_hw.problem.problem import latency_name, table_of
from deepmad_hw.problem.solution import Evaluation

Share = Callable[[LayerForm], Number]


class Parse(Protocol):
    """Reads a value that a person typed, as the functions of `deepmad_hw.units` do."""

    def __call__(self, text: str, /, *, where: str) -> float:
        """Return the value; `where` names the option for messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A quantity of a network that can be limited.

    Args:
        name: as limits, prices and answers call it.
        label: what tables and plots call it.
        title: the same where the unit stands beside it.
        unit: of its values.
        price: text and size of the step that prices are given for: ``("M", 1e6)`` is what a million more would buy.
        parse: reads what a person typed.
        format: writes a value for people.
        exact: writes a value so that `parse` reads the same one, as the values between the ends of a range are written.
        layer: what one layer adds to it, or None where it is no sum over layers.
        measure: works it out for a network, where it is no such sum and evaluations have no field of it.
        field: reads it off an evaluated design; None where evaluations have it only if it was limited.
        help: of its option.
        example: of a value, for help and messages.
        examples: of a range, likewise.
        budget: whether larger values of a sweep belong to one line; where not, each makes a line of its own.
    """

    name: str
    label: str
    title: str
    unit: str
    price: tuple[str, float]
    parse: Parse
    format: Callable[[float], str]
    exact: Callable[[float], str]
    layer: Share | None = None
    measure: Callable[[Architecture], float] | None = None
    field: Callable[[Evaluation], float] | None = None
    help: str
    example: str
    examples: str
    budget: bool = True

    def of_network(self, architecture: Architecture) -> float:
        """Return the quantity of a network, worked out anew.

        Args:
            architecture: the network.

        Raises:
            ConfigError: evaluations have a field of it, or it needs a device.
        """
        if self.layer is not None:
            return float(costs.total(architecture, self.layer))
        if self.measure is None:
            raise ConfigError("is worked out elsewhere", where=self.name)
        return self.measure(architecture)

    def value(self, evaluation: Evaluation) -> float:
        """Return the quantity of an evaluated design.

        Args:
            evaluation: of the design.

        Raises:
            LookupError: it has none, because nobody asked.
        """
        return evaluation.other(self.name) if self.field is None else self.field(evaluation)

    @property
    def option(self) -> str:
        """Return its option on the command line."""
        return f"--{self.name.replace('_', '-')}"


QUANTITIES: dict[str, Quantity] = {}
"""By name, in the order in which people read them."""


def register(quantity: Quantity) -> Quantity:
    """Make a quantity known, so that it can be limited.

    Args:
        quantity: with a name that no other has.

    Raises:
        ConfigError: the name is taken.
    """
    if quantity.name in QUANTITIES or table_of(quantity.name) is not None:
        raise ConfigError("a quantity of this name is known", where=quantity.name)
    QUANTITIES[quantity.name] = quantity
    return quantity


register(
    Quantity(
        name="macs",
        label="MACs",
        title="MACs",
        unit="MACs",
        price=("M", 1e6),
        parse=units.parse_count,
        format=units.format_count,
        exact=units.format_count,
        field=lambda evaluation: evaluation.macs,
        layer=costs.layer_macs,
        help="Most multiply-adds",
        example="1.8G",
        examples="0.5G:2G:5",
    )
)
register(
    Quantity(
        name="params",
        label="parameters",
        title="parameters",
        unit="params",
        price=("M", 1e6),
        parse=units.parse_count,
        format=units.format_count,
        exact=units.format_count,
        field=lambda evaluation: evaluation.params,
        layer=costs.layer_params,
        help="Most parameters",
        example="11.7M",
        examples="5M:20M:4",
    )
)
register(
    Quantity(
        name="memory",
        label="activation memory",
        title="memory",
        unit="bytes",
        price=("MiB", 1024.0**2),
        parse=units.parse_bytes,
        format=units.format_bytes,
        exact="{:.0f}B".format,
        field=lambda evaluation: evaluation.memory_bytes,
        help="Most activation memory",
        example="8MiB",
        examples="4MiB:8MiB:3",
    )
)
register(
    Quantity(
        name="rho",
        label="largest rho",
        title="rho",
        unit="1",
        price=("0.01", 0.01),
        parse=units.parse_number,
        format="{:.4g}".format,
        exact="{:g}".format,
        field=lambda evaluation: evaluation.max_rho,
        help="Largest effectiveness at any scale",
        example="0.3",
        examples="0.1:1.0:10",
        budget=False,
    )
)

for _precision in ("fp32", "fp16", "int8"):
    register(
        Quantity(
            name="weights_size" if _precision == "fp32" else f"weights_size_{_precision}",
            label=f"weights in {_precision}",
            title=f"weights in {_precision}",
            unit="bytes",
            price=("MiB", 1024.0**2),
            parse=units.parse_bytes,
            format=units.format_bytes,
            exact="{:.0f}B".format,
            layer=partial(costs.layer_weight_bytes, precision=_precision),
            help=f"Most bytes of the weights as exported in {_precision}",
            example="4MiB",
            examples="1MiB:4MiB:4",
        )
    )

register(
    Quantity(
        name="stage_share",
        label="largest share of blocks in a stage",
        title="share of blocks in a stage",
        unit="1",
        price=("1 %", 0.01),
        parse=units.parse_percent,
        format=units.format_percent,
        exact=lambda value: f"{100 * value:g}%",
        measure=costs.stage_share,
        help="Largest share of all blocks that one stage may have",
        example="40%",
        examples="30%:60%:4",
    )
)


def quantity(name: str) -> Quantity:
    """Return the quantity that a limit or a price is about.

    Args:
        name: of a limit; what stands behind a colon (the table, the scale) says which one of several.

    Raises:
        ConfigError: nobody knows it.

    Example:
        >>> quantity("macs").format(1.8e9), quantity("latency:board").unit, quantity("rho:scale3").name
        ('1.8G', 'ms', 'rho')
    """
    table = table_of(name)
    if table is not None:
        return _latency(table)
    known = name if name in QUANTITIES else name.partition(":")[0]
    if known not in QUANTITIES:
        raise ConfigError(f"unknown limit {name!r}", where="limits", hint=known_names(name, list(QUANTITIES)))
    return QUANTITIES[known]


def _latency(table: str) -> Quantity:
    return Quantity(
        name=latency_name(table),
        label=f"latency {table}",
        title=f"latency, {table}",
        unit="ms",
        price=("ms", 1.0),
        parse=units.parse_time_ms,
        format=units.format_time_ms,
        exact="{:g}ms".format,
        field=partial(_latency_ms, table),
        help="Largest latency",
        example="25ms",
        examples="5ms:50ms:10",
    )


def _latency_ms(table: str, evaluation: Evaluation) -> float:
    """Return what a budget is held against: the upper value, without a calibration the prediction."""
    for value in evaluation.latency:
        if value.table == table:
            return value.predicted_ms if value.upper_ms is None else value.upper_ms
    raise LookupError(table)


def of_design(evaluation: Evaluation) -> dict[str, Quantity]:
    """Return the quantities that an evaluated design has a value of, latencies aside, by name.

    Args:
        evaluation: of the design.
    """
    asked = {amount.limit for amount in evaluation.others}
    return {name: known for name, known in QUANTITIES.items() if known.field is not None or name in asked}


def formatted(name: str, value: float) -> str:
    """Return the value of a limit as people write it.

    Args:
        name: of the limit; one that nobody knows is a number.
        value: in its unit.
    """
    try:
        return quantity(name).format(value)
    except ConfigError:
        return f"{value:.4g}"
