"""Settings that a flow or site file binds to a policy: which may be, and what their limits may say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from edgeflex_flow.flowfile.fields import ConfigField, Hint
from edgeflex_flow.policy import WILDCARD, Texts, is_allowed

NUMBER_KEYS = ("policy", "field", "default", "min", "max")
TEXT_KEYS = ("policy", "field", "default", "allowed")

Bindable: TypeAlias = Literal["settings", "url", "nothing", "nothing of a sink", "nothing of the policy system"]
"""What may be bound in a mapping: settings of a node, of a connection its `url` alone."""

_REASONS: dict[Bindable, str] = {
    "nothing": "it is no setting of a node",
    "nothing of a sink": "sinks take no new values while the flow runs",
    "nothing of the policy system": "by this it is known where policies come from",
    "url": "of a connection only `url` can be",
}
_URL = re.compile(r"(?P<scheme>[^:/]*)://(?P<host>[^/:]*)(?::(?P<port>[^/]*))?(?P<path>/.*)?")


def not_bindable(bindable: Bindable, field: ConfigField) -> str | None:
    """Why a setting cannot be bound to a policy; None if it can."""
    if bindable == "settings" or (bindable == "url" and field.key == "url" and field.hint.noted("url")):
        return None
    return f"'{field.key}' cannot be bound to a policy: {_REASONS[bindable]}"


def pattern_problem(pattern: str, hint: Hint) -> str | None:
    """What is wrong with a pattern of what a policy may say; None if nothing is.

    >>> from edgeflex_flow.flowfile.fields import read_hint
    >>> from edgeflex_flow.node import url
    >>> from typing import Annotated
    >>> pattern_problem("https://*/api", read_hint(Annotated[str, url("", {"https": 443})]))
    'a `*` cannot stand for a whole host'
    >>> pattern_problem("https://*.com/api", read_hint(Annotated[str, url("", {"https": 443})]))
    'a `*` cannot stand in the last two parts of a host: anybody can have one of these names'
    """
    if WILDCARD * 2 in pattern:
        return "one `*` is enough"
    if not hint.noted("url"):
        return None
    parts = _URL.fullmatch(pattern)
    if parts is None or "@" in pattern:
        return "an url has the form https://host:port/path, without a user"
    if WILDCARD in parts["scheme"] or WILDCARD in (parts["port"] or ""):
        return "a `*` stands in the host or the path of an url"
    return _host_problem(parts["host"])


def _host_problem(host: str) -> str | None:
    if host.strip(f"{WILDCARD}.") == "":
        return "a `*` cannot stand for a whole host"
    labels = host.rstrip(".").split(".")
    if len(labels) > 1 and any(WILDCARD in label for label in labels[-2:]):
        return "a `*` cannot stand in the last two parts of a host: anybody can have one of these names"
    return None


def default_problem(default: Texts, allowed: Sequence[str]) -> str | None:
    """Which text of a default is not among what is allowed; None if all are."""
    texts = default if isinstance(default, tuple) else (default,)
    return next((each for each in texts if not is_allowed(each, allowed)), None)
