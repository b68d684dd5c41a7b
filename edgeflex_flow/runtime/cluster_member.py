"""Processes 1 and up of a cluster: come to process 0, work on their share of the devices, and end when it says so."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.cluster import ClusterConfig
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.runtime.cluster_head import TELL_S
from edgeflex_flow.runtime.cluster_link import (
    MOST_FRAME_BYTES,
    NONCE_BYTES,
    Beat,
    Begin,
    ByHead,
    Challenge,
    Count,
    Counted,
    Ended,
    Farewell,
    Hello,
    InForceNow,
    Joined,
    Link,
    LinkError,
    Own,
    Refused,
    Save,
    States,
    Stop,
    Welcome,
    knows,
    link_to_head,
    versions,
    wait_for_own_name,
    welcome_for,
)
from edgeflex_flow.runtime.recovery import HeldStates
from edgeflex_flow.runtime.run import FlowRun, InForce
from edgeflex_flow.runtime.sharding import InFlight
from edgeflex_flow.runtime.state_folder import NodeState

AGAIN_S = 0.1
"""How long to wait before process 0 is tried again."""
LOOK_S = 0.2
JOIN_LOOK_S = 0.002
WORD_S = 2.0
"""How long to wait for what process 0 says about why the dataflow broke."""

PassMessages = Callable[[], None]
"""Joins the dataflow, and returns once it has ended everywhere. Raises FatalError when it broke."""


class Member:
    """One process of a cluster that is not the first."""

    def __init__(self, run: FlowRun, cluster: ClusterConfig, number: int, in_flight: InFlight) -> None:
        self._run = run
        self._cluster = cluster
        self._number = number
        self._in_flight = in_flight
        self._head = f"process 0 ({cluster.control})"
        self._heard: queue.SimpleQueue[ByHead | LinkError] = queue.SimpleQueue()
        self._over = threading.Event()
        self._is_over = self._has_begun = self._is_done = False
        self._broke: FatalError | None = None
        self._broke_s: float | None = None
        self._told_stop = self._told_joined = self._told_end = False

    def serve(self, pass_messages: PassMessages, *, listens: Callable[[], bool]) -> None:
        """Be a part of the cluster until it ends. Raises FatalError when it could not start or go on."""
        wait_for_own_name(self._run, self._cluster.address(self._number), self._cluster.wait)
        link = self._come()
        if link is None:
            self._run.log.info("stopped before it began")
            return
        try:
            threading.Thread(target=self._listen, args=(link,), name="cluster: process 0", daemon=True).start()
            self._obey(link, pass_messages, listens)
        finally:
            self._over.set()
            link.close()

    # Start

    def _come(self) -> Link[ByHead] | None:
        """Connect to process 0, as soon as it is there; None when asked to end before. Raises FatalError."""
        deadline_s = time.monotonic() + self._cluster.wait
        tell_s = 0.0
        while not self._run.stopping:
            try:
                return self._meet()
            except (OSError, LinkError) as error:
                why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            now_s = time.monotonic()
            if now_s >= deadline_s:
                raise FatalError(f"{self._head} of the cluster was not there within {self._cluster.wait:g} s: {why}")
            if now_s >= tell_s:
                tell_s = now_s + TELL_S
                self._run.log.info("waits for %s, at most %.0f s more: %s", self._head, deadline_s - now_s, why)
            self._run.wait_for_stop(AGAIN_S)
        return None

    def _meet(self) -> Link[ByHead]:
        """Raises OSError and LinkError when it is to be tried again, FatalError when process 0 wants us not."""
        link = link_to_head(socket.create_connection(self._cluster.control, self._cluster.silence))
        try:
            challenge = link.hear()
            if not isinstance(challenge, Challenge):
                raise LinkError("it does not speak as process 0")
            hello = self._hello(challenge)
            link.say(hello)
            answer = link.hear()
            if isinstance(answer, Refused):
                raise FatalError(f"{self._head} does not let process {self._number} in: {answer.text}")
            if not isinstance(answer, Welcome) or not knows(
                answer.proof, welcome_for(hello, self._cluster.secret).proof
            ):
                raise LinkError("it does not know the secret of the cluster")
        except BaseException:
            link.close()
            raise
        link.most_bytes = MOST_FRAME_BYTES
        self._run.log.info("process %s is in the cluster", self._number)
        return link

    def _hello(self, challenge: Challenge) -> Hello:
        hello = Hello(
            process=self._number,
            nonce=os.urandom(NONCE_BYTES),
            flow=self._run.plan.name,
            flow_digest=digest_of(self._run.plan),
            cluster_digest=self._cluster.digest,
            versions=versions(),
        )
        return msgspec.structs.replace(hello, proof=hello.proved(self._cluster.secret, challenge))

    # While it runs

    def _listen(self, link: Link[ByHead]) -> None:
        while not self._over.is_set():
            try:
                heard: ByHead | LinkError = link.hear()
            except LinkError as error:
                heard = error
            self._heard.put(heard)
            self._run.wakeup.wake()
            if isinstance(heard, LinkError):
                return

    def _obey(self, link: Link[ByHead], pass_messages: PassMessages, listens: Callable[[], bool]) -> None:
        """Raises FatalError with what ends the cluster, if it does not end in order."""
        poller = select.poll()
        poller.register(self._run.wakeup.fileno(), select.POLLIN)
        period_s = min(LOOK_S, self._cluster.silence / 4)
        beat_s = 0.0
        while not self._is_over:
            poller.poll(1e3 * (JOIN_LOOK_S if self._has_begun and not self._told_joined else period_s))
            self._run.wakeup.drain()
            self._do_all(link, pass_messages)
            with suppress(LinkError):  # why it is gone is heard, after all that it said before
                self._tell(link, listens)
                if time.monotonic() >= beat_s:
                    beat_s = time.monotonic() + period_s
                    link.say(Beat(self._run.summary()))

    def _do_all(self, link: Link[ByHead], pass_messages: PassMessages) -> None:
        while not self._is_over and not self._heard.empty():
            match self._heard.get():
                case Begin(states):
                    self._begin(states, pass_messages)
                case Farewell() as farewell:
                    self._leave(farewell)
                case LinkError() as error:
                    raise self._abandoned(f"{self._head} of the cluster is gone: {error}")
                case Count(number):
                    counts = self._in_flight.counts  # first: what these have told must be on its way before them
                    with suppress(LinkError):
                        self._tell_own(link)
                        link.say(Counted(number, counts.made, counts.done))
                case Save():
                    with suppress(LinkError):
                        link.say(States(self._states()))
                case InForceNow(node, config, policies):
                    kind = type(self._run.in_force[node].config)
                    self._run.in_force[node] = InForce(msgspec.msgpack.decode(config, type=kind), policies)
                case _:
                    pass

    def _states(self) -> tuple[NodeState, ...]:
        held = self._run.held_states
        return () if held is None else held.states()

    def _abandoned(self, text: str) -> FatalError:
        error = FatalError(text)
        self._run.abandon(error)
        return error

    def _leave(self, farewell: Farewell) -> None:
        """Raises FatalError when the cluster ends with one."""
        self._is_over = True
        if farewell.at_once:
            raise self._abandoned(f"the cluster ends: {farewell.error}")
        if farewell.error is not None:
            self._run.raise_failure()
            raise FatalError(f"the cluster ends: {farewell.error}")

    def _begin(self, states: tuple[NodeState, ...] | None, pass_messages: PassMessages) -> None:
        if states is not None:
            held = HeldStates(self._run)
            held.give(states)
            self._run.cluster.held = held

        def work() -> None:
            try:
                pass_messages()
            except FatalError as error:
                self._broke = error
            self._is_done = True
            self._run.wakeup.wake()

        threading.Thread(target=work, name="dataflow", daemon=True).start()
        self._has_begun = True
        self._run.started.set()
        text = "flow '%s' runs as process %d of %d"
        self._run.log.info(text, self._run.plan.name, self._number, len(self._cluster.processes))

    def _tell(self, link: Link[ByHead], listens: Callable[[], bool]) -> None:
        """What process 0 does not know yet."""
        self._tell_own(link)
        if self._run.stopping and not self._told_stop:
            self._told_stop = True
            failure = self._run.failure
            link.say(Stop(None if failure is None else str(failure)))
        if not self._has_begun:
            return
        # The last process waits for nobody.
        is_last = self._number == len(self._cluster.processes) - 1
        if not self._told_joined and (is_last or self._is_done or listens()):
            self._told_joined = True
            link.say(Joined())
        if not self._is_done or self._told_end:
            return
        if self._broke is None:
            self._told_end = True
            link.say(Ended(self._run.summary(), self._states()))
        elif self._broke_s is None:
            self._broke_s = time.monotonic()  # process 0 may know why
        elif time.monotonic() >= self._broke_s + WORD_S:
            raise self._abandoned(str(self._broke))

    def _tell_own(self, link: Link[ByHead]) -> None:
        messages: Any = [message for _, message in self._run.take_own_messages()]
        if messages:
            link.say(Own(messages))
