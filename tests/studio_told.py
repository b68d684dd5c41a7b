"""A real studio process, told by a test how a site is: what a real site comes to seldom, or late."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec
from broker import wait_until
from studio_site import OPERATOR, PASSWORD, READER

from edgeflex_flow.flowfile.picture import Picture, PictureNode, PictureWire
from edgeflex_flow.monitor.status import FlowStatus, SiteStatus
from edgeflex_flow.passwords import Passwords
from edgeflex_flow.runtime.latency import BOUNDS_S
from edgeflex_flow.runtime.letters import LetterHead
from edgeflex_flow.runtime.vitals import PathVitals, Vitals
from edgeflex_flow.studio.users import User, write_users
from edgeflex_flow.supervisor.studio_channel import (
    Answered,
    AskLetter,
    Begin,
    Drawn,
    FlowLetters,
    FromStudio,
    Serving,
    Settings,
    Status,
    ToStudio,
    Wish,
)

TELL_S = 0.25
NODES = ("meter", "limits", "log")
DATABUS = "databus (mqtt), mqtt://127.0.0.1:1884"
"""What the sink is connected to."""
SECOND_NS = 1_000_000_000


def told_flow(name: str = "meters", **other: Any) -> FlowStatus:
    """A flow that runs, with two wires; `other`: what is otherwise."""
    now_ns = time.time_ns()
    plain: dict[str, Any] = {
        "file": f"/sites/{name}.yaml",
        "word": "running",
        "why": "",
        "since_ns": now_ns - 60 * SECOND_NS,
        "restarts": 0,
        "digest": "0123456789abcdef",
        "moves": (),
        "pid": os.getpid(),
        "vitals": told_vitals(name),
    }
    return FlowStatus(name=name, **{**plain, **other})


def told_vitals(flow: str = "meters", **other: Any) -> Vitals:
    took = (7,) + (0,) * len(BOUNDS_S)
    plain: dict[str, Any] = {
        "phase": "running",
        "time_ns": time.time_ns(),
        "monotonic_s": time.monotonic(),
        "turn_age_s": 0.0,
        "memory_bytes": 90 * 2**20,
        "cpu_s": 1.0,
        "nodes": {node: {"messages_out": 7} for node in NODES},
        "wires": {f"{a} -> {b}.in": {"messages": 7} for a, b in itertools.pairwise(NODES)},
        "paths": (PathVitals(source="meter", sink="log", took=took, took_sum_s=0.1, age=took, age_sum_s=0.1),),
    }
    return Vitals(flow=flow, **{**plain, **other})


def told_letter(number: int, **other: Any) -> LetterHead:
    """A letter of the run; `other`: what is otherwise."""
    plain: dict[str, Any] = {
        "node": "limits",
        "reason": "bad_payload",
        "text": f"letter {number}",
        "time_ns": time.time_ns(),
        "count": 1,
        "payload_bytes": 12,
        "can_replay": True,
    }
    return LetterHead(id=time.time_ns() // 1_000_000 + number, **{**plain, **other})


def _picture(flow: str) -> Picture:
    nodes = [
        PictureNode(
            id=name,
            kind=f"{name}_kind",
            words="",
            role=role,
            x=24.0 + 330 * at,
            y=24.0,
            width=132.0,
            height=60.0,
            gives=("alarm",),
            settings=(),
            connections={"broker": DATABUS} if role == "sink" else {},
            manual="A node.",
            line=3 + at,
        )
        for at, (name, role) in enumerate(zip(NODES, ("source", "operator", "sink"), strict=True))
    ]
    wires = [
        PictureWire(
            id=f"{a.id} -> {b.id}.in",
            source=a.id,
            reader=b.id,
            port="",
            path=f"M{a.x + a.width} 54H{b.x}",
            x=b.x - 140,
            y=54.0,
        )
        for a, b in itertools.pairwise(nodes)
    ]
    file = f"/sites/{flow}.yaml"
    return Picture(flow=flow, about="", file=file, width=850.0, height=108.0, nodes=tuple(nodes), wires=tuple(wires))


class ToldStudio:
    """A studio whose supervisor is the test. `flows`: as they are now, told all the time."""

    def __init__(self, folder: Path, *flows: FlowStatus) -> None:
        self.flows = flows
        self.answers: Callable[[Wish | AskLetter], Answered] = lambda asked: Answered(asked.request, True, "done")
        self.url = ""
        self._drawn: set[str] = set()
        self._ending = threading.Event()
        self._users = folder / "users.json"
        known = Passwords().hash(PASSWORD)
        write_users(self._users, {READER: User(known), OPERATOR: User(known, operate=True)})

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "edgeflex_flow.studio", "info", "text", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        settings = Settings(
            host="127.0.0.1", port=0, users=str(self._users), base_path="", proxies=(), certificate=None, key=None
        )
        self._lock = threading.Lock()
        self._say(Begin("yard", settings))
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._tell)]
        for each in self._threads:
            each.start()
        wait_until(lambda: bool(self.url), 30.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._ours.shutdown(socket.SHUT_RDWR)
        self._process.wait(20.0)
        for each in self._threads:
            each.join()
        self._ours.close()

    def letters(self, flow: str, *heads: LetterHead) -> None:
        self._say(FlowLetters(flow, heads))

    def _say(self, told: ToStudio) -> None:
        with self._lock:
            self._ours.sendall(msgspec.json.encode(told) + b"\n")

    def _listen(self) -> None:
        with self._ours.makefile("rb") as lines:
            for line in lines:
                told: Serving | Wish | AskLetter | object = msgspec.json.decode(line, type=FromStudio)
                if isinstance(told, Serving):
                    self.url = told.url
                elif isinstance(told, Wish | AskLetter):
                    self._say(self.answers(told))

    def _tell(self) -> None:
        began_ns = time.time_ns()
        while not self._ending.wait(TELL_S):
            flows = self.flows
            self._drawn &= {flow.name for flow in flows}
            try:
                for flow in flows:
                    if flow.name not in self._drawn:
                        self._drawn.add(flow.name)
                        self._say(Drawn(flow.digest, _picture(flow.name)))
                status = SiteStatus(
                    site="yard",
                    file="/sites/yard.yaml",
                    version="1",
                    started_ns=began_ns,
                    time_ns=time.time_ns(),
                    problem="",
                    flows=flows,
                )
                self._say(Status(status))
            except OSError:
                return
