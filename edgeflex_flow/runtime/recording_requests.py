"""How a running flow is asked to record: by a file beside its flow file, which whoever asks keeps fresh.

So whoever may change a flow may record it, and nobody else; a request whose writer was killed ends by itself.
"""

from __future__ import annotations

import glob
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.recording import Keep
from edgeflex_flow.runtime.every import every
from edgeflex_flow.runtime.recorder import Recorder
from edgeflex_flow.runtime.run import FlowRun

LOOK_S: Final = 1.0
FRESH_S: Final = 2.0
"""How often a request is refreshed."""
STALE_S: Final = 10.0
LEFT_S: Final = 60.0
"""What is so old is taken away."""


class RecordingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be recorded."""

    site: str
    folder: str
    """Absolute: the flow's process writes there."""
    nodes: tuple[str, ...] = ()
    """Whose wires; none: all."""
    part_bytes: Annotated[int, Meta(ge=4096)]
    total_bytes: int | None = None
    at_once: bool = False
    """Whether there is to be a file though nothing crosses the wires: whoever asks then sees which version runs."""


def _pattern(flow_file: Path) -> str:
    return f".{glob.escape(flow_file.name)}.record-*"


@contextmanager
def asked_to_record(plan: Plan, request: RecordingRequest) -> Iterator[None]:
    """Have whoever runs this flow record it while the block runs. Raises OSError."""
    name = f".{plan.file.name}.record-{socket.gethostname()}-{os.getpid()}"
    file = plan.file.absolute().with_name(name)
    new = file.with_name(f"{name}.new")
    new.write_bytes(msgspec.json.encode(request))
    new.replace(file)
    try:
        with every(FRESH_S, lambda: os.utime(file), "record request"):
            yield
    finally:
        file.unlink(missing_ok=True)


class RecordingsOnRequest:
    """Looks for requests, and begins and ends recordings."""

    def __init__(self, run: FlowRun) -> None:
        self._run = run
        self._file = run.plan.file.absolute()
        self._running: dict[Path, Recorder] = {}
        self._refused: set[Path] = set()
        self._strangers: set[Path] = set()

    def look(self) -> None:
        there = set(self._fresh())
        for file in self._running.keys() - there:
            self._end(file)
        for file in there - self._running.keys() - self._refused:
            self._begin(file)
        self._refused &= there

    def _fresh(self) -> Iterator[Path]:
        for file in self._file.parent.glob(_pattern(self._file)):
            try:
                told = file.stat()
                whose = self._file if self._file.exists() else self._file.parent
                owners = {whose.stat().st_uid, os.geteuid(), 0}
            except OSError:
                continue
            if told.st_uid not in owners:
                self._refuse_stranger(file)
                continue
            age_s = time.time() - told.st_mtime
            if abs(age_s) < STALE_S and file.suffix != ".new":  # by a clock that was set back it may be of the future
                yield file
            elif age_s > LEFT_S:
                file.unlink(missing_ok=True)  # whoever wrote it was killed

    def _refuse_stranger(self, file: Path) -> None:
        """In a folder for everybody, others than the flow's owner may leave files."""
        if file not in self._strangers:
            self._strangers.add(file)
            self._run.log.warning("%s is not of who owns the flow file: nothing is recorded for it", file.name)

    def _begin(self, file: Path) -> None:
        plan, log = self._run.plan, self._run.log
        try:
            request = msgspec.json.decode(file.read_bytes(), type=RecordingRequest)
            if request.site != plan.site:
                self._refused.add(file)
                return
            keep = Keep(request.part_bytes, request.total_bytes)
            folder = Path(request.folder)
            folder.mkdir(parents=True, exist_ok=True)
            recorder = Recorder(self._run, folder, recording_name(plan), nodes=request.nodes, keep=keep)
            if request.at_once:
                recorder.begin()
            self._running[file] = recorder.__enter__()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self._refused.add(file)
            log.warning("cannot record as %s asks: %s", file.name, error)
            return
        log.info("recording %s to %s", ", ".join(recorder.nodes), folder)

    def _end(self, file: Path) -> None:
        recorder = self._running.pop(file)
        try:
            recorder.__exit__(None, None, None)
        except OSError as error:
            self._run.log.warning("recording: %s: the end of it may be missing", error)
        told = f"{recorder.rows} rows and {recorder.messages} messages, {recorder.bytes_written} bytes"
        lost = f"; {recorder.lost_rows} rows are lost" if recorder.lost_rows else ""
        self._run.log.info("recorded %s%s", told, lost)

    def end_all(self) -> None:
        for file in list(self._running):
            self._end(file)


def recording_name(plan: Plan) -> str:
    """What the files of a recording that begins now are called."""
    now_ns = time.time_ns()
    begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ns // 1_000_000_000))
    return f"{plan.name}-{begun}.{now_ns // 1_000_000 % 1000:03d}Z-{os.getpid()}"


@contextmanager
def recordings_on_request(run: FlowRun) -> Iterator[None]:
    """Record a run as long as somebody asks for it."""
    recordings = RecordingsOnRequest(run)
    try:
        with every(LOOK_S, recordings.look, "recordings"):
            yield
    finally:
        recordings.end_all()


def nodes_by_flow(known: Mapping[str, Collection[str]], wires: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By flow, the nodes that `NODE` (of all flows that have it) and `FLOW/NODE` mean; without any, none of each flow.

    `known`: by flow, the nodes whose wires can be recorded. Raises ValueError for what is not there.
    """
    found: dict[str, tuple[str, ...]] = {} if wires else dict.fromkeys(known, ())
    for text in wires:
        flow, slash, node = text.rpartition("/")
        if slash and flow not in known:
            close = nearest(flow, known)
            hint = f"; did you mean '{close}'?" if close else ""
            raise ValueError(f"no flow '{flow}'; known: {', '.join(known)}{hint}")
        having = [name for name, nodes in known.items() if node in nodes and flow in ("", name)]
        if not having:
            where = [flow] if slash else list(known)
            there = ", ".join(dict.fromkeys(each for name in where for each in known[name]))
            whose = f"flow '{where[0]}' has no" if len(where) == 1 else "no flow has a"
            raise ValueError(f"{whose} wire of '{node}'; known: {there}")
        for name in having:
            found[name] = (*found.get(name, ()), node)
    return found
