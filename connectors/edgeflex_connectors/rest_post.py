"""`rest_post`: messages and samples out to an HTTP service."""

from __future__ import annotations

import string
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol
from urllib.parse import quote

import msgspec
import numpy as np
from msgspec import Meta

from edgeflex_connectors.backoff import Backoff
from edgeflex_connectors.http_client import Answer, NotSentError
from edgeflex_connectors.payload_formats import JsonEdgeflex, JsonFields
from edgeflex_connectors.payloads import PayloadEncoder
from edgeflex_connectors.rest import RestSession, path_refusals
from edgeflex_connectors.rest_retry import RETRIED_STATUSES, UNHANDLED_STATUSES, Status, retry_after_s, retry_refusals
from edgeflex_flow.errors import BadMessageError, FieldError, RetryableError, nearest, unforeseen
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import DeadLetter, Samples, validity_s
from edgeflex_flow.node import (
    ANY,
    DEFAULT_PORT,
    Context,
    Input,
    NodeConfig,
    Progress,
    SinkNode,
    WireMessage,
    at_once,
    connection,
    quantity,
)

PLACEHOLDERS = ("device", "type")
NO_DEVICE = "_"
LONGEST_CLOSE_S = 2.0
"""How long `close` waits for the thread, which may be in an attempt to connect that nothing can break off."""


class RestPostConfig(NodeConfig, frozen=True, kw_only=True):
    """Send every message and every row of samples to an HTTP service, as JSON, in order.

    Messages are JSON objects with their meaning in the key `type`; rows of samples are JSON objects in the `format` of
    the service, by default those of `json.edgeflex`. Values that are not finite are null. With `batch: 1` each goes out
    by itself; with more, a request holds an array of what waits, up to so many. A format without quality flags leaves
    out rows that are bad or of a test.

    In `path`, `{device}` and `{type}` are filled in from the message (`samples` is the type of rows; the device is `_`
    in messages that have none), percent-encoded. Only what has the same path goes out in one request; with `{device}`
    the rows of a batch go out device by device.

    The next request goes out once the one before is answered for good. It is made again after waits that double from
    `retry_min` to `retry_max`, with some jitter, and not before the answer's `Retry-After`,

    - if nothing can have arrived: no connection, no token, or a status by which the service says that it has not begun
      (425, 429, 503);
    - after a status of `retried`, a connection that broke or an answer that did not come, only where doing it twice is
      the same as doing it once: with PUT, or when `idempotency_key` is on. Each request then has a header
      `Idempotency-Key` of its own, the same when it is made again, and the service must look at it.

    What was sent so and cannot be repeated becomes a dead letter `unclear`: it may have arrived, or not.

    Up to `queue` messages and rows wait; beyond that the oldest are dropped and counted under `overflow`. What waits
    longer than `expires` when a request would begin is not sent any more and counted under `expired`, a batch that is
    to be sent again as soon as its oldest has waited so long: give it for what must not come late, such as set-points.
    Messages of types that are valid only for some time need none.

    Input:
        in: any message, or Samples with any columns.

    Output:
        None. Counts `requests`, `sent` (messages and rows that the service took), `bytes`, `retries`, `overflow`,
        `expired`, `lost` (still held when the flow ended), `withheld` (rows that the format cannot mark as bad).

    Errors:
        Dead letters, one for each message or row: `refused` with status and the beginning of the answer when the
        service answers with a status that is no success and is not retried (a redirect among them), `unclear` (above),
        `not_encodable` for a message that JSON cannot hold. A dead letter that cannot be sent makes no other: it is
        counted under these reasons, the first is logged. Those of the connection: see `rest`.

    Source:
        RFC 9110 (HTTP: safe to repeat in section 9.2.2), RFC 8470 (425), RFC 6585 (429);
        draft-ietf-httpapi-idempotency-key-header; `json.edgeflex` of VILLASnode.

    >>> RestPostConfig(api="market", path="/events/{type}").method
    'POST'
    """

    api: Annotated[str, connection("rest", "Connection to the service.")]
    path: Annotated[str, Meta(min_length=1, description="Path, after the url of the connection; {device} and {type}.")]
    method: Annotated[Literal["POST", "PUT"], Meta(description="HTTP method.")] = "POST"
    format: Annotated[
        JsonEdgeflex | JsonFields, Meta(description="How rows of samples are written; a name, or `type` and settings.")
    ] = JsonEdgeflex()
    batch: Annotated[int, Meta(ge=1, le=100_000, description="Most messages and rows in a request.")] = 1
    idempotency_key: Annotated[
        bool, Meta(description="Whether requests have a header Idempotency-Key, which the service looks at.")
    ] = False
    expires: Annotated[
        Annotated[float, quantity("s", "Age.", gt=0)] | None,
        Meta(description="Age after which something is not sent any more; never if not given."),
    ] = None
    retried: Annotated[tuple[Status, ...], Meta(description="Statuses after which a request may be made again.")] = (
        RETRIED_STATUSES
    )
    retry_min: Annotated[float, quantity("s", "Wait after the first failure.", gt=0, le=3600)] = 0.5
    retry_max: Annotated[float, quantity("s", "Longest wait after a failure.", gt=0, le=86400)] = 30
    queue: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Messages and rows held while they cannot go; the oldest drop first.")
    ] = 10_000

    def refusals(self) -> Iterator[FieldError]:
        yield from retry_refusals(self.retry_min, self.retry_max)
        try:
            parts = list(string.Formatter().parse(self.path))
        except ValueError as error:
            yield FieldError(f"`path`: {error}", "path", got=f"'{self.path}'")
            return
        for _, name, form, turn in parts:
            if name is not None and name not in PLACEHOLDERS:
                close = nearest(name, PLACEHOLDERS)
                text = f"`path`: no placeholder '{{{name}}}'"
                yield FieldError(text, "path", known=("{device}", "{type}"), nearest=close and f"{{{close}}}")
            elif form or turn:
                yield FieldError("`path`: placeholders are plain {device} and {type}", "path", got=f"'{self.path}'")
        yield from path_refusals(self.path)

    @property
    def repeatable(self) -> bool:
        """Whether a request may be made twice without harm."""
        return self.method == "PUT" or self.idempotency_key


@dataclass(frozen=True, slots=True)
class Item:
    """A message or row on its way."""

    path: str
    body: bytes
    until_s: float
    """Until when it may be sent, in monotonic seconds."""
    tells_of: str | None = None
    """The node that a dead letter is of; None for all others."""
    key: str = ""
    """Names the request, the same each time that it is made; empty: one is made up."""


class ItemEncoder(Protocol):
    """Makes what is sent of messages and samples."""

    @property
    def withheld(self) -> int:
        """Rows so far that the format could not mark as bad."""
        ...

    def items(self, message: WireMessage, now_s: float, now_ns: int) -> Iterable[Item]:
        """What one message becomes. Raises ValueError or OverflowError for one that cannot be written, BadMessageError
        for one that must not be sent."""
        ...

    def refusal(self, answer: Answer) -> str:
        """Why an answer of success is a refusal all the same; empty if it is none."""
        ...


class Encoder:
    """Makes what is sent of messages and samples."""

    def __init__(self, config: RestPostConfig) -> None:
        self._pattern = config.path
        self._valid_s = config.expires
        self._samples = PayloadEncoder(config.format)

    @property
    def withheld(self) -> int:
        """Rows so far that the format could not mark as bad."""
        return self._samples.withheld

    def items(self, message: WireMessage, now_s: float, now_ns: int) -> Iterator[Item]:
        """What one message becomes. Raises ValueError or OverflowError for one that JSON cannot hold."""
        until_s = now_s + validity_s(message, now_ns, self._valid_s)
        if not isinstance(message, Samples):
            path = _path(self._pattern, getattr(message, "device", None) or "", str(message.__struct_config__.tag))
            tells_of = message.node if isinstance(message, DeadLetter) else None
            for payload in self._samples.encode_message(message):
                yield Item(path, payload, until_s, tells_of)
        elif "{device}" not in self._pattern:
            yield from self._rows(message, _path(self._pattern, "", Samples.tag), until_s)
        else:
            for code in np.unique(message.device).tolist():
                path = _path(self._pattern, message.devices[code], Samples.tag)
                yield from self._rows(message.take(message.device == code), path, until_s)

    def refusal(self, answer: Answer) -> str:
        """A status of success is one."""
        del answer
        return ""

    def _rows(self, samples: Samples, path: str, until_s: float) -> Iterator[Item]:
        for payload in self._samples.encode(samples):
            listed = payload[:1] == b"["
            for row in msgspec.json.decode(payload, type=list[msgspec.Raw]) if listed else (payload,):
                yield Item(path, bytes(row), until_s)


def _path(pattern: str, device: str, message_type: str) -> str:
    """The path for a device, whose name may come from the network: it chooses no other path.

    >>> _path("/d/{device}/{type}", "../a b", "alarm"), _path("/d/{device}", "..", "alarm")
    ('/d/..%2Fa%20b/alarm', '/d/__')
    """
    level = quote(device, safe="", errors="replace") or NO_DEVICE
    return pattern.format(device=level if level.strip(".") else "_" * len(level), type=message_type)


class RestPost:
    """The sink. `write` hands over; a thread of its own sends."""

    def __init__(
        self,
        config: RestPostConfig,
        context: Context,
        session: RestSession | None = None,
        encoder: ItemEncoder | None = None,
    ) -> None:
        self._config = config
        self._context = context
        self._session = session
        self._encoder: ItemEncoder = Encoder(config) if encoder is None else encoder
        self._backoff = Backoff(config.retry_min, config.retry_max)
        self._unsent: set[str] = set()
        """Reasons for which a dead letter was not sent."""
        self._thread: threading.Thread | None = None
        # What follows is guarded by the condition; nobody holds it during a request.
        self._condition = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._batch: list[Item] = []
        """What the request on its way holds."""
        self._taken = 0
        self._lost = 0
        self._flushes = 0
        self._stopping = False
        self._dead = False
        self._reached = False
        """Whether the service has answered."""

    def open(self) -> None:
        if self._session is None:
            api = self._context.connections["api"]
            self._session = api.node.open(api.config, self._context)
        gauges = self._context.gauges
        gauges.watch(CONNECTED, self._connected)
        gauges.watch("queue_messages", lambda: len(self._waiting) + len(self._batch))
        self._thread = threading.Thread(target=self._run, name=f"rest {self._context.node}", daemon=True)
        self._thread.start()

    def write(self, messages: Sequence[WireMessage]) -> None:
        now_s, now_ns = time.monotonic(), self._context.clock.now_ns()
        items: list[Item] = []
        for message in messages:
            try:
                items.extend(self._encoder.items(message, now_s, now_ns))
            except BadMessageError as error:
                self._refuse(error.reason, str(error), error.payload, None)
            except (ValueError, OverflowError) as error:
                node = message.node if isinstance(message, DeadLetter) else None
                self._refuse("not_encodable", f"a {type(message).__name__}: {error}", b"", node)
        if self._encoder.withheld:
            self._context.counters.set("withheld", self._encoder.withheld)
        with self._condition:
            self._waiting.extend(items)
            self._taken += len(items)
            dropped = max(0, len(self._waiting) - self._config.queue)
            for _ in range(dropped):
                self._waiting.popleft()
            self._condition.notify_all()
        if dropped:
            self._context.counters.add("overflow", dropped)

    def _connected(self) -> bool | None:
        """Not known before there was something to send."""
        return not self._backoff.is_failing if self._reached or self._backoff.is_failing else None

    def progress(self) -> Progress:
        """What the service has answered for good, or what was dropped, needs nobody any more."""
        with self._condition:
            return Progress(self._taken, self._taken - len(self._waiting) - len(self._batch) - self._lost)

    def hurry(self) -> None:
        """Requests go out as fast as the service answers anyway."""

    def flush(self, timeout_s: float) -> bool:
        with self._condition:
            self._flushes += 1  # ends a wait before the next attempt
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._dead or not (self._waiting or self._batch), timeout_s)
            return not (self._waiting or self._batch)

    def close(self) -> None:
        """End the thread, which gives up a request that is on its way. Waits `LONGEST_CLOSE_S` at most."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._session is not None:
            self._session.abort()
        if self._thread is not None:
            self._thread.join(LONGEST_CLOSE_S)
            if self._thread.is_alive():
                self._context.log.warning("closed during an attempt to connect, which is left to end alone")
            self._thread = None
        with self._condition:
            held = len(self._waiting) + len(self._batch)
            self._lost += held
            self._waiting.clear()
            self._batch = []
        if held:
            self._context.counters.add("lost", held)
            self._context.log.error("%d messages or rows were not sent and are lost", held)

    def _refuse(self, reason: str, text: str, payload: bytes, tells_of: str | None) -> None:
        if tells_of is None:
            self._context.dead_letter(reason, text, payload)
            return
        # A dead letter about a dead letter would come back here by `from: dead_letters`, without end.
        self._context.counters.add(reason)
        if reason not in self._unsent:
            self._unsent.add(reason)
            self._context.log.warning("a dead letter of node '%s' is not sent: %s", tells_of, text)

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._session is not None
        try:
            while self._next_batch():
                self._deliver(self._session)
        except Exception as error:
            self._context.log.debug("the thread that sends ended", exc_info=True)
            self._broken(error)
        finally:
            with self._condition:
                self._dead = True
                self._condition.notify_all()
            self._session.close()

    def _broken(self, error: Exception) -> None:
        failure = unforeseen(f"node '{self._context.node}' cannot send", error)
        self._context.log.error("%s", failure)
        if not self._stopping:
            self._context.fail(failure)

    def _next_batch(self) -> bool:
        """Wait for something and take it; False when the sink closes."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopping or self._waiting)
            if self._stopping:
                return False
            path = self._waiting[0].path
            while self._waiting and len(self._batch) < self._config.batch and self._waiting[0].path == path:
                self._batch.append(self._waiting.popleft())
            return True

    def _deliver(self, session: RestSession) -> None:
        """Send the batch, again and again until that is over for good or the sink closes."""
        key = self._batch[0].key or str(uuid.uuid4())
        self._drop_expired()
        while self._batch:
            flushes = self._flushes
            wait_s = self._send(session, key)
            if wait_s is None:
                break
            if not self._pause(wait_s, flushes):
                return  # what is still in the batch is lost, and counted by `close`
            if self._expired():
                # As a whole: a part of it, sent again, would not be the same request.
                self._context.counters.add("expired", len(self._batch))
                break
        with self._condition:
            self._batch = []
            self._condition.notify_all()
        self._context.progressed()

    def _drop_expired(self) -> None:
        expired = self._expired()
        if expired:
            self._context.counters.add("expired", len(expired))
            with self._condition:
                self._batch = [item for item in self._batch if item not in expired]

    def _expired(self) -> list[Item]:
        now_s = time.monotonic()
        return [item for item in self._batch if item.until_s < now_s]

    def _send(self, session: RestSession, key: str) -> float | None:
        """Send the batch once. Gives how long to wait before it is sent again; None if it will not be."""
        config, path = self._config, self._batch[0].path
        what = f"{session.name}: {config.method} {path}"
        bodies = [item.body for item in self._batch]
        body = bodies[0] if config.batch == 1 else b"[" + b",".join(bodies) + b"]"
        headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if config.idempotency_key else {})}
        self._context.counters.add("requests")
        try:
            answer = session.request(config.method, path, headers=headers, content=body)
            return self._take(session, answer, what, len(body))
        except NotSentError as error:
            return self._failed(str(error))
        except RetryableError as error:
            if self._stopping or config.repeatable:
                return self._failed(str(error))
            self._give_up("unclear", str(error))
        except BadMessageError as error:
            # An answer came, but one that cannot be read.
            self._give_up("unclear", f"{what}: {error}")
        return None

    def _take(self, session: RestSession, answer: Answer, what: str, size: int) -> float | None:
        """Do what an answer means, whatever its status."""
        text = f"{what}: {session.shown(answer)}"
        if answer.status in self._config.retried:
            if self._config.repeatable or answer.status in UNHANDLED_STATUSES:
                return max(self._failed(text), retry_after_s(answer))
            self._give_up("unclear", text)
        elif answer.is_success and not self._encoder.refusal(answer):
            self._context.counters.add_all(sent=len(self._batch), bytes=size)
        else:
            self._give_up("refused", self._encoder.refusal(answer) or text)
        self._reached = True
        failures = self._backoff.succeeded()
        if failures:
            self._context.log.info("%s: answers again after %d failures", what, failures)
        return None

    def _failed(self, text: str) -> float:
        """Count and tell a failure; gives how long to wait."""
        if self._stopping:
            return 0.0
        self._context.counters.add("retries")
        if self._backoff.failed():
            self._context.log.warning("%s; %d wait; trying again", text, len(self._waiting) + len(self._batch))
        return self._backoff.delay_s()

    def _give_up(self, reason: str, text: str) -> None:
        for item in self._batch:
            self._refuse(reason, text, item.body, item.tells_of)

    def _pause(self, wait_s: float, flushes: int) -> bool:
        """Wait before the next attempt, less when more flushes are asked for than these; False if the sink closes."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopping or self._flushes > flushes, timeout=wait_s)
            return not self._stopping


def open_sink(config: RestPostConfig, context: Context) -> RestPost:
    return RestPost(config, context)


NODE = SinkNode(
    kind="rest_post",
    config=RestPostConfig,
    inputs={DEFAULT_PORT: Input(accepts=ANY, needs=lambda config: config.format.columns)},
    open=open_sink,
    delays=at_once,
)
