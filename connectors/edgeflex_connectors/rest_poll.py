"""`rest_poll`: samples or messages that an HTTP service gives when asked."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple, Protocol

import msgspec
from msgspec import Meta, field

from edgeflex_connectors.backoff import Backoff
from edgeflex_connectors.batching import DeviceTable, SamplesBuilder, message_types, promise_refusals
from edgeflex_connectors.handover import Handover
from edgeflex_connectors.http_client import Answer
from edgeflex_connectors.payload_formats import AnyFormat, JsonEdgeflex, format_of
from edgeflex_connectors.payload_formats.codec import Decoder
from edgeflex_connectors.payloads import subscription_columns, subscription_refusals
from edgeflex_connectors.refused_from import RefusedFrom
from edgeflex_connectors.rest import RestSession, path_refusals
from edgeflex_connectors.rest_retry import RETRIED_STATUSES, Status, retry_after_s, retry_refusals
from edgeflex_flow.errors import BadMessageError, FieldError, RetryableError, unforeseen
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import BUILT_IN_MESSAGES, decode_message
from edgeflex_flow.node import (
    Context,
    Delays,
    NodeConfig,
    SourceNode,
    Wire,
    WireMessage,
    connection,
    message_wire,
    quantity,
    samples_wire,
)

NOT_MODIFIED = 304
PLACE = re.compile(r"^[^.]+(\.[^.]+)*$")
LONGEST_KIND = 60
LONGEST_CLOSE_S = 2.0
"""How long `close` waits for the thread, which may be in an attempt to connect that nothing can break off."""

SHORTEST_SECRET = 6
"""Values of a query that are shorter hide too much of a message, and are no keys."""


class RestPollConfig(NodeConfig, frozen=True, kw_only=True):
    """Ask an HTTP service again and again for what it has: measurements, forecasts, messages.

    A GET of `path` goes out every `period`, the first at once. The answer becomes samples, read in the `format` of the
    service and with the columns that it and `columns` name, or messages of the types in `messages`: JSON objects whose
    key `type` names their meaning, one or a list. `rows` tells where in a JSON answer they stand, keys with dots
    between them, items of lists by their number: `forecast.0.values`.

    ```yaml
    forecast:
      kind: rest_poll
      api: weather
      path: /v1/sites/12/forecast
      period: 15min
      rows: data.values
      device: wind_farm
      format:
        type: json
        time: valid_from
        time_unit: iso8601
        fields: {power.p50: {column: active_power_w, unit: kW}}
    ```

    The service is told by `If-None-Match` and `If-Modified-Since` which answer was used last (its `ETag` and
    `Last-Modified`). When it answers 304 there is nothing new and nothing comes out.

    When the service is away, or answers with a status of `retried`, it is asked again after a wait that doubles from
    `retry_min` to `retry_max`, with some jitter; if the answer says `Retry-After`, not before that, up to an hour.
    After any other status that is no success the next request waits for the next period, or as long as such a wait if
    that is longer. Whatever fails is said in the log after 1, 2, 4, 8 … failures in a row.

    Up to `queue` answers wait for the flow; beyond that the oldest are dropped and counted under `overflow`.

    Input:
        None: answers of the service.

    Output:
        Samples with `columns` and those that `format` names; a value that a row lacks, or that is null, is NaN. Or
        messages of the types in `messages`. Counts `requests`, `answers` (used), `not_modified`, `retries`, `refused`
        (other statuses that are no success), `not_accepted` (messages of other types), `bad_rows`, `overflow`, `lost`
        (came after the last turn of a flow that ends).

    Errors:
        Dead letter `bad_payload` for an answer that cannot be read, or in which a row lacks its time, its device or
        all of the columns, or has a wrong value; the other rows are given, and `bad_rows` counts those that are not.
        `too_large` for an answer beyond the connection's `answer_limit`, `bad_answer` for one that cannot be unpacked.
        Those of the connection: see `rest`.

    Source:
        RFC 9110 (HTTP), RFC 6585 (status 429).

    >>> RestPollConfig(api="policies", path="/policies", period=60, messages=("alarm",)).retry_max
    60
    """

    api: Annotated[str, connection("rest", "Connection to the service.")]
    path: Annotated[str, Meta(min_length=1, description="Path, which follows the url of the connection.")]
    period: Annotated[float, quantity("s", "Time from one request to the next.", ge=0.05, le=7 * 86400)]
    query: Annotated[dict[str, str], Meta(description="Names and values of the query.")] = field(default_factory=dict)
    columns: Annotated[tuple[str, ...], Meta(description="Columns that answers have under the same names.")] = ()
    messages: Annotated[tuple[str, ...], Meta(description="Types of messages in the answer, such as alarm.")] = ()
    format: Annotated[AnyFormat, Meta(description="How samples are written; a name, or `type` and settings.")] = (
        JsonEdgeflex()
    )
    rows: Annotated[
        Annotated[str, Meta(pattern=PLACE.pattern)] | None,
        Meta(description="Where in a JSON answer the rows or messages stand; the answer itself if not given."),
    ] = None
    device: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Name of the device, the same for all rows; none: answers tell it."),
    ] = None
    retried: Annotated[
        tuple[Status, ...], Meta(description="Statuses after which the service is asked again soon.")
    ] = RETRIED_STATUSES
    retry_min: Annotated[float, quantity("s", "Wait after the first failure.", gt=0, le=3600)] = 1
    retry_max: Annotated[float, quantity("s", "Longest wait after a failure.", gt=0, le=86400)] = 60
    queue: Annotated[
        int, Meta(ge=1, le=100_000, description="Answers held while the flow is busy; the oldest drop first.")
    ] = 100

    def refusals(self) -> Iterator[FieldError]:
        yield from path_refusals(self.path)
        if self.columns or self.messages:
            yield from promise_refusals(self.columns, self.messages)
        yield from subscription_refusals(self.columns, self.messages, self.format, self.device)
        if self.messages and (self.columns or self.format.columns):
            text = "an answer becomes samples or messages: give `messages`, or `columns` and `format`"
            yield FieldError(text, "messages", "columns", "format")
        if self.device is not None and "{" in self.device:
            yield FieldError("`device` is a name: an answer has no topic", "device", got=f"'{self.device}'")
        yield from retry_refusals(self.retry_min, self.retry_max)


class Read(NamedTuple):
    """What an answer has become."""

    messages: list[WireMessage]
    others: int = 0
    """Messages of other types, left out."""
    bad_rows: int = 0
    error: BadMessageError | None = None
    """What is wrong with the first of those."""


class ReadsAnswers(Protocol):
    """Tells what an answer becomes."""

    def read(self, body: bytes, received_ns: int) -> Read:
        """Raises BadMessageError when nothing of it can be used."""
        ...


class AnswerReader:
    """What an answer becomes. Raises BadMessageError when nothing of it can be used."""

    def __init__(self, config: RestPollConfig) -> None:
        self._place = config.rows.split(".") if config.rows else []
        self._types = message_types(config.messages)
        self._columns = subscription_columns(config.columns, config.format)
        self._device = config.device
        self._devices = DeviceTable()
        self._decoder = None
        if self._columns:
            given = config.device is not None
            self._decoder = format_of(config.format).decoder(config.format, config.columns, given)

    def read(self, body: bytes, received_ns: int) -> Read:
        try:
            part = part_at(body, self._place)
            return self._messages(part) if self._decoder is None else self._samples(self._decoder, part, received_ns)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessageError(str(error), reason="bad_payload", payload=body) from error

    def _samples(self, decoder: Decoder, part: bytes, received_ns: int) -> Read:
        decoded = decoder.decode(part, self._device)
        builder = SamplesBuilder(self._columns, self._devices)
        for row in decoded.rows:
            builder.add(*row)
        given: list[WireMessage] = [builder.take(received_ns)] if len(builder) else []
        return Read(given, bad_rows=decoded.bad_rows, error=decoded.error)

    def _messages(self, part: bytes) -> Read:
        listed = part.lstrip()[:1] == b"["
        items = msgspec.json.decode(part, type=list[msgspec.Raw]) if listed else [part]
        every = [decode_message(bytes(each), BUILT_IN_MESSAGES) for each in items]
        taken: list[WireMessage] = [each for each in every if isinstance(each, self._types)]
        return Read(taken, others=len(every) - len(taken))


def part_at(body: bytes, place: Sequence[str]) -> bytes:
    """The part of a JSON text that stands at a place; all of the text, whatever it is, for no place.

    >>> part_at(b'{"data": [0, {"rows": [1, 2]}]}', ["data", "1", "rows"])
    b'[1, 2]'
    """
    found = body
    for depth, part in enumerate(place):
        listed = found.lstrip()[:1] == b"["
        if listed:
            items = msgspec.json.decode(found, type=list[msgspec.Raw])
            inner = items[int(part)] if part.isascii() and part.isdigit() and int(part) < len(items) else None
        else:
            inner = msgspec.json.decode(found, type=dict[str, msgspec.Raw]).get(part)
        if inner is None:
            where = ".".join(place[: depth + 1])
            raise BadMessageError(f"nothing stands at `{where}`", reason="bad_payload", payload=body)
        found = bytes(inner)
    return found


class RestPoll:
    """The source. A thread of its own asks and reads; `poll` takes what it has read."""

    def __init__(
        self,
        config: RestPollConfig,
        context: Context,
        session: RestSession | None = None,
        reader: ReadsAnswers | None = None,
    ) -> None:
        self._config = config
        self._context = context
        self._session = session
        self._reader: ReadsAnswers = AnswerReader(config) if reader is None else reader
        self._known: dict[str, str] = {}
        """Headers that tell which answer was used last."""
        self._backoff = Backoff(config.retry_min, config.retry_max)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._handover = Handover[int, list[WireMessage]](config.queue)
        """Answers by their number."""
        self._answers = 0
        self._refused = RefusedFrom[str]()
        self._reached = False
        """Whether the service has answered."""

    def open(self) -> None:
        if self._session is None:
            api = self._context.connections["api"]
            self._session = api.node.open(api.config, self._context)
        self._handover.open()
        gauges = self._context.gauges
        gauges.watch(CONNECTED, lambda: self._reached and not self._backoff.is_failing)
        gauges.watch("queue_messages", lambda: len(self._handover))
        self._thread = threading.Thread(target=self._run, name=f"rest {self._context.node}", daemon=True)
        self._thread.start()

    def poll(self) -> Sequence[WireMessage]:
        return [message for answer in self._handover.take() for message in answer]

    def decode_again(self, payload: bytes) -> Sequence[WireMessage]:
        """Raises BadMessageError."""
        _, received_ns = self._refused.origin_of(payload)
        read = self._reader.read(payload, received_ns)
        if read.error is not None and not read.messages:
            raise read.error
        return read.messages

    @property
    def ended(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return self._handover.fileno()

    def next_poll_ns(self) -> int | None:
        return None

    def close(self) -> None:
        """End the thread, which gives up a request that is on its way. Waits `LONGEST_CLOSE_S` at most."""
        self._stop.set()
        if self._session is not None:
            self._session.abort()
        if self._thread is not None:
            self._thread.join(LONGEST_CLOSE_S)
            if self._thread.is_alive():
                self._context.log.warning("closed during an attempt to connect, which is left to end alone")
            self._thread = None
        lost = self._handover.close()
        if lost:
            self._context.counters.add("lost", lost)

    # The thread -----------------------------------------------------------------------------------------------------

    def query(self) -> Sequence[tuple[str, str]]:
        """Of the next request."""
        return tuple(self._config.query.items())

    def before_asking(self, session: RestSession) -> None:
        """What else there is to do with the service, each time."""

    def _run(self) -> None:
        assert self._session is not None
        try:
            self._ask_again_and_again(self._session)
        except Exception as error:
            self._context.log.debug("the thread that asks ended", exc_info=True)
            self._broken(error)
        finally:
            self._session.close()

    def _broken(self, error: Exception) -> None:
        failure = unforeseen(f"node '{self._context.node}' cannot ask", error)
        self._context.log.error("%s", failure)
        if not self._stop.is_set():
            self._context.fail(failure)

    def _ask_again_and_again(self, session: RestSession) -> None:
        session.also_hidden = tuple(text for text in self._config.query.values() if len(text) >= SHORTEST_SECRET)
        due_s = time.monotonic()
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            asked_s = time.monotonic()
            wait_s = self._ask(session)
            due_s = asked_s + self._config.period if wait_s is None else time.monotonic() + wait_s

    def _ask(self, session: RestSession) -> float | None:
        """Ask once. Gives how long to wait before the next request; None if it is due by the period."""
        self._context.counters.add("requests")
        what = f"{session.name}: GET {self._config.path}"
        self.before_asking(session)
        try:
            answer = session.request(
                "GET",
                self._config.path,
                query=self.query(),
                headers={"Accept": "application/json, */*;q=0.5", **self._known},
            )
            return self._take(session, answer, what)
        except RetryableError as error:
            return self._failed(str(error), "retries")
        except BadMessageError as error:
            self._refuse(what, error)
            return None

    def _refuse(self, what: str, error: BadMessageError) -> None:
        self._refused.note(error.payload, what, self._context.clock.now_ns())
        self._context.dead_letter(error.reason, f"{what}: {error}", error.payload)

    def _take(self, session: RestSession, answer: Answer, what: str) -> float | None:
        """Use an answer, whatever its status."""
        if answer.status == NOT_MODIFIED:
            self._context.counters.add("not_modified")
        elif answer.is_success:
            self._use(answer, what)
        elif answer.status in self._config.retried:
            return max(self._failed(f"{what}: {session.shown(answer)}", "retries"), retry_after_s(answer))
        else:
            return max(self._failed(f"{what}: {session.shown(answer)}", "refused"), self._config.period)
        self._reached = True
        failures = self._backoff.succeeded()
        if failures:
            self._context.log.info("%s: answers again after %d failures", what, failures)
        return None

    def _failed(self, text: str, counter: str) -> float:
        """Count and tell a failure; gives how long to wait."""
        if self._stop.is_set():
            return 0.0
        self._context.counters.add(counter)
        if self._backoff.failed():
            self._context.log.warning("%s; trying again", text)
        return self._backoff.delay_s()

    def _use(self, answer: Answer, what: str) -> None:
        kind = answer.headers.get("content-type", "nothing")
        try:
            read = self._reader.read(answer.body, self._context.clock.now_ns())
        except BadMessageError as error:
            text = f"{error} (content type: {kind[:LONGEST_KIND]})"
            raise BadMessageError(text, reason=error.reason, payload=error.payload) from error
        # Only once it is used: else the service would never give it again.
        given = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
        self._known = {name: answer.headers[told] for name, told in given.items() if told in answer.headers}
        self._context.counters.add("answers")
        self._context.counters.add_all(not_accepted=read.others, bad_rows=read.bad_rows)
        if read.error is not None:
            self._refuse(what, read.error)
        if read.messages:
            self._hand_over(read.messages)

    def _hand_over(self, messages: list[WireMessage]) -> None:
        self._answers += 1
        dropped = self._handover.put({self._answers: messages})
        if dropped is None:
            self._context.counters.add("lost")
        elif dropped:
            self._context.counters.add("overflow", dropped)


def output(config: RestPollConfig, _inputs: Mapping[str, Wire]) -> Wire:
    columns = subscription_columns(config.columns, config.format)
    return samples_wire(*columns) if columns else message_wire(*message_types(config.messages))


def open_source(config: RestPollConfig, context: Context) -> RestPoll:
    return RestPoll(config, context)


NODE = SourceNode(
    kind="rest_poll",
    config=RestPollConfig,
    output=output,
    open=open_source,
    decodes=True,
    delays=lambda config: Delays(period_s=config.period),
)
