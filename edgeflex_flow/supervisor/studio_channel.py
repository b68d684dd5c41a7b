"""What the supervisor and the studio say to each other, one JSON object a line over a pair of sockets."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from edgeflex_flow.flowfile.picture import Picture
from edgeflex_flow.monitor.status import SiteStatus
from edgeflex_flow.runtime.letters import LetterHead
from edgeflex_flow.runtime.showing import Bound, Happened, SeenMessages, SeenRows


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the studio listens; paths are absolute."""

    host: str
    port: int
    users: str | None
    base_path: str
    proxies: tuple[str, ...]
    certificate: str | None
    key: str | None


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Comes first."""

    site: str
    settings: Settings


class Status(msgspec.Struct, frozen=True, tag="status"):
    """How the site is, each second."""

    status: SiteStatus


class Drawn(msgspec.Struct, frozen=True, tag="drawn"):
    """The picture of a flow, when another version of it runs."""

    digest: str
    picture: Picture


class FlowEvents(msgspec.Struct, frozen=True, tag="events"):
    """What happened in a flow, oldest first."""

    flow: str
    events: tuple[Happened, ...]


class FlowLetters(msgspec.Struct, frozen=True, tag="letters"):
    """New dead letters of a flow, oldest first."""

    flow: str
    letters: tuple[LetterHead, ...]


class FlowSeen(msgspec.Struct, frozen=True, tag="seen"):
    """What was seen on wires of a flow that are watched."""

    flow: str
    seen: tuple[SeenRows | SeenMessages, ...]


class FlowBound(msgspec.Struct, frozen=True, tag="bound"):
    """All settings of a flow that are bound to policies, as they are now."""

    flow: str
    bound: tuple[Bound, ...]


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """What came of a wish, or of what was asked."""

    request: int
    is_done: bool
    text: str
    payload: bytes = b""


ToStudio: TypeAlias = Begin | Status | Drawn | FlowEvents | FlowLetters | FlowSeen | FlowBound | Answered


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """The studio listens."""

    url: str


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """The studio is well, each second."""


class Watching(msgspec.Struct, frozen=True, tag="watching"):
    """By flow, the nodes of which somebody looks at what they give: all of them."""

    nodes: dict[str, tuple[str, ...]]


class Wish(msgspec.Struct, frozen=True, tag="wish"):
    """Somebody who may operate wants a flow started anew, stopped or started."""

    request: int
    do: Literal["restart", "stop", "start"]
    flow: str
    who: str


class AskLetter(msgspec.Struct, frozen=True, tag="ask_letter"):
    """Somebody wants the payload of a dead letter, or to have it given once more."""

    request: int
    do: Literal["payload", "replay"]
    flow: str
    letter: int
    who: str


FromStudio: TypeAlias = Serving | Alive | Watching | Wish | AskLetter
