"""`convert`: gives columns in another unit of the same dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from msgspec import Meta

from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, WireMessage, at_once, samples_wire
from edgeflex_flow.units import conversion_factor


class ConvertConfig(NodeConfig, frozen=True, kw_only=True):
    """Replaces columns by columns in another unit of the same dimension; the names state the units.

    `columns: {angle_deg: angle_rad}` takes `angle_deg` away and gives `angle_rad`. All other columns pass as they are.

    Input:
        Samples with the columns to convert.
    Output:
        The same rows with the new columns. Flags of quality pass on unchanged: a conversion estimates nothing.
    Errors:
        Units of different dimensions and a new column that the samples already have are errors of the check. Where
        only the stream itself tells its columns, such samples are dropped and counted as `column_taken`.
    Source:
        Factors of the SI.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = ConvertConfig(columns={"power_kw": "power_mw"})
    >>> [out] = step(config, None, samples_from_rows([(0, "G1", {"power_kw": 250.0, "frequency_hz": 50.0})]))
    >>> {name: values.tolist() for name, values in out.columns.items()}
    {'frequency_hz': [50.0], 'power_mw': [0.25]}
    """

    columns: Annotated[
        dict[str, str], Meta(min_length=1, description="By column to convert, the column that takes its place.")
    ]

    def refusals(self) -> Iterator[FieldError]:
        first: dict[str, str] = {}
        for source, target in self.columns.items():
            at = f"columns.{source}"
            try:
                conversion_factor(source, target)
            except ValueError as error:
                yield FieldError(str(error), at)
            if source == target:
                yield FieldError(f"column '{source}' is converted into itself", at)
            if target in first:
                text = f"column '{target}' would take the place of more than one column"
                yield FieldError(text, at, f"columns.{first[target]}")
            first.setdefault(target, source)


def _kept(config: ConvertConfig, columns: Mapping[str, object]) -> list[str]:
    """Columns that pass as they are. Raises ValueError when a new column is among them."""
    kept = [name for name in columns if name not in config.columns]
    for source, target in config.columns.items():
        if target in kept:
            raise FieldError(f"column '{target}' is already among the columns", f"columns.{source}", known=columns)
    return kept


def start(_config: ConvertConfig) -> None:
    """Nothing is remembered from one batch to the next."""


def step(config: ConvertConfig, _state: None, samples: Samples) -> list[WireMessage]:
    try:
        columns = {name: samples.columns[name] for name in _kept(config, samples.columns)}
    except ValueError as error:
        raise BadMessageError(str(error), reason="column_taken") from error
    for source, target in config.columns.items():
        columns[target] = samples.columns[source] * conversion_factor(source, target)
    return [samples.with_columns(columns)]


def _needs(config: ConvertConfig) -> tuple[str, ...]:
    return tuple(config.columns)


def _output(config: ConvertConfig, inputs: Mapping[str, Wire]) -> Wire:
    [wire] = inputs.values()
    kept = _kept(config, dict.fromkeys(sorted(wire.columns)))
    return samples_wire(*kept, *config.columns.values(), more_columns=wire.more_columns)


NODE = OperatorNode(
    kind="convert",
    config=ConvertConfig,
    inputs={"in": Input(accepts=(Samples,), needs=_needs, step=step)},
    output=_output,
    start=start,
    delays=at_once,
)
