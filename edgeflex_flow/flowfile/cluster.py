"""A cluster file: the processes over which one flow runs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from edgeflex_flow.errors import FieldError, FlowFileError
from edgeflex_flow.flowfile.decode import ConfigDecoder
from edgeflex_flow.flowfile.document import read_document
from edgeflex_flow.flowfile.fields import secret_keys
from edgeflex_flow.flowfile.interpolate import Interpolator, Sources
from edgeflex_flow.flowfile.report import FileReport, Report, got
from edgeflex_flow.node import NodeConfig, quantity

PROCESS_VARIABLE = "EDGEFLEX_PROCESS"
MOST_WORKERS = 64
_ORDINAL = re.compile(r".*-(?P<ordinal>\d+)")
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):(?P<port>\d{1,5})")


class Address(NamedTuple):
    """Where a process listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(text: str) -> Address | None:
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        return None
    return Address(found["host"].strip("[]"), int(found["port"]))


def _is_of_this_host(text: str) -> bool:
    host = text.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


class ClusterConfig(NodeConfig, frozen=True, kw_only=True):
    """The processes of a cluster. Process 0 has the sources, the sinks and the state; all share the devices."""

    processes: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(
            min_length=2,
            max_length=32,
            description="Of each process, 0 first, `host:port`: what it listens on, and the others reach it by.",
        ),
    ]
    workers: Annotated[int, Meta(ge=1, le=16, description="Workers (threads) of each process.")] = 1
    shards: Annotated[
        Annotated[int, Meta(ge=2, le=1024)] | None,
        Meta(
            description="Into how many parts devices are shared out; one for each worker unless given. A state fits "
            "only the same number, so give it if the number of processes may change.",
        ),
    ] = None
    control_port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(description="Port of process 0 on which the others report to it; the one after its own unless given."),
    ] = None
    secret: Annotated[
        str,
        Meta(
            description="What each process proves that it knows before it is let in; as `${file:PATH}`. Needed unless "
            "all processes are on one host, at its loopback addresses.",
            extra={"secret": True},
        ),
    ] = ""
    wait: Annotated[
        Annotated[float, Meta(ge=1, le=3600)], quantity("s", "How long processes wait for each other at the start.")
    ] = 120.0
    silence: Annotated[
        Annotated[float, Meta(ge=1, le=300)],
        quantity("s", "After how much silence a process counts as gone, and the cluster ends."),
    ] = 5.0

    def refusals(self) -> Iterable[FieldError]:
        for index, text in enumerate(self.processes):
            if _address(text) is None:
                yield FieldError("a process is `host:port`", f"processes[{index}]", got=f"'{text}'")
            elif text in self.processes[:index]:
                first = self.processes.index(text)
                yield FieldError(f"'{text}' is process {first} already", f"processes[{index}]")
        if not self.secret and not all(map(_is_of_this_host, self.processes)):
            text = "processes of several hosts need a secret, or a stranger could take part: `secret: ${file:PATH}`"
            yield FieldError(text, "secret", "processes")
        if self.total_workers > MOST_WORKERS:
            how = f"{len(self.processes)} processes of {self.workers} workers"
            yield FieldError(f"a cluster has at most {MOST_WORKERS} workers", "workers", "processes", got=how)
        if self.shards is not None and self.shards < self.total_workers:
            text = f"there are {self.total_workers} workers, and each needs a shard at least"
            yield FieldError(text, "shards", "workers", "processes", got=str(self.shards))
        addresses = [_address(each) for each in self.processes]
        if addresses[0] is not None and self.control in addresses:
            number, port = addresses.index(self.control), self.control.port
            text = f"process {number} has port {port}, on which process 0 hears the others: give `control_port`"
            yield FieldError(text, "control_port", f"processes[{number}]")

    @property
    def total_workers(self) -> int:
        return len(self.processes) * self.workers

    @property
    def total_shards(self) -> int:
        return self.shards or self.total_workers

    def address(self, process: int) -> Address:
        found = _address(self.processes[process])
        assert found is not None, "see refusals"
        return found

    @property
    def control(self) -> Address:
        """Where process 0 hears the others."""
        first = self.address(0)
        return Address(first.host, self.control_port or first.port + 1)

    @property
    def digest(self) -> str:
        """The same for processes that mean the same cluster. The secret is proved, and not compared."""
        told = (self.processes, self.workers, self.total_shards, self.control, self.silence)
        return hashlib.sha256(msgspec.msgpack.encode(told)).hexdigest()[:16]


def load_cluster(file: Path, environment: Mapping[str, str] | None = None) -> ClusterConfig:
    """The cluster of a file. `environment` is `os.environ` unless given.

    Raises FlowFileError with all that is wrong, each problem at the line and column of its own value.
    """
    keys = secret_keys([ClusterConfig])
    document = read_document(file, keys)
    report = Report([document], keys)
    here = FileReport(document.file, report, secrets_required=True)
    root = document.root
    config: NodeConfig | None = None
    if root is not None and root.mapping() is None:
        here.problem(root.place, "the file is a mapping with 'processes'", got=got(root))
    elif root is not None:
        outside = Sources((), os.environ if environment is None else environment, secret_keys=keys)
        settings = Interpolator(outside, here, file.parent.absolute()).entries(root, node=None, other_than=())
        decoded = ConfigDecoder(here, node=None).decode(ClusterConfig, settings, root.place)
        for key, each in decoded.missing:
            here.missing(each, f"'{key}'")
        config = decoded.config
    if report.problems or not isinstance(config, ClusterConfig):
        raise FlowFileError(report.problems)
    return config


def process_number(cluster: ClusterConfig, given: int | None, environment: Mapping[str, str], host_name: str) -> int:
    """Which process of the cluster this is: as given, as the environment says, or by the host's ordinal (`edge-2`).

    Raises ValueError when none tells, or the number is none of the cluster's.
    """
    last = len(cluster.processes) - 1
    told = environment.get(PROCESS_VARIABLE)
    ordinal = _ORDINAL.fullmatch(host_name)
    if given is not None:
        number, where = given, "--process"
    elif told is not None:
        if not told.isascii() or not told.isdecimal():
            raise ValueError(f"{PROCESS_VARIABLE} is the number of a process, 0 to {last}; got '{told}'")
        number, where = int(told), PROCESS_VARIABLE
    elif ordinal is not None:
        number, where = int(ordinal["ordinal"]), f"the host name '{host_name}'"
    else:
        raise ValueError(
            f"which of the processes 0 to {last} is this? Give --process, or {PROCESS_VARIABLE}; the host name "
            f"'{host_name}' does not end in '-' and a number"
        )
    if number > last:
        raise ValueError(f"{where} says process {number}; the cluster has the processes 0 to {last}")
    return number
