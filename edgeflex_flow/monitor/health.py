"""Whether a site is alive, and whether it is ready: all flows run and all that they need is connected."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgeflex_flow.gauges import CONNECTED, OPENED
from edgeflex_flow.monitor.status import WELL, FlowStatus, SiteStatus

HANGS_AFTER_S = 10.0
"""Without a turn."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to somebody who asks."""

    site: str
    ok: bool
    why: tuple[str, ...] = ()
    """What is not as it should be; empty if all is."""
    flows: dict[str, tuple[str, ...]] = {}
    """By flow, what is not as it should be."""


def liveness(known: SiteStatus) -> Health:
    """Whether the process itself is well. If not, only an end and a new start help."""
    if known.turn_age_s <= HANGS_AFTER_S:
        return Health(site=known.site, ok=True)
    return Health(site=known.site, ok=False, why=(f"the process stands still for {known.turn_age_s:.0f} s",))


def readiness(known: SiteStatus) -> Health:
    """Whether everything runs and is connected."""
    alive = liveness(known)
    flows = {flow.name: tuple(_lacks(flow)) for flow in known.flows}
    why = (*alive.why, *(f"flow '{name}': {'; '.join(lacks)}" for name, lacks in flows.items() if lacks))
    if not known.flows:
        why = (*why, "no flow runs")
    return Health(site=known.site, ok=not why, why=why, flows=flows)


def _lacks(flow: FlowStatus) -> Iterator[str]:
    vitals = flow.vitals
    if flow.word not in (WELL, "moving"):  # while a new version is prepared, the old one runs
        yield f"is {flow.word}{f': {flow.why}' if flow.why else ''}"
        return
    if vitals is None:
        yield "has told nothing yet"
        return
    if vitals.phase != "running":
        yield f"is {vitals.phase}"
    if vitals.turn_age_s > HANGS_AFTER_S:
        yield f"stands still for {vitals.turn_age_s:.0f} s"
    for node, told in vitals.gauges.items():
        if " " in node:  # no node of the flow: a flow goes on without its policy system
            continue
        if told.get(OPENED) == 0:
            yield f"source '{node}' is not open"
        elif told.get(CONNECTED) == 0:
            yield f"'{node}' is not connected"
