"""What a run shows to people who look: what flows on wires that they watch, its events, its dead letters, its policies.

Nothing is encoded in the thread that passes messages: there, a message is put into a bounded queue, of which the newest
stay. Where nobody watches a wire, that costs nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

import msgspec

from edgeflex_flow.messages import (
    EventWindow,
    Forecast,
    Message,
    Samples,
    encode_message,
    join_samples,
    message_time_ns,
)
from edgeflex_flow.node import WireMessage
from edgeflex_flow.policy import TextBinding
from edgeflex_flow.runtime.letters import LetterHead, Letters
from edgeflex_flow.runtime.policy_values import in_words
from edgeflex_flow.runtime.run import FlowRun

TELL_S = 0.2
MOST_SEEN = 50
"""Rows, or messages, of one wire that are told at once."""
MOST_EVENTS = 40
"""Events of a flow that are told at once: of more, the newest."""
LARGEST_MESSAGE_BYTES = 16 * 1024

T = TypeVar("T")


class SeenRows(msgspec.Struct, frozen=True, kw_only=True, tag="rows"):
    """Rows that a node gave, the newest of a short time, in order."""

    node: str
    time_s: list[float]
    """UTC seconds since 1970."""
    device: list[str]
    columns: dict[str, list[float | None]]
    quality: list[int]
    left_out: int
    """Rows of the same time that are not told."""


class SeenMessages(msgspec.Struct, frozen=True, kw_only=True, tag="messages"):
    """Messages that a node gave, as JSON."""

    node: str
    messages: list[msgspec.Raw]
    left_out: int


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """A message that stands on the time line."""

    node: str
    time_ns: int
    """UTC nanoseconds since 1970."""
    message: msgspec.Raw


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that is bound to a policy, as it is now."""

    node: str
    setting: str
    policy: str
    field: str
    value: str
    version: str
    """Of the policy; `default` where the flow file's own value holds."""
    default: str
    limits: str
    refused: str
    """What was refused last, and why; empty if nothing."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to tell at one moment."""

    seen: tuple[SeenRows | SeenMessages, ...] = ()
    events: tuple[Happened, ...] = ()
    letters: tuple[LetterHead, ...] = ()
    bound: tuple[Bound, ...] | None = None
    """All of the flow; None: as it was told last."""


TellShown: TypeAlias = Callable[[Shown], None]


class Showing:
    """Tells what a run shows, at most each `TELL_S`, from a thread of its own."""

    def __init__(self, run: FlowRun, tell: TellShown) -> None:
        self._run = run
        self._tell = tell
        self._seen: dict[str, deque[WireMessage]] = {}
        self._counts: dict[str, int] = {}
        self._events: deque[tuple[str, Message]] = deque(maxlen=MOST_EVENTS)
        self._later: deque[Callable[[], None]] = deque()
        self._due = threading.Event()
        self._over = False
        self._bound: tuple[Bound, ...] = ()
        self._thread = threading.Thread(target=self._loop, name="showing", daemon=True)
        self.letters = Letters()
        run.people.letters = self.letters
        run.people.on_message = self._on_message

    def __enter__(self) -> Showing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._due.set()
        self._thread.join()

    def watch(self, nodes: Iterable[str]) -> None:
        """Show what these nodes give, and no others. Any thread."""
        wanted = {node for node in nodes if node in self._run.counters}
        for node in self._seen.keys() - wanted:
            self._run.taps.pop(node, None)
            self._seen.pop(node, None)
        for node in wanted - self._seen.keys():
            self._seen[node] = queue = deque[WireMessage](maxlen=MOST_SEEN)
            self._run.taps[node] = self._tap(node, queue)

    def look(self) -> None:
        """Something may have changed that no message tells of."""
        if self._run.plan.policy_ids or self.letters.has_new:
            self._due.set()

    def later(self, call: Callable[[], None]) -> None:
        """Call something soon, by the thread that tells."""
        self._later.append(call)
        self._due.set()

    def _tap(self, node: str, queue: deque[WireMessage]) -> Callable[[WireMessage], None]:
        def tap(message: WireMessage) -> None:
            queue.append(message)
            self._counts[node] = self._counts.get(node, 0) + (message.rows if isinstance(message, Samples) else 1)
            self._due.set()

        return tap

    def _on_message(self, node: str, message: Message) -> None:
        if not isinstance(message, EventWindow | Forecast):
            self._events.append((node, message))
            self._due.set()

    def _loop(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._over:
                self._tell_now()
                return
            self._tell_now()
            time.sleep(TELL_S)

    def _tell_now(self) -> None:
        for call in _emptied(self._later):
            call()
        bound = bound_settings(self._run)
        shown = Shown(
            seen=tuple(self._take_seen()),
            events=tuple(_happened(node, message) for node, message in _emptied(self._events)),
            letters=self.letters.take_new(),
            bound=None if bound == self._bound else bound,
        )
        self._bound = bound
        if shown.seen or shown.events or shown.letters or shown.bound is not None:
            self._tell(shown)

    def _take_seen(self) -> Iterable[SeenRows | SeenMessages]:
        for node, queue in list(self._seen.items()):
            taken = _emptied(queue)
            count = self._counts.pop(node, 0)
            rows = [each for each in taken if isinstance(each, Samples) and each.rows]
            messages = [each for each in taken if isinstance(each, Message)]
            if rows:
                yield seen_rows(node, rows, count)
            if messages:
                encoded = map(encode_message, messages)
                told = [msgspec.Raw(each) for each in encoded if len(each) <= LARGEST_MESSAGE_BYTES]
                yield SeenMessages(node=node, messages=told, left_out=max(count - len(told), 0))


def seen_rows(node: str, batches: list[Samples], count: int) -> SeenRows:
    """The newest rows of some batches, of `count` rows that there were."""
    joined = join_samples(batches)
    last = joined.take(slice(-MOST_SEEN, None))  # type: ignore[arg-type]  # a slice is an index too
    return SeenRows(
        node=node,
        time_s=[time_ns / 1e9 for time_ns in last.time_ns.tolist()],
        device=[last.devices[code] for code in last.device.tolist()],
        columns={
            name: [value if math.isfinite(value) else None for value in values.tolist()]
            for name, values in last.columns.items()
        },
        quality=last.quality.tolist(),
        left_out=max(count - last.rows, 0),
    )


def bound_settings(run: FlowRun) -> tuple[Bound, ...]:
    """The settings of a run that are bound to policies, with what is in force."""
    found: list[Bound] = []
    for node in run.plan.nodes:
        config, versions = run.in_force[node.id]
        for name, binding in node.policies.items():
            refusal = run.refusals.get(node.id, {}).get(name)
            limits = (
                ", ".join(binding.allowed)
                if isinstance(binding, TextBinding)
                else f"{in_words(config, name, binding.min)} to {in_words(config, name, binding.max)}"
            )
            found.append(
                Bound(
                    node=node.id,
                    setting=name,
                    policy=binding.policy,
                    field=binding.field,
                    value=in_words(config, name, getattr(config, name)),
                    version=versions.get(binding.key, ""),
                    default=in_words(config, name, binding.default),
                    limits=limits,
                    refused="" if refusal is None else f"version {refusal.version}: {refusal.text}",
                )
            )
    return tuple(found)


def _happened(node: str, message: Message) -> Happened:
    time_ns = message_time_ns(message)
    encoded = encode_message(message)
    if len(encoded) > LARGEST_MESSAGE_BYTES:
        encoded = msgspec.json.encode({"type": message.__struct_config__.tag, "text": "too large to be shown"})
    return Happened(node=node, time_ns=time.time_ns() if time_ns is None else time_ns, message=msgspec.Raw(encoded))


def _emptied(queue: deque[T]) -> list[T]:
    """What was in a queue; others may go on to fill it."""
    taken: list[T] = []
    try:
        while True:
            taken.append(queue.popleft())
    except IndexError:
        return taken
