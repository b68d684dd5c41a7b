"""The units of a recorded file: what the file tells of them, and what a units file says instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from edgeflex_connectors.recording_table import UnitFacts
from edgeflex_operators._units import GeneratingUnit, Governor, UnitTable


def unit_table(facts: Mapping[str, UnitFacts], given: Mapping[str, GeneratingUnit]) -> tuple[UnitTable, dict[str, str]]:
    """Data of all units that are known and count in the sum, and those whose data cannot be right, with the reason.

    What is given goes before what a file tells.

    Impedances are converted from the file's base to the machine's own.
    """
    unusable: dict[str, str] = {}
    table: UnitTable = {}
    for device, fact in facts.items():
        if device in given or not fact.monitored:
            continue
        try:
            table[device] = _unit(fact)
        except msgspec.ValidationError as error:
            unusable[device] = str(error)
    return {**table, **given}, unusable


def _unit(facts: UnitFacts) -> GeneratingUnit:
    fields = {
        "rated_power": facts.rated_power_mva,
        "rated_voltage": facts.rated_voltage_kv,
        "governor": msgspec.to_builtins(Governor()) if facts.has_governor else None,
        **dict(_impedances(facts)),
    }
    # Converted, not called: only so the bounds of the fields are checked.
    return msgspec.convert(fields, GeneratingUnit)


def _impedances(facts: UnitFacts) -> Iterator[tuple[str, float]]:
    ratio = facts.rated_power_mva / facts.base_power_mva
    for name in ("transient_reactance_pu", "subtransient_reactance_pu", "armature_resistance_pu"):
        value = getattr(facts, name)
        if value is not None:
            yield name, value * ratio
