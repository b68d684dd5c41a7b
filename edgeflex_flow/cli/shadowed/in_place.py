"""An edited flow as the file that runs, and where it meets the process of that one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeflex_flow.cli.places import find_site
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import Plan, load_flow, load_flows
from edgeflex_flow.registry import Registry


class Running(NamedTuple):
    """The flow file that runs, and how it is loaded."""

    file: Path
    site: Path | None
    params: Mapping[str, str]

    @classmethod
    def of(cls, file: Path, site: str | None, definitions: Sequence[tuple[str, str]]) -> Running:
        return cls(file, find_site(site, file), dict(definitions))


def running_plan(registry: Registry, running: Running) -> Plan:
    """Raises FlowFileError."""
    return load_flow(
        running.file,
        registry,
        site=running.site,
        params=running.params,
        secrets="optional",
        connections="optional",
    )


def plan_in_its_place(registry: Registry, new: Path, running: Running, beside: Sequence[Path] = ()) -> Plan:
    """The plan that an edited file is as the one that runs: relative paths start there. `beside`: other files of the
    site, with which it has to go together.

    Raises FlowFileError with the places in the edited file, OSError.
    """
    content = new.read_bytes()
    with tempfile.NamedTemporaryFile(dir=running.file.absolute().parent, prefix=".", suffix=".edited") as file:
        file.write(content)
        file.flush()
        try:
            plan, *_ = load_flows(
                [Path(file.name), *beside],
                registry,
                site=running.site,
                params=running.params,
                secrets="optional",
                connections="optional",
            )
        except FlowFileError as error:
            raise FlowFileError(
                msgspec.structs.replace(each, file=str(new)) if each.file == file.name else each
                for each in error.problems
            ) from error
    return replace(plan, file=running.file)


@contextmanager
def meeting_folder(plan: Plan) -> Iterator[Path]:
    """A folder to which the running flow's process writes, and which is gone afterwards. Raises OSError.

    In the folder of its states, if it keeps any: a service may have a /tmp of its own, and write nowhere else.
    """
    states = plan.state_folder
    there = states is not None and states.is_dir() and os.access(states, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="edgeflex-shadow-", dir=states if there else None) as made:
        folder = Path(made).absolute()
        if states is not None and there:
            owner = states.stat()
            if owner.st_uid != os.geteuid():
                os.chown(folder, owner.st_uid, owner.st_gid)
        yield folder
