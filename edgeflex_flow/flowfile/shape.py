"""The shape of flow and site files: which keys stand at the top, and of what sort their values are."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.document import Repeated, Value
from edgeflex_flow.flowfile.report import FileReport, got, shown
from edgeflex_flow.flowfile.secrecy import Place

FLOW_KEYS = {
    "flow": "Name of the flow: lower case letters, digits and '_'.",
    "about": "One sentence for people.",
    "params": "Names and default values that `${name}` stands for; a param without a value must be given.",
    "labels": "Free names and texts for people and programs that list flows.",
    "limits": "What the flow may use and how long it may take before `edgeflex up` steps in.",
    "nodes": "The nodes by id.",
    "budgets": "How long messages may take from a source to a sink.",
}
SITE_KEYS = {
    "site": "Name of the site: lower case letters, digits and '_'.",
    "flows": "Names of the flows that run here.",
    "labels": "Free names and texts by which sites, and with them their flows, are chosen.",
    "state": "Where flows keep what they hold from one run to the next; without it each run begins anew.",
    "monitor": "Where `edgeflex up` tells metrics and health; without it, nowhere.",
    "limits": "What each flow may use and how long it may take before `edgeflex up` steps in; its own go first.",
    "studio": "The page on which people see the site live.",
    "connections": "Brokers, stores and policy systems by the name that flows use.",
    "params": "Values of params that are the same for all flows of the site.",
}
NAME = re.compile(r"[a-z0-9_]+")
NAME_WORDS = "lower case letters, digits and '_'"


class Shape:
    """Reads the top level of one file and reports what is wrong in it."""

    def __init__(self, root: Value, keys: Mapping[str, str], report: FileReport) -> None:
        self._report = report
        entries = root.mapping()
        if entries is None:
            first = next(iter(keys))
            report.problem(root.place, f"the file is a mapping that starts with '{first}: NAME'", got=got(root))
        self._entries = entries or {}
        self._is_mapping = entries is not None
        self._place = root.place
        for key in self._entries:
            if key not in keys:
                report.problem(root.keys[key], f"unknown key '{key}'", known=tuple(keys), nearest=nearest(key, keys))

    def get(self, key: str) -> Value | None:
        """The value under a key; None when the key is absent or stands without a value."""
        value = self._entries.get(key)
        return None if value is None or value.data is None else value

    def name(self, key: str) -> str:
        """The name of the flow or site; empty after reporting that there is none."""
        value = self._entries.get(key)
        if value is None:
            if self._is_mapping:
                self._report.problem(self._place, f"'{key}' is missing: the name of the {key}")
            return ""
        if isinstance(value.data, str) and NAME.fullmatch(value.data):
            return value.data
        self._report.problem(value.place, f"'{key}' needs a name: {NAME_WORDS}", got=got(value))
        return ""

    def text(self, key: str) -> str:
        value = self.get(key)
        if value is None or isinstance(value.data, str):
            return "" if value is None else str(value.data)
        self._report.problem(value.place, f"'{key}' needs a text", got=got(value))
        return ""

    def names(self, key: str) -> tuple[str, ...] | None:
        """A list of names; None when the key is absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value.data, tuple):
            self._report.problem(value.place, f"'{key}' needs a list of names", got=got(value))
            return None
        names = []
        for item in value.data:
            if isinstance(item.data, str) and NAME.fullmatch(item.data):
                names.append(item.data)
            else:
                self._report.problem(item.place, f"'{key}' needs names: {NAME_WORDS}", got=got(item))
        return tuple(names)

    def texts(self, key: str) -> dict[str, str]:
        """A mapping of names to texts."""
        texts: dict[str, str] = {}
        for name, (_, value) in self.entries(key, "texts").items():
            if isinstance(value.data, str):
                texts[name] = value.data
            else:
                self._report.problem(value.place, f"'{key}.{name}' needs a text", got=got(value))
        return texts

    def repeated(self, key: str) -> tuple[Repeated, ...]:
        """Entries of a mapping whose names stand in it already."""
        value = self.get(key)
        return () if value is None else value.repeated

    def entries(self, key: str, what: str) -> dict[str, tuple[Place, Value]]:
        """A mapping of names to values, each with the place of its name."""
        value = self.get(key)
        if value is None:
            return {}
        found = value.mapping()
        if found is None:
            self._report.problem(value.place, f"'{key}' is a mapping of names to {what}", got=got(value))
            return {}
        good: dict[str, tuple[Place, Value]] = {}
        for name, each in found.items():
            if NAME.fullmatch(name):
                good[name] = (value.keys[name], each)
            else:
                self._report.problem(value.keys[name], f"a name in '{key}' is {NAME_WORDS}", got=shown(name))
        return good
