"""What only one node may have: a UDP port, a file it writes, which none may read either.

Fields say so by `udp_port`, `path(written=True)` and `path`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeflex_flow.flowfile.document import Value
from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.flowfile.report import FileReport, got, line_words
from edgeflex_flow.flowfile.secrecy import Place
from edgeflex_flow.flowfile.wiring import Draft
from edgeflex_flow.node import NodeConfig

_WORDS = {"udp_port": "the UDP port", "file": "the file"}


@dataclass(frozen=True, slots=True)
class _Claim:
    """One thing that a node takes for itself."""

    what: str
    thing: int | str
    host: str
    """Address on which a port is taken; empty for files."""
    node: str
    file: str
    place: Place
    reads: bool = False
    """Whether a file is only read, which any number of nodes may do."""
    parts: str = ""
    """Ending with which a file is written in parts, `day-0001.npz` for `day.npz`; empty when it is not."""

    def excludes(self, other: _Claim) -> bool:
        if self.what != other.what or (self.reads and other.reads):
            return False
        if self.what == "file":
            return self.thing == other.thing or self._is_part_of(other) or other._is_part_of(self)
        return self.thing == other.thing and _overlap(self.host, other.host)

    def _is_part_of(self, other: _Claim) -> bool:
        stem, ending = os.path.splitext(str(other.thing))
        if not ending or ending != other.parts:
            return False
        return re.fullmatch(rf"{re.escape(stem)}-\d{{4,}}{re.escape(ending)}", str(self.thing)) is not None

    def refused_for(self, first: _Claim) -> str:
        """What to say of a claim that another one, which came first, excludes."""
        where = line_words(first.place, first.file, seen_from=self.file)
        if self.reads:
            return f"{_WORDS[self.what]} is written by node '{first.node}' ({where}), so it cannot be read"
        if first.reads:
            return f"{_WORDS[self.what]} is read by node '{first.node}' ({where}), so it cannot be written"
        return f"{_WORDS[self.what]} is taken by node '{first.node}' already ({where})"


class Claims:
    """What the nodes of all files that are checked together take for themselves."""

    def __init__(self) -> None:
        self._taken: list[_Claim] = []

    def take(self, draft: Draft, folder: Path, report: FileReport) -> None:
        """Report what another node has taken already; also of a node in which other fields are wrong."""
        for claim, value in _claims(draft, folder, report.file):
            first = next((each for each in self._taken if claim.excludes(each)), None)
            if first is None:
                self._taken.append(claim)
                continue
            shown = None if value is None else got(value)
            report.problem(claim.place, claim.refused_for(first), node=draft.id, got=shown)


def _claims(draft: Draft, folder: Path, file: str) -> Iterator[tuple[_Claim, Value | None]]:
    if draft.node is None:
        return
    settled = draft.decoded.settled
    config: type[NodeConfig] = draft.node.config
    for field in config_fields(config):
        reads = bool(field.hint.noted("path")) and not field.hint.noted("claims")
        what, thing = "file" if reads else field.hint.noted("claims"), settled.get(field.name)
        host = settled.get(field.hint.noted("group") or "") or settled.get(field.hint.noted("host") or "", "")
        if what not in _WORDS or not thing or (what == "udp_port" and not host):
            continue
        value = draft.decoded.written.get(field.key)
        place = draft.place if value is None else value.place
        named = real_path(folder, thing) if what == "file" else thing
        parts = field.hint.noted("parts") or ""
        yield _Claim(what, named, host, draft.id, file, place, reads, parts), value


def real_path(folder: Path, path: str) -> str:
    """The one path of a file that has several."""
    try:
        return os.path.realpath(folder / Path(path).expanduser())
    except (OSError, ValueError, RuntimeError):  # a NUL in it, no home folder: its node tells of that
        return path


def _overlap(one: str, other: str) -> bool:
    """Whether a datagram may go to both addresses. Names are not looked up: nothing is asked of the network.

    >>> _overlap("0.0.0.0", "10.0.0.1"), _overlap("10.0.0.1", "10.0.0.2"), _overlap("::", "10.0.0.1")
    (True, False, True)
    """
    first, second = _address(one), _address(other)
    if first == second:
        return True
    if isinstance(first, str) or isinstance(second, str):
        return any(not isinstance(each, str) and each.is_unspecified for each in (first, second))
    if first.version != second.version:
        return any(each.version == 6 and each.is_unspecified for each in (first, second))
    return first.is_unspecified or second.is_unspecified


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    try:
        return ipaddress.ip_address("127.0.0.1" if host.casefold() == "localhost" else host)
    except ValueError:
        return host.casefold()
