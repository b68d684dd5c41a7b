"""`link_qos`: qualities of service for the links of devices, asked for at the 5G device management."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edgeflex_connectors.backoff import Backoff
from edgeflex_connectors.device_management import (
    DEVICES_PATH,
    LONGEST_DURATION_S,
    OPERATIONS_PATH,
    DevicePage,
    Ipv4,
    Operation,
    Owner,
    device_path,
    read_answer,
    refusal_in,
)
from edgeflex_connectors.http_client import Answer
from edgeflex_connectors.rest import UNAUTHORIZED, RestSession
from edgeflex_connectors.rest_retry import RETRIED_STATUSES, retry_after_s, retry_refusals
from edgeflex_flow.errors import BadMessageError, FieldError, RetryableError, unforeseen
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import Alarm, LinkQosRequest, encode_message, validity_s
from edgeflex_flow.node import (
    DEFAULT_PORT,
    Context,
    Input,
    NodeConfig,
    SinkNode,
    WireMessage,
    at_once,
    connection,
    quantity,
)

NOT_FOUND: Final = 404
CONFLICT: Final = 409
NO_RIGHT: Final = (UNAUTHORIZED, 403)
RENEWED_AFTER: Final = 0.5
"""Share of its duration after which a quality is made longer."""
FOLLOW_S: Final = 0.25
LONGEST_FOLLOW_S: Final = 5.0
"""After which it is asked what became of an operation: waits that double."""
FOLLOWED_S: Final = 300.0
"""For how long."""
LONGEST_CLOSE_S: Final = 2.0
"""How long `close` waits for the thread, which may be in an attempt to connect that nothing can break off."""

_Port = Annotated[int, Meta(ge=1, le=65_535)]


class LinkQosConfig(NodeConfig, frozen=True, kw_only=True):
    """Ask the 5G device management (`edgeflex serve devices`) for qualities of links, and give them back.

    A request to `raise` sets the QoS profile of the link between the device and the server, for `duration`; it is made
    longer at half of that, again and again, until a `release` comes. What runs when the flow ends is not made longer
    and ends by itself. The service knows the device by its name, which is that of the message.

    **A request is never sent late**: once its time is over it is dropped and counted under `expired`, however often it
    was tried. Of two requests for a device the newer one counts: an older one that was not done yet is dropped and
    counted under `superseded`.

    A request that fails is made again after waits that double from `retry_min` to `retry_max`, with some jitter, after
    a failure to connect, an answer that did not come, or a status that passes (401 and 403 as well, since rights may
    be given meanwhile, and 409). That does no harm: each has an `Idempotency-Key`, and one that the service has
    taken is followed until it is over, with requests for other devices in between.

    Input:
        in: `LinkQosRequest`. `Alarm`s, which come on the same wire, are passed over.

    Output:
        None. Counts `requests` (of HTTP), `sent` (what the network did), `renewed`, `retries`, `expired`, `superseded`,
        `overflow`, `lapsed` (qualities that could not be made longer in time), `lost` (still held when the flow
        ended).

    Errors:
        Dead letters: `refused` with the network's reason for what it does not give, also when it does not make it
        longer; `unknown_device` when the owner has no device of that name; `unclear` for what was asked for and never
        answered in a way that can be read. Those of the connection: see `rest`.

    Source:
        The interface of this project's device management; draft-ietf-httpapi-idempotency-key-header.

    >>> LinkQosConfig(api="devices", owner="substation_12", server_ipv4="198.51.100.10", server_ports=(4713,)).duration
    3600.0
    """

    api: Annotated[str, connection("rest", "Connection to the device management.")]
    owner: Annotated[Owner, Meta(description="Group of the policy system to which the devices belong.")]
    server_ipv4: Annotated[Ipv4, Meta(description="Address of the server to which the devices send.")]
    server_ports: Annotated[tuple[_Port, ...], Meta(max_length=32, description="Its ports; all if none is named.")] = ()
    duration: Annotated[
        float, quantity("s", "For how long a quality is asked for at once.", ge=10, le=LONGEST_DURATION_S)
    ] = 3600.0
    retry_min: Annotated[float, quantity("s", "Wait after the first failure.", gt=0, le=3600)] = 0.5
    retry_max: Annotated[float, quantity("s", "Longest wait after a failure.", gt=0, le=3600)] = 10.0
    queue: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Requests held while they cannot go; the oldest drop first.")
    ] = 10_000

    def refusals(self) -> Iterator[FieldError]:
        yield from retry_refusals(self.retry_min, self.retry_max)


def _new_key() -> str:
    return str(uuid.uuid4())


@dataclass(slots=True, eq=False)
class _Job:
    """What is to be done for one device. Times are monotonic seconds."""

    request: LinkQosRequest
    until_s: float
    """Until when it may be sent."""
    due_s: float
    renews: bool = False
    """Whether it makes longer what is there."""
    key: str = field(default_factory=_new_key)
    operation: str = ""
    """As the service calls what it has begun; empty: nothing."""
    followed_until_s: float = 0.0
    follow_s: float = FOLLOW_S


class _RefusedError(Exception):
    """Something that no further attempt would change."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _WaitError(RetryableError):
    """Something that may pass, not before a time that the service tells."""

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class LinkQos:
    """The sink. `write` hands over; a thread of its own asks."""

    def __init__(self, config: LinkQosConfig, context: Context, session: RestSession | None = None) -> None:
        self._config = config
        self._context = context
        self._session = session
        self._backoff = Backoff(config.retry_min, config.retry_max)
        self._gpsis: dict[str, str] = {}
        """By name of a device."""
        self._thread: threading.Thread | None = None
        # What follows is guarded by the condition; nobody holds it during a request.
        self._condition = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        """By device, the oldest first."""
        self._renewals: dict[str, _Job] = {}
        """By device, of what runs."""
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
        gauges.watch("queue_messages", lambda: len(self._jobs))
        self._thread = threading.Thread(target=self._run, name=f"rest {self._context.node}", daemon=True)
        self._thread.start()

    def write(self, messages: Sequence[WireMessage]) -> None:
        now_s, now_ns = time.monotonic(), self._context.clock.now_ns()
        counts = dict.fromkeys(("expired", "superseded", "overflow"), 0)
        with self._condition:
            for message in messages:
                if not isinstance(message, LinkQosRequest):
                    continue
                left_s = validity_s(message, now_ns, None)
                if left_s <= 0:
                    counts["expired"] += 1
                    continue
                counts["superseded"] += self._jobs.pop(message.device, None) is not None
                self._jobs[message.device] = _Job(message, now_s + left_s, now_s)
                if message.action == "release":
                    self._renewals.pop(message.device, None)
            while len(self._jobs) > self._config.queue:
                del self._jobs[next(iter(self._jobs))]
                counts["overflow"] += 1
            self._condition.notify_all()
        self._context.counters.add_all(**counts)

    def _connected(self) -> bool | None:
        """Not known before there was something to ask for."""
        return not self._backoff.is_failing if self._reached or self._backoff.is_failing else None

    def flush(self, timeout_s: float) -> bool:
        with self._condition:
            for job in self._jobs.values():
                job.due_s = min(job.due_s, time.monotonic())  # ends waits before the next attempts
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._dead or not self._jobs, timeout_s)
            return not self._jobs

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
            held = len(self._jobs)
            self._jobs.clear()
            self._renewals.clear()
        if held:
            self._context.counters.add("lost", held)
            self._context.log.error("%d requests were not done and are lost", held)

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._session is not None
        try:
            while (job := self._next()) is not None:
                self._work_on(self._session, job)
        except Exception as error:
            self._context.log.debug("the thread that asks ended", exc_info=True)
            self._broken(error)
        finally:
            with self._condition:
                self._dead = True
                self._condition.notify_all()
            self._session.close()

    def _broken(self, error: Exception) -> None:
        failure = unforeseen(f"node '{self._context.node}' cannot ask", error)
        self._context.log.error("%s", failure)
        if not self._stopping:
            self._context.fail(failure)

    def _next(self) -> _Job | None:
        """Wait until something is due; None when the sink closes."""
        with self._condition:
            while not self._stopping:
                # What is made longer must not take the place of what is asked for meanwhile.
                renewals = (job for device, job in self._renewals.items() if device not in self._jobs)
                jobs = (*self._jobs.values(), *renewals)
                first = min(jobs, key=lambda job: job.due_s, default=None)
                wait_s = None if first is None else first.due_s - time.monotonic()
                if first is not None and wait_s is not None and wait_s <= 0:
                    return first
                self._condition.wait(wait_s)
            return None

    def _work_on(self, session: RestSession, job: _Job) -> None:
        if not job.operation and job.until_s < time.monotonic():
            self._expired(job)
            return
        try:
            if job.operation:
                self._follow(session, job)
            else:
                self._ask(session, job)
        except _WaitError as error:
            self._failed(job, str(error), error.wait_s)
        except RetryableError as error:
            self._failed(job, str(error))
        except BadMessageError as error:
            self._refuse(job, "unclear", f"{self._what(session, job)}: {error}")
        except _RefusedError as error:
            self._refuse(job, error.reason, f"{self._what(session, job)}: {error}")

    @staticmethod
    def _what(session: RestSession, job: _Job) -> str:
        profile = f" to {job.request.profile}" if job.request.profile else ""
        return f"{session.name}: {job.request.action} '{job.request.device}'{profile}"

    def _expired(self, job: _Job) -> None:
        if job.renews:
            self._context.counters.add("lapsed")
            self._context.log.error(
                "%s of '%s' could not be made longer in time", job.request.profile, job.request.device
            )
        else:
            self._context.counters.add("expired")
        self._done_with(job)

    def _ask(self, session: RestSession, job: _Job) -> None:
        """Ask for what the job wants. Raises RetryableError, BadMessageError, _RefusedError."""
        device = job.request.device
        was_known = device in self._gpsis
        path = device_path(self._gpsi_of(session, device), "qos")
        if job.until_s < time.monotonic():
            self._expired(job)
            return
        is_raise = job.request.action == "raise"
        headers = {"Idempotency-Key": job.key, **({"Content-Type": "application/json"} if is_raise else {})}
        answer = self._request(
            session, "PUT" if is_raise else "DELETE", path, headers, self._body(job) if is_raise else None
        )
        if answer.status == NOT_FOUND:
            self._gpsis.pop(device, None)
            if not was_known:
                raise _RefusedError("unknown_device", session.shown(answer))
            job.due_s = time.monotonic()  # it may be another one by now
            return
        self._take(session, job, answer)

    def _gpsi_of(self, session: RestSession, device: str) -> str:
        gpsi = self._gpsis.get(device)
        if gpsi is None:
            answer = self._request(
                session, "GET", DEVICES_PATH, query=(("owner", self._config.owner), ("name", device))
            )
            if not answer.is_success:
                raise self._problem(session, answer)
            found = [each.gpsi for each in read_answer(answer, DevicePage).devices if each.name == device]
            if not found:
                raise _RefusedError("unknown_device", f"group '{self._config.owner}' has no device of that name")
            gpsi = self._gpsis[device] = found[0]
        return gpsi

    def _body(self, job: _Job) -> bytes:
        config = self._config
        return msgspec.json.encode(
            {
                "profile": job.request.profile,
                "server_ipv4": config.server_ipv4,
                "server_ports": config.server_ports,
                "duration_s": round(config.duration),
            }
        )

    def _request(
        self,
        session: RestSession,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        *,
        query: Sequence[tuple[str, str]] = (("wait_s", "0"),),
    ) -> Answer:
        """With `wait_s` 0, so that a network that is slow with one device does not hold up the others."""
        self._context.counters.add("requests")
        answer = session.request(method, path, query=query, headers=headers, content=content)
        self._reached = True
        return answer

    def _take(self, session: RestSession, job: _Job, answer: Answer) -> None:
        """Do what an answer to a change means."""
        if refusal_in(answer).operation is not None:
            job.key = _new_key()  # it is over: the same key would give the same answer
        if not answer.is_success:
            raise self._problem(session, answer)
        self._judge(job, read_answer(answer, Operation))

    @staticmethod
    def _problem(session: RestSession, answer: Answer) -> RetryableError | _RefusedError:
        """What an answer that is no success means."""
        text = f"{session.name}: {session.shown(answer)}"
        if answer.status in NO_RIGHT:
            return _WaitError(f"{text}; {session.about_refusal(answer)}", retry_after_s(answer))
        if answer.status in (*RETRIED_STATUSES, CONFLICT):
            return _WaitError(text, retry_after_s(answer))
        reason = refusal_in(answer).network
        return _RefusedError("refused", session.shown(answer) if reason is None else f"the network refuses: {reason}")

    def _follow(self, session: RestSession, job: _Job) -> None:
        """Ask what became of an operation."""
        answer = self._request(session, "GET", f"{OPERATIONS_PATH}/{job.operation}", query=())
        if answer.status == NOT_FOUND:
            job.operation, job.key, job.due_s = "", _new_key(), time.monotonic()
            return
        if not answer.is_success:
            raise self._problem(session, answer)
        self._judge(job, read_answer(answer, Operation))

    def _judge(self, job: _Job, operation: Operation) -> None:
        """Do what the state of an operation means."""
        now_s = time.monotonic()
        if operation.state == "running":
            if not job.operation:
                job.operation, job.followed_until_s, job.follow_s = operation.id, now_s + FOLLOWED_S, FOLLOW_S
            if now_s > job.followed_until_s:
                raise _RefusedError("unclear", f"not done within {FOLLOWED_S:g} s")
            job.due_s = now_s + job.follow_s
            job.follow_s = min(2 * job.follow_s, LONGEST_FOLLOW_S)
        elif operation.state == "failed":
            job.operation, job.key = "", _new_key()
            if operation.reason is None or not operation.reason.passes:
                raise _RefusedError("refused", f"the network refuses: {operation.reason or 'it does not say why'}")
            raise RetryableError(f"'{job.request.device}': {operation.reason}")
        else:
            self._succeeded(job, now_s)
            return
        self._works_again()

    def _succeeded(self, job: _Job, now_s: float) -> None:
        self._context.counters.add("renewed" if job.renews else "sent")
        self._works_again()
        device = job.request.device
        with self._condition:
            is_wanted = (self._renewals if job.renews else self._jobs).get(device) is job
            if job.request.action == "raise" and is_wanted:
                lasts_s = self._config.duration
                self._renewals[device] = _Job(
                    job.request, now_s + lasts_s, now_s + RENEWED_AFTER * lasts_s, renews=True
                )
        self._done_with(job)

    def _works_again(self) -> None:
        failures = self._backoff.succeeded()
        if failures:
            self._context.log.info("the device management answers again after %d failures", failures)

    def _failed(self, job: _Job, text: str, wait_s: float = 0.0) -> None:
        """Try again later."""
        if self._stopping:
            return
        self._context.counters.add("retries")
        if self._backoff.failed():
            self._context.log.warning("%s; %d wait; trying again", text, len(self._jobs))
        job.due_s = time.monotonic() + max(self._backoff.delay_s(), wait_s)

    def _refuse(self, job: _Job, reason: str, text: str) -> None:
        self._works_again()
        self._context.dead_letter(reason, text, encode_message(job.request))
        self._done_with(job)

    def _done_with(self, job: _Job) -> None:
        """Forget a job, unless another one has taken its place."""
        with self._condition:
            for jobs in (self._jobs, self._renewals):
                if jobs.get(job.request.device) is job:
                    del jobs[job.request.device]
            self._condition.notify_all()


def open_sink(config: LinkQosConfig, context: Context) -> LinkQos:
    return LinkQos(config, context)


NODE = SinkNode(
    kind="link_qos",
    config=LinkQosConfig,
    inputs={DEFAULT_PORT: Input(accepts=(LinkQosRequest, Alarm))},
    open=open_sink,
    delays=at_once,
)
