"""Records of nights that were simulated, and previews of policies on them, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from edgeflex_connectors.records import encode_lines, write_npz
from edgeflex_flow.cli.closed_loop import flow_in_loop
from edgeflex_flow.cli.kinds import SHIPPED, shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.cli.policy import policy
from edgeflex_flow.flowfile import Plan, load_flow
from edgeflex_flow.messages import Message, Samples, encode_message, join_samples
from edgeflex_flow.node import AnyNode
from edgeflex_flow.registry import Registry
from edgeflex_services.frequency_model import FrequencyGrid, LoadStep, close_loop, single_area
from edgeflex_services.powerflow_grid import make_grid
from edgeflex_services.powerflow_loop import batches_of
from edgeflex_services.powerflow_plant import Plant
from edgeflex_services.profiles import make_profiles

FLOWS = shipped_flows()
SWING = Path(__file__).parent / "data" / "ieee39_load_step.npz"
"""15 s of 10 PMUs; a load step at 3 s, which each of them sees."""
NIGHT_NS = 1_780_000_000_000_000_000


def shipped_plan(name: str, **params: object) -> Plan:
    return load_flow(
        FLOWS / f"{name}.yaml",
        shipped_registry(),
        site=FLOWS / "sites" / "local.yaml",
        params={key: str(value) for key, value in params.items()},
    )


def preview(
    policy_file: Path,
    flow: str | Path,
    records: Sequence[object],
    *options: object,
    more_kinds: Sequence[AnyNode] = (),
) -> Result:
    """Run the command. A shipped flow goes by its name, with the shipped site."""
    file = FLOWS / f"{flow}.yaml" if isinstance(flow, str) else flow
    site = ["--site", str(FLOWS / "sites" / "local.yaml")] if isinstance(flow, str) else []
    given = [text for record in records for text in ("--record", str(record))]
    arguments = ["preview", str(policy_file), "--flow", str(file), *site, *given, *map(str, options)]
    result = CliRunner().invoke(policy, arguments, obj=Registry([*SHIPPED, *more_kinds]))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def preview_json(policy_file: Path, flow: str | Path, records: Sequence[object], *options: object) -> dict[str, Any]:
    result = preview(policy_file, flow, records, "--json", *options)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def policies(folder: Path, name: str = "proposed.yaml", **values: dict[str, object]) -> Path:
    """A file of policies."""
    file = folder / name
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


def npz(file: Path, batches: Iterable[Samples]) -> Path:
    with file.open("wb") as opened:
        write_npz(opened, join_samples(list(batches)))
    return file


def lines(file: Path, items: Iterable[Samples | Message]) -> Path:
    """A recording as `file_write` makes it."""
    parts = [encode_lines(each) if isinstance(each, Samples) else encode_message(each) + b"\n" for each in items]
    file.write_bytes(b"".join(parts))
    return file


def frequency_night(seconds: float = 20.0, steps_w: Mapping[float, float] = {5.0: 50e6}) -> list[Samples]:
    """What the PMU of an area and of its plant saw while the shipped flow held the frequency after steps of the load,
    given by their time in s."""
    grid = FrequencyGrid(
        single_area(), [LoadStep(at_s=at_s, area="north", power_w=power_w) for at_s, power_w in steps_w.items()]
    )
    seen: list[Samples] = []
    with flow_in_loop(shipped_plan("frequency_control")) as loop:

        def react(samples: Samples | None, now_ns: int) -> list[Any]:
            seen.extend([samples] if samples is not None else [])
            return loop.react(samples, now_ns)

        close_loop(grid, react, seconds)
    return seen


def voltage_noon(steps: int = 12) -> list[Samples]:
    """What a feeder published around noon, every 30 s, without control: its inverters lift the voltage."""
    grid = make_grid("kerber")
    plant = Plant(grid, make_profiles(grid, "clear"))
    return [
        batch
        for step in range(steps)
        for batch in batches_of(grid, plant.step(43_200.0 + 30.0 * step), NIGHT_NS + step * 30_000_000_000)
        if batch is not None
    ]


def events_of(found: dict[str, Any], node: str, type_: str) -> dict[str, Any]:
    """What was found of one type of messages of a node."""
    [one] = [each for each in found["comparison"]["messages"] if (each["node"], each["type"]) == (node, type_)]
    return dict(one)


def rising(rows: int, *, device: str = "G1", start_ns: int = NIGHT_NS, step_ms: int = 20) -> Samples:
    """Rows with the row's number as frequency."""
    return Samples(
        time_ns=start_ns + np.arange(rows, dtype=np.int64) * step_ms * 1_000_000,
        device=np.zeros(rows, dtype=np.int32),
        devices=(device,),
        columns={"frequency_hz": np.arange(rows, dtype=np.float64)},
        quality=np.zeros(rows, dtype=np.uint16),
        received_ns=0,
    )
