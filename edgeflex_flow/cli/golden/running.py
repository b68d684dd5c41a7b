"""Runs one golden test."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from edgeflex_connectors.recording_table import RecordingError
from edgeflex_flow.cli.golden.case_file import Fault, GoldenTest, read_test
from edgeflex_flow.cli.golden.judge import Collected, Difference, Verdict, judge
from edgeflex_flow.cli.golden.names import check_moments, check_names
from edgeflex_flow.cli.golden.stream import InputError, inputs_of, with_faults
from edgeflex_flow.cli.on_record import Due, plan_on_stream
from edgeflex_flow.cli.preview_records import NoRecordError
from edgeflex_flow.clock import Clock, RecordedClock
from edgeflex_flow.errors import FatalError, FlowFileError
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.messages import DeadLetter, Samples, validity_s
from edgeflex_flow.node import Context, NodeConfig, SinkNode, WireMessage
from edgeflex_flow.recording import BadRecordingError
from edgeflex_flow.registry import Registry
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.letters import Letters, Refused
from edgeflex_flow.runtime.policies import apply_policies
from edgeflex_flow.runtime.recorder import Recorder
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.units import NS_PER_S

SILENT: Final = logging.CRITICAL + 1
POLICY_REFUSED: Final = "policy_refused"


class GoldenResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a test."""

    file: str
    name: str
    flow: str = ""
    verdicts: tuple[Verdict, ...] = ()
    took_s: float = 0.0
    error: str = ""
    """Why it could not be run; empty if it was."""

    @property
    def good(self) -> bool:
        return not self.error and all(each.good for each in self.verdicts)


def run_test(file: Path, registry: Registry, *, update: bool = False, record: Path | None = None) -> GoldenResult:
    """Run the test in a file; whatever is wrong is in the result. `record`: a folder for a recording of all wires."""
    began_s = time.monotonic()
    name = file.stem
    try:
        test = read_test(file)
        name = test.test
        verdicts = _Run(test, file, registry, update=update, record=record).verdicts()
    except FlowFileError as error:
        return GoldenResult(file=str(file), name=name, error="\n".join(str(each) for each in error.problems))
    except (InputError, NoRecordError, RecordingError, BadRecordingError, FatalError, OSError, ValueError) as error:
        return GoldenResult(file=str(file), name=name, error=str(error))
    return GoldenResult(
        file=str(file), name=name, flow=test.flow, verdicts=tuple(verdicts), took_s=time.monotonic() - began_s
    )


class _Run:
    def __init__(self, test: GoldenTest, file: Path, registry: Registry, *, update: bool, record: Path | None) -> None:
        folder = file.parent
        self._test = test
        self._file = file
        self._folder = folder
        self._record = record
        self._update = update
        self._plan = load_flow(
            folder / test.flow,
            registry,
            site=None if test.site is None else folder / test.site,
            params={name: _text(value) for name, value in test.params.items()},
            secrets="optional",
            connections="optional",
        )
        self._collected: dict[str, list[Collected]] = {each.of: [] for each in test.expect}
        check_names(test, self._plan)
        self._refused: dict[tuple[str, str], str] = {}
        """What a node said to a value of a policy, by node and setting."""

    def verdicts(self) -> list[Verdict]:
        test = self._test
        inputs = inputs_of(test, self._plan, self._folder)
        if not inputs:
            raise InputError("the sources of the test give nothing")
        begin_ns = min(_begin_ns(due) for due in inputs)
        check_moments(test, inputs, begin_ns)
        policies = sorted(test.policies, key=lambda each: each.at_s)
        moments = [begin_ns + round(each.at_s * NS_PER_S) for each in policies]
        stream = with_faults(inputs, test.faults, begin_ns, moments)
        waiting = list(zip(moments, policies, strict=True))

        def on_time(time_ns: int) -> None:
            while waiting and waiting[0][0] <= time_ns:
                apply_policies(run, waiting.pop(0)[1].values, written=True)
                self._refused |= _refusals(run)

        lost = _Lost()
        plan = plan_on_stream(self._plan, iter(stream), on_time=on_time, sink=self._sink(begin_ns))
        run = FlowRun(plan, clock=RecordedClock(begin_ns - 1))
        run.people.letters = lost
        run.log.setLevel(SILENT)
        on_time(begin_ns)
        for node in plan.nodes:
            if node.id in self._collected and not isinstance(node.node, SinkNode):
                run.taps[node.id] = _tap(run.clock, self._collected[node.id])
        with ExitStack() as stack:
            if self._record is not None:
                stack.enter_context(
                    Recorder(run, self._record, self._file.stem, at_once=True, revision=digest_of(self._plan))
                )
            run_inline(run)
        found = [
            judge(each, self._collected[each.of], begin_ns, self._folder, update=self._update) for each in test.expect
        ]
        return [*found, *self._policies_taken(), self._nothing_lost(run, lost)]

    def _sink(self, begin_ns: int) -> Callable[[NodeConfig, Context], Any]:
        def opened(_config: NodeConfig, context: Context) -> _Sink:
            away = [fault for fault in self._test.faults if fault.what == "away" and fault.of == context.node]
            return _Sink(context, self._collected.get(context.node, []), away, begin_ns)

        return opened

    def _policies_taken(self) -> list[Verdict]:
        found = [
            Difference(place=f"{node}.{setting}", expected="what `policies` says", got=text)
            for (node, setting), text in self._refused.items()
            if POLICY_REFUSED not in self._test.allow.get(node, ())
        ]
        told = f"{len(self._refused)} refused"
        return [Verdict(text="policies are taken", good=False, got=told, differences=tuple(found))] if found else []

    def _nothing_lost(self, run: FlowRun, lost: _Lost) -> Verdict:
        counts = dict(lost.counts)
        for node in run.plan.nodes:
            for name in ("lost", "expired"):
                if count := run.counters[node.id].get(name):
                    counts[node.id, name] = count
        found = [
            Difference(place=f"{node}: {reason}", expected="0", got=str(count))
            for (node, reason), count in sorted(counts.items())
            if reason not in self._test.allow.get(node, ())
        ]
        return Verdict(
            text="nothing is lost", good=not found, got=f"{sum(counts.values())} lost", differences=tuple(found)
        )


def _refusals(run: FlowRun) -> dict[tuple[str, str], str]:
    return {(holder, name): each.text for holder, told in run.refusals.items() for name, each in told.items()}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _begin_ns(due: Due) -> int:
    message = due.given()
    return int(message.time_ns.min()) if isinstance(message, Samples) and message.rows else due.due_ns


def _tap(clock: Clock, collected: list[Collected]) -> Callable[[WireMessage], None]:
    def tap(message: WireMessage) -> None:
        collected.append(Collected(clock.now_ns(), message))

    return tap


class _Lost(Letters):
    """Counts dead letters, each by the node and the reason."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[tuple[str, str], int] = {}

    def add(self, letter: DeadLetter, payload: bytes, refused: Refused | None, *, decodes: bool) -> None:
        del payload, refused, decodes
        key = letter.node, letter.reason
        self.counts[key] = self.counts.get(key, 0) + letter.count


class _Sink:
    """A sink that keeps what it gets. While its far side is away it holds it, and brings it out in the moment in which
    that is back: what is not valid any more then is `expired`, as in `mqtt_publish`; what is still held at the end is
    `lost`."""

    def __init__(self, context: Context, collected: list[Collected], away: Sequence[Fault], begin_ns: int) -> None:
        self._context = context
        self._collected = collected
        self._away = [
            (begin_ns + round(each.at_s * NS_PER_S), begin_ns + round((each.at_s + each.lasts_s) * NS_PER_S))
            for each in away
        ]
        self._held: list[WireMessage] = []
        self._back_ns = 0
        """When what is held goes out."""

    def open(self) -> None:
        return None

    def write(self, messages: Sequence[WireMessage]) -> None:
        now_ns = self._context.clock.now_ns()
        self._bring_out(now_ns)
        for first_ns, last_ns in self._away:
            if first_ns <= now_ns < last_ns:
                self._held += messages
                self._back_ns = last_ns
                return
        self._collected += [Collected(now_ns, message) for message in messages]

    def _bring_out(self, now_ns: int) -> None:
        if now_ns < self._back_ns:
            return
        held, self._held = self._held, []
        for message in held:
            if validity_s(message, self._back_ns, None) <= 0.0:
                self._context.counters.add("expired")
            else:
                self._collected.append(Collected(self._back_ns, message))

    def flush(self, timeout_s: float) -> bool:
        del timeout_s
        return True

    def close(self) -> None:
        self._bring_out(self._context.clock.now_ns())
        if self._held:
            self._context.counters.add("lost", len(self._held))
