"""The process of one flow, as the supervisor has it run: prepared, open, standing by, open again."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.revision import Call
from edgeflex_flow.runtime.every import every
from edgeflex_flow.runtime.lifecycle import stop_on_signals, warm_up_plan
from edgeflex_flow.runtime.recovery import keep_state
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.showing import Showing
from edgeflex_flow.runtime.state_folder import StateUse
from edgeflex_flow.runtime.vitals import vitals_of
from edgeflex_flow.sockets import SocketStore
from edgeflex_flow.supervisor.channel import (
    Ask,
    Beat,
    Channel,
    Order,
    Prepared,
    Reach,
    Running,
    StandingBy,
    Tried,
    Watch,
)
from edgeflex_flow.supervisor.looks import Looks

BEAT_S = 1.0
END_S = 30
"""Once the supervisor has closed the channel or was killed. By then SIGALRM ends the process: no flow may run without a
supervisor, beside that which the next one starts."""

RunFlow: TypeAlias = Callable[[FlowRun], dict[str, int]]
"""Runs a flow to its end; what went wrong, with its exit code."""
TryCalls: TypeAlias = Callable[[Plan, Collection[Call]], Sequence[str]]
"""Tries connections and nodes of a flow; why some do not reach what they call."""


class Member:
    """Obeys the supervisor until that closes the channel."""

    def __init__(
        self, plan: Plan, channel: Channel, sockets: SocketStore, run_flow: RunFlow, try_calls: TryCalls
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._sockets = sockets
        self._run_flow = run_flow
        self._try_calls = try_calls
        self._orders: queue.SimpleQueue[Order | Reach | None] = queue.SimpleQueue()
        self._run: FlowRun | None = None
        self._ended = threading.Event()
        self._looks = Looks(channel.tell)

    def serve(self) -> int:
        """The exit code of the last run."""
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()
        warm_up_plan(self._plan, self._ended.is_set)
        self._channel.tell(Prepared())
        code = 0
        while (order := self._orders.get()) is not None:
            if isinstance(order, Reach):
                self._channel.tell(Tried(tuple(self._try_calls(self._plan, order.calls))))
            elif order.do == "open":
                self._sockets.receive(order.sockets)
                code = self._one_run(order.state)
        return code

    def _listen(self) -> None:
        try:
            for order in self._channel.orders():
                if isinstance(order, Watch | Ask):
                    self._looks.obey(order)
                    continue
                if isinstance(order, Order) and order.do == "stand_by" and self._run is not None:
                    self._run.stop()
                self._orders.put(order)
        finally:  # whatever ended it: nobody is heard any more
            signal.alarm(END_S)
            self._ended.set()
            if self._run is not None:
                self._run.stop()
            self._orders.put(None)

    def _one_run(self, state: StateUse) -> int:
        run = FlowRun(self._plan, sockets=self._sockets)
        keep_state(run, state)
        self._run = run
        if self._ended.is_set():
            return 0
        told = threading.Thread(target=self._tell_when_running, args=(run,), name="tell running", daemon=True)
        with (
            stop_on_signals(run, on_signal=lambda: self._leave(run)),
            self._looks.at(run) as showing,
            self._beats(run, showing),
        ):
            told.start()
            errors = self._run_flow(run)
        self._run = None
        code = next(iter(errors.values()), 0)
        self._channel.tell(StandingBy(code, "; ".join(errors) or None))
        return code

    def _leave(self, run: FlowRun) -> None:
        """A signal to this process alone ends it."""
        self._ended.set()
        run.stop()
        self._orders.put(None)

    def _tell_when_running(self, run: FlowRun) -> None:
        while not run.stopping:
            if run.started.wait(BEAT_S):
                self._sockets.drop_rest()
                self._channel.tell(Running())
                return

    def _beats(self, run: FlowRun, showing: Showing) -> AbstractContextManager[None]:
        def beat() -> None:
            self._channel.tell(Beat(vitals_of(run)))
            showing.look()

        return every(BEAT_S, beat, "beat")
