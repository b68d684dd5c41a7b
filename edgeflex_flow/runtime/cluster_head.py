"""Process 0 of a cluster: lets the others in, knows when nothing is on its way, and ends when one of them is gone.

Whether messages are on their way is asked in two waves: what all processes did by the end of the first, and what they
made by the end of the second. If these are equal, then nothing was on its way when the first had ended (Mattern's four
counters); and since only this process takes in messages, nothing is until it takes in more.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import msgspec

from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.cluster import Address, ClusterConfig
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.runtime.cluster_link import (
    MOST_FRAME_BYTES,
    Beat,
    Begin,
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
    ToHead,
    Welcome,
    knows,
    link_from,
    new_challenge,
    shut,
    versions,
    wait_for_own_name,
    welcome_for,
)
from edgeflex_flow.runtime.run import FlowRun, InForce
from edgeflex_flow.runtime.sharding import Counts, InFlight
from edgeflex_flow.runtime.state_folder import NodeState

HELLO_S = 5.0
"""How long a process that connects may take to say who it is."""
MOST_MEETING = 32
"""Connections at a time of which it is not known whose they are."""
STRANGER_S = 60.0
"""How often it is told that somebody has another secret."""
GATHER_LOOK_S = 0.02
LOOK_S = 0.1
"""How often it is looked whether a policy changed something that the others must know."""
WORD_S = 2.0
"""How long a part of this process may take to notice what ends the cluster."""
TELL_S = 10.0
"""How often it is told for whom this process waits."""


class _Member:
    """Another process of the cluster, and what is known of it."""

    def __init__(self, number: int, link: Link[ToHead]) -> None:
        self.number = number
        self.link = link
        self.joined = threading.Event()
        self.left = threading.Event()
        """Nothing more will be heard of it."""
        self.counted: Counted | None = None
        self.states: tuple[NodeState, ...] | None = None
        self.ended = False


class Head:
    """What process 0 does beside the dataflow."""

    def __init__(self, run: FlowRun, cluster: ClusterConfig, in_flight: InFlight) -> None:
        self._run = run
        self._cluster = cluster
        self._in_flight = in_flight
        self._changed = threading.Condition()
        """Held while members change, and told when one did."""
        self._members: dict[int, _Member] = {}
        self._begun = False
        self._meeting = threading.BoundedSemaphore(MOST_MEETING)
        self._stranger_s = 0.0
        self._over = threading.Event()
        self._wave = 0
        self._asking = False
        self._first_done: int | None = None
        """Of all processes, by the end of a first wave; None when none is over."""
        self._own = Counts(0, 0)
        self._quiet_at: int | None = 0
        """What this process had made when nothing was on its way."""
        self._shown: dict[str, InForce] = dict(run.in_force)
        self._resources = ExitStack()

    # Start

    def gather(self) -> None:
        """Let the other processes in, and wait for all. The run fails when they do not come in time."""
        try:
            wait_for_own_name(self._run, self._cluster.address(0), self._cluster.wait)
            listener = _listen(self._cluster.control, "hear the other processes")
            self._resources.callback(shut, listener)
            _refuse_taken(self._cluster.address(0))
        except FatalError as error:
            self._run.fail(error)
            return
        _start(self._let_in, listener, name="let in")
        deadline_s = time.monotonic() + self._cluster.wait
        tell_s = 0.0
        while (missing := self._missing()) and not self._run.stopping:
            now_s = time.monotonic()
            if now_s >= deadline_s:
                text = f"of the cluster {missing} did not come within {self._cluster.wait:g} s"
                self._run.fail(FatalError(text))
            elif now_s >= tell_s:
                tell_s = now_s + TELL_S
                self._run.log.info("waits for %s, at most %.0f s more", missing, deadline_s - now_s)
            self._run.wait_for_stop(GATHER_LOOK_S)

    def _missing(self) -> str:
        numbers = [number for number in range(1, len(self._cluster.processes)) if number not in self._members]
        return ", ".join(f"process {number} ({self._cluster.processes[number]})" for number in numbers)

    def _let_in(self, listener: socket.socket) -> None:
        while not self._over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:  # it is over; or the other side went away, or no descriptors are left
                self._run.log.debug("a process could not be let in: %s", error)
                self._over.wait(LOOK_S)
                continue
            if self._meeting.acquire(blocking=False):
                _start(self._meet, connection, name="meet")
            else:  # strangers: those of the cluster try again
                connection.close()

    def _meet(self, connection: socket.socket) -> None:
        hang_up = threading.Timer(2 * HELLO_S, shut, (connection,))
        hang_up.daemon = True
        hang_up.start()
        try:
            self._hear_out(link_from(connection))
        except OSError:  # it went away at once
            connection.close()
        finally:
            hang_up.cancel()
            self._meeting.release()

    def _hear_out(self, link: Link[ToHead]) -> None:
        try:
            link.silence(HELLO_S)
            challenge = new_challenge()
            link.say(challenge)
            hello = link.hear()
            if not isinstance(hello, Hello):
                raise LinkError("it does not say who it is")
            if not knows(hello.proof, hello.proved(self._cluster.secret, challenge)):
                self._tell_stranger(link.peer)
                link.say(Refused("it has another secret"))
                raise LinkError("it has another secret")
            problem = self._problem(hello)
            if problem is not None:
                self._run.log.warning("process %s is not let in: %s", hello.process, problem)
                link.say(Refused(problem))
                raise LinkError(problem)
            link.most_bytes = MOST_FRAME_BYTES
            link.silence(self._cluster.silence)
            self._take_in(_Member(hello.process, link), welcome_for(hello, self._cluster.secret))
        except LinkError:
            link.close()

    def _tell_stranger(self, address: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._stranger_s:
            self._stranger_s = now_s + STRANGER_S
            self._run.log.warning("%s: has another secret: not let in", address)

    def _problem(self, hello: Hello) -> str | None:
        """Why a process cannot be let in."""
        if not 0 < hello.process < len(self._cluster.processes):
            return f"the cluster has no process {hello.process} to let in"
        mine, theirs = versions(), hello.versions
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                return f"{name} is {theirs.get(name)} there, and {mine.get(name)} at process 0"
        if hello.cluster_digest != self._cluster.digest:
            return "its cluster file says something else than that of process 0"
        if (hello.flow, hello.flow_digest) != (self._run.plan.name, digest_of(self._run.plan)):
            return (
                f"it has flow '{hello.flow}' of digest {hello.flow_digest}, and process 0 has flow "
                f"'{self._run.plan.name}' of digest {digest_of(self._run.plan)}: all need the same files and "
                "parameters, in a folder of the same path"
            )
        return None

    def _take_in(self, member: _Member, welcome: Welcome) -> None:
        with self._changed:
            if self._over.is_set():
                raise LinkError("it is over")
            if self._begun or member.number in self._members:
                what = "the cluster runs already" if self._begun else "it is here already"
                text = f"{what}: two processes have the number {member.number}, or one came back alone"
                self._run.log.warning("process %s is not let in: %s", member.number, text)
                member.link.say(Refused(text))
                raise LinkError(text)
            member.link.say(welcome)
            self._members[member.number] = member
            self._changed.notify_all()
        self._run.log.info("process %s is here", member.number)
        _start(self._listen_to, member, name=f"process {member.number}")
        _start(self._beat, member, name=f"beat {member.number}")

    # While it runs

    def _beat(self, member: _Member) -> None:
        while not self._over.wait(self._cluster.silence / 4):
            try:
                member.link.say(Beat())
            except LinkError:
                return

    def _listen_to(self, member: _Member) -> None:
        try:
            while True:
                self._heard(member, member.link.hear())
        except LinkError as error:
            self._gone(member, error)
        finally:
            member.left.set()

    def _gone(self, member: _Member, error: LinkError) -> None:
        with self._changed:
            if not self._begun:
                if self._members.get(member.number) is member:
                    del self._members[member.number]  # it may come again until all are here
                member.link.close()
                return
        if not (self._over.is_set() or member.ended):
            name = f"process {member.number} ({self._cluster.processes[member.number]})"
            self.lose(f"{name} of the cluster is gone: {error}")

    def lose(self, text: str) -> None:
        """The dataflow cannot go on: end this process and the others at once."""
        with self._changed:
            if self._run.cluster.is_broken or self._over.is_set():
                return
            self._run.abandon(FatalError(text))
            self._changed.notify_all()
        self._tell_all(Farewell(text, at_once=True))

    def _heard(self, member: _Member, what: ToHead) -> None:
        match what:
            case Counted():
                self._counted(member, what)
            case Own(messages):
                self._run.take_over(messages)
            case Stop(error):
                self._asked_to_end(member, error)
            case Ended(summary, states):
                self._run.cluster.counts[member.number] = summary
                with self._changed:
                    member.states, member.ended = states, True
                    self._changed.notify_all()
            case States(states):
                with self._changed:
                    member.states = states
                    self._changed.notify_all()
            case Beat(summary) if summary is not None:
                self._run.cluster.counts[member.number] = summary
            case Joined():
                member.joined.set()
            case _:
                pass

    def _asked_to_end(self, member: _Member, error: str | None) -> None:
        if error is None:
            self._run.log.info("process %s is asked to end: the cluster drains", member.number)
            self._run.stop()
        else:
            self._run.fail(FatalError(f"process {member.number} ({self._cluster.processes[member.number]}): {error}"))
            with self._changed:
                self._changed.notify_all()

    def pass_messages(self, join: Callable[[], None], *, listens: Callable[[], bool]) -> None:
        """Pass messages until the dataflow has ended in all processes. Raises FatalError when one of them is gone.

        `join` is this process's part in it; `listens` tells whether it waits there for the others.
        """
        broke: list[FatalError] = []
        over = threading.Event()

        def work() -> None:
            try:
                join()
            except FatalError as error:
                broke.append(error)
            over.set()
            with self._changed:
                self._changed.notify_all()

        worker = threading.Thread(target=work, name="dataflow", daemon=True)
        with self._changed:
            missing = self._missing()
            self._begun = True
        if missing:
            self.lose(f"of the cluster {missing} went away before it began")
            self._run.raise_failure()
        worker.start()
        self._begin(lambda: listens() or over.is_set())
        with self._changed:
            self._changed.wait_for(lambda: self._run.cluster.is_broken or broke or (over.is_set() and self._all_ended))
            if broke:  # who is to blame tells why better than bytewax does
                self._changed.wait_for(lambda: self._run.failure is not None, WORD_S)
        if broke:
            self.lose(str(broke[0]))
        if self._run.cluster.is_broken:
            worker.join(WORD_S)  # so that it reads no source and writes to no sink while these are closed
            self._run.raise_failure()

    @property
    def _all_ended(self) -> bool:
        return all(each.ended for each in self._members.values())

    def _begin(self, listens: Callable[[], bool]) -> None:
        """Have the others join the dataflow one after the other, since each connects to those with lower numbers."""
        recovery = self._run.recovery
        begin = Begin(None if recovery is None else recovery.found)
        if recovery is not None:
            recovery.elsewhere = self._states
        _wait_until(lambda: listens() or self._run.cluster.is_broken, self._cluster.wait)
        for member in self._in_order:
            try:
                member.link.say(begin)
            except LinkError as error:
                self._gone(member, error)
                return
            _wait_until(lambda: member.joined.is_set() or self._run.cluster.is_broken, self._cluster.wait)  # noqa: B023
            if not member.joined.is_set():
                self.lose(f"process {member.number} did not join the dataflow within {self._cluster.wait:g} s")
            if self._run.cluster.is_broken:
                return
        _start(self._look, name="in force")

    @property
    def _in_order(self) -> list[_Member]:
        with self._changed:
            return [self._members[number] for number in sorted(self._members)]

    def _look(self) -> None:
        """Tell the others what policies change."""
        while not self._over.wait(LOOK_S):
            for node, now in list(self._run.in_force.items()):
                if now is not self._shown[node]:
                    self._shown[node] = now
                    config = msgspec.msgpack.encode(now.config, enc_hook=str)  # a secret is a text of its own class
                    self._tell_all(InForceNow(node, config, dict(now.policies)))

    def _tell_all(self, what: Any) -> None:
        for member in self._in_order:
            with suppress(LinkError):  # whoever listens to it hears that, too
                member.link.say(what)

    # What is on its way

    def is_busy(self) -> bool:
        """Whether something may be on its way in any process. Asks, and wakes the run when it knows better."""
        with self._changed:
            own = self._in_flight.counts
            if own.made == self._quiet_at:
                return False
            if not self._asking:
                self._ask(own)
        return True

    def _ask(self, own: Counts) -> None:
        self._wave += 1
        self._asking = True
        self._own = own
        self._tell_all(Count(self._wave))

    def _counted(self, member: _Member, counted: Counted) -> None:
        with self._changed:
            member.counted = counted
            members = list(self._members.values())
            if any(each.counted is None or each.counted.number != self._wave for each in members):
                return
            counts = [each.counted for each in members if each.counted is not None]
            done = self._own.done + sum(each.done for each in counts)
            made = self._own.made + sum(each.made for each in counts)
            if self._first_done is None:
                self._first_done = done
                self._ask(self._in_flight.counts)
                return
            is_quiet = self._first_done == made
            self._first_done = None
            self._asking = False
            if is_quiet:
                self._quiet_at = self._own.made
                self._run.wakeup.wake()

    def _states(self) -> tuple[NodeState, ...]:
        """The states of the others. Nothing may be on its way."""
        if any(member.ended for member in self._members.values()):
            return tuple(state for member in self._in_order for state in member.states or ())
        with self._changed:
            for member in self._members.values():
                member.states = None
            self._tell_all(Save())
            self._changed.wait_for(
                lambda: self._run.cluster.is_broken or all(each.states is not None for each in self._members.values())
            )
            if self._run.cluster.is_broken:
                raise FatalError("the states of the other processes are lost")
            return tuple(state for member in self._in_order for state in member.states or ())

    # End

    def close(self) -> None:
        """Let the others go, each with the word how it ended."""
        failure = self._run.failure
        with self._changed:
            self._over.set()
        if not self._run.cluster.is_broken:
            self._tell_all(Farewell(None if failure is None else str(failure)))
        self._resources.close()
        for member in self._in_order:
            member.left.wait(WORD_S)  # what is closed before it was heard is thrown away
            member.link.close()


def _start(call: Callable[..., None], *arguments: object, name: str) -> None:
    threading.Thread(target=call, args=arguments, name=f"cluster: {name}", daemon=True).start()


def _wait_until(happened: Callable[[], bool], most_s: float) -> None:
    deadline_s = time.monotonic() + most_s
    while not happened() and time.monotonic() < deadline_s:
        time.sleep(0.002)


def _listen(address: Address, why: str) -> socket.socket:
    """Raises FatalError."""
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise FatalError(f"process 0 cannot listen on {address} to {why}: {error.strerror or error}") from error


def _refuse_taken(address: Address) -> None:
    """Else bytewax tells it by a panic."""
    _listen(address, "pass messages").close()
