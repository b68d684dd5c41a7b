"""From a mapping of the YAML tree to a config: units, bounds, connections and policy-bound values.

Every field is decoded by itself, down to single list items, so that all that is wrong is reported at once and each
problem stands at the line and column of its own value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

import msgspec

from edgeflex_flow.errors import ConfigError, FieldError, FlowFileError, nearest
from edgeflex_flow.flowfile.bindings import (
    NUMBER_KEYS,
    TEXT_KEYS,
    Bindable,
    default_problem,
    not_bindable,
    pattern_problem,
)
from edgeflex_flow.flowfile.document import Repeated, Value, plain_scalar
from edgeflex_flow.flowfile.fields import (
    ConfigField,
    Hint,
    config_fields,
    entry_hints,
    fixed_length,
    forms,
    is_list,
    is_mapping,
    is_struct,
    item_hint,
    read_hint,
    tag_field,
)
from edgeflex_flow.flowfile.report import FileReport, Secret, got
from edgeflex_flow.flowfile.secrecy import HIDDEN, Place
from edgeflex_flow.flowfile.stand_ins import BROKEN, PLACEHOLDER, Broken, placeholder
from edgeflex_flow.flowfile.wording import example, expectation
from edgeflex_flow.node import NodeConfig, OpenConnection
from edgeflex_flow.policy import Binding, PolicyBinding, TextBinding
from edgeflex_flow.units import parse_quantity

PATTERNS = read_hint(Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)])

StructT = TypeVar("StructT", bound=msgspec.Struct)

FindConnection = Callable[[str, str, Value, str], OpenConnection | None]
"""`find(name, family, value, field)`: the connection, or None after reporting why there is none."""


@dataclass(slots=True)
class Decoded:
    """What became of a config's mapping."""

    config: NodeConfig | None = None
    """None when the mapping is wrong, or when too much of it is missing to make one."""
    connections: dict[str, OpenConnection] = field(default_factory=dict)
    policies: dict[str, Binding] = field(default_factory=dict)
    missing: list[tuple[str, Value]] = field(default_factory=list)
    """Fields (as written, `topics[2]`) whose value is not there, for the caller to report."""
    guessed: bool = False
    """Whether a word or flag is missing, so that nothing can be said about what the node needs and gives."""
    hidden: list[str] = field(default_factory=list)
    """Texts in it that must not be shown."""
    written: dict[str, Value] = field(default_factory=dict)
    """What the file gives, by key: `topics`, and `topics[2]`."""
    settled: dict[str, Any] = field(default_factory=dict)
    """Values by field of which it is sure that the node will have them, also when others are wrong."""
    partly: dict[str, Any] = field(default_factory=dict)
    """What is right of lists and mappings in which something is wrong, by field."""

    def place_of(self, error: FieldError, place: Place) -> Place:
        """Where the first of the error's fields stands in the file; `place` when none does."""
        for name in error.fields:
            value = self.written.get(name) or self.written.get(_base(name))
            if value is not None:
                return value.place
        return place

    def place_of_text(self, text: str) -> Place | None:
        """Where a name stands that a field gives, as a key of a mapping or as a value; None when a default gives it."""
        for value in self.written.values():
            if value.mapping() is not None and text in value.keys:
                return value.keys[text]
        return next((value.place for value in self.written.values() if value.data == text), None)


ReadTable = Callable[[str, type[msgspec.Struct]], Mapping[str, msgspec.Struct]]
"""Gives the entries of a table's file, by its path as written and their type; raises FlowFileError."""


class ConfigDecoder:
    """Decodes one node's or connection's mapping."""

    def __init__(
        self,
        report: FileReport,
        *,
        node: str | None,
        find_connection: FindConnection | None = None,
        read_table: ReadTable | None = None,
        bindable: Bindable = "nothing",
        other_keys: tuple[str, ...] = (),
    ) -> None:
        self._report = report
        self._node = node
        self._find_connection = find_connection
        self._read_table = read_table
        self._bindable: Bindable = bindable
        self._other_keys = other_keys
        self._good = True
        self._misspelt: list[str | None] = []
        """The keys that unknown ones most likely mean; None for those that are like no known one."""
        self._partial: dict[str, Any] = {}
        """What is right of lists and mappings in which something is wrong."""
        self._broken_items: dict[str, list[str]] = {}
        """What is wrong in them."""
        self._result = Decoded()

    def decode(self, config: type[NodeConfig], value: Value, place: Place) -> Decoded:
        """Decode a mapping whose string leaves are interpolated. `place` is where the node's name stands."""
        arguments = self._fields(config, value, place, others=self._other_keys)
        fields = config_fields(config)
        unsure = {name for each in fields for name in self._unsure(each, value, arguments)}
        self._result.settled = {
            each.name: arguments.get(each.name, each.default) for each in fields if not _rests_on(each.key, unsure)
        }
        self._result.partly = {
            each.name: self._partial[each.key]
            for each in fields
            if each.key in self._broken_items and each.key not in unsure and isinstance(arguments[each.name], Broken)
        }
        stand_ins = {each.name: self._stand_in(each) for each in fields if isinstance(arguments.get(each.name), Broken)}
        if not any(isinstance(each, Broken) for each in stand_ins.values()):
            made = self._build(config, {**arguments, **stand_ins}, unsure, place)
            self._result.config = made if self._good else None
        return self._result

    def entry(self, kind: type[StructT], value: Value, key: str) -> StructT | None:
        """A struct from a mapping that stands under `key`; None after reporting all that is wrong in it."""
        made = self._value(value, read_hint(kind), key)
        return made if isinstance(made, kind) else None

    def _unsure(self, each: ConfigField, value: Value, arguments: Mapping[str, Any]) -> list[str]:
        """The field or items of it of which nobody knows the value that they will have once the file is right."""
        absent = each.key not in (value.mapping() or {})
        twice = any(each.key == again.key for again in value.repeated)
        meant = any(close in (None, each.key) for close in self._misspelt)  # an unknown key may mean this field
        if twice or (absent and meant):
            return [each.key]
        if isinstance(arguments.get(each.name), Broken):
            return self._broken_items.get(each.key, [each.key])
        return [name for name, _ in self._result.missing if _base(name) == each.key]

    def _stand_in(self, each: ConfigField) -> Any:
        """A value in place of one that is wrong, to check what rests on the others."""
        if each.key in self._partial:
            return self._partial[each.key]
        return placeholder(each.hint) if each.required else each.default

    def _wrong(
        self,
        place: Place,
        message: str,
        *,
        got: str | None = None,
        known: tuple[str, ...] = (),
        close: str | None = None,
    ) -> Broken:
        self._good = False
        self._report.problem(place, message, node=self._node, got=got, known=known, nearest=close)
        return BROKEN

    def _build(
        self, config: type[NodeConfig], arguments: dict[str, Any], unsure: set[str], place: Place
    ) -> NodeConfig | None:
        """The config, which may still refuse its values.

        With stand-ins for those that are wrong or missing, a refusal says something about the file only when it rests
        on others.
        """
        try:
            return config(**arguments)
        except ConfigError as error:
            for each in error.errors:
                if not any(_rests_on(name, unsure) for name in each.fields):
                    self._refused(each, place)
                    self._unsettle(each.fields)
        except (ValueError, TypeError) as error:
            self._unsettle(())
            if self._good and not unsure:
                self._wrong(place, self._censored(str(error)))
        return None

    def _refused(self, error: FieldError, place: Place) -> None:
        """Report what a config refuses, at the value that it names."""
        at = self._result.place_of(error, place)
        if self._is_quoted(str(error)):
            self._wrong(at, f"its values do not go together ({HIDDEN})")
        else:
            self._wrong(at, error.message, got=error.got, known=error.known, close=error.nearest)

    def _unsettle(self, keys: tuple[str, ...]) -> None:
        """One of these fields will have another value once the file is right; nobody knows which if none is named."""
        wrong = {_base(key) for key in keys}
        for known in (self._result.settled, self._result.partly):
            for name in [name for name in known if not wrong or name in wrong]:
                del known[name]

    def _is_quoted(self, text: str) -> bool:
        return any(hidden in text for hidden in self._result.hidden if hidden)

    def _censored(self, text: str) -> str:
        """A config's own error text, or none of it when it quotes a value that must not be shown."""
        return f"its values do not go together ({HIDDEN})" if self._is_quoted(text) else text

    def _fields(
        self,
        struct: type[msgspec.Struct],
        value: Value,
        place: Place,
        *,
        prefix: str = "",
        others: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Arguments for a struct, by attribute name; some may be BROKEN."""
        entries = value.mapping() or {}
        fields = config_fields(struct)
        known = (*others, *(each.key for each in fields))
        top = not prefix
        for key in entries:
            if key not in known:
                close = nearest(key, known)
                if top:
                    self._misspelt.append(None if close in entries else close)
                self._wrong(value.keys[key], f"unknown key '{prefix}{key}'", known=known, close=close)
        for again, each in self._again(value, fields):
            self._field(each, again.value, prefix + each.key, top=top)
        arguments: dict[str, Any] = {}
        for each in fields:
            if each.key in entries:
                argument = self._field(each, entries[each.key], prefix + each.key, top=top)
            elif each.required:
                argument = self._wrong(place, f"'{prefix}{each.key}' is missing: {_wanted(each.hint)}")
            elif top and each.hint.family and isinstance(each.default, str):
                argument = self._connection(each, Value(each.default, place), each.key)
            else:
                continue
            arguments[each.name] = argument
        return arguments

    def _again(self, value: Value, fields: tuple[ConfigField, ...]) -> Iterator[tuple[Repeated, ConfigField]]:
        """Keys that stand twice: what the second gives may be wrong by itself."""
        for again in value.repeated:
            self._good = False
            yield from ((again, each) for each in fields if each.key == again.key)

    def _marked(self, value: Value, hint: Hint) -> Value:
        """The value, known as hidden when the field holds a secret."""
        if hint.noted("secret"):
            value = replace(value, data=Secret(value.data) if isinstance(value.data, str) else value.data, hidden=True)
        if value.hidden and isinstance(value.data, str | int | float):
            self._report.all.hide(str(value.data))
            self._result.hidden.append(str(value.data))
        if value.hidden and isinstance(value.data, tuple):
            value = replace(value, data=tuple(replace(item, hidden=True) for item in value.data))
        return value

    def _field(self, each: ConfigField, value: Value, key: str, *, top: bool) -> Any:
        value = self._marked(value, each.hint)
        self._result.written[key] = value
        entries = value.mapping()
        if top and entries is not None and "policy" in entries and (each.hint.numeric or each.hint.textual):
            return self._policy(each, value, entries)
        if each.hint.unit and isinstance(value.data, int | float) and not value.missing:
            return self._unitless(value, each.hint, key, each.default)
        if top and each.hint.family and isinstance(value.data, str) and not value.missing:
            return self._connection(each, value, key)
        return self._value(value, each.hint, key)

    def _connection(self, each: ConfigField, value: Value, key: str) -> Any:
        name = self._value(value, each.hint, key)
        if isinstance(name, str) and self._find_connection is not None:
            assert each.hint.family is not None
            found = self._find_connection(name, each.hint.family, value, key)
            if found is None:
                self._good = False
                return BROKEN
            self._result.connections[each.name] = found
        return name

    def _policy(self, each: ConfigField, value: Value, entries: Mapping[str, Value]) -> Any:
        """A value that a policy may change: `{policy, field, default, min, max}`, or `allowed` in a text's place."""
        key = each.key
        problem = not_bindable(self._bindable, each)
        if problem is not None:
            return self._wrong(value.place, problem)
        keys = NUMBER_KEYS if each.hint.numeric else TEXT_KEYS
        good = True
        for name in entries:
            if name not in keys:
                close = nearest(name, keys)
                self._wrong(value.keys[name], f"unknown key '{key}.{name}'", known=keys, close=close)
                good = False
        absent = [name for name in keys if name not in entries]
        if absent:
            self._wrong(value.place, f"'{key}' is bound to a policy and lacks {_listed(absent)}", known=keys)
            good = False
        names = {name: self._name(entries[name], f"{key}.{name}") for name in ("policy", "field") if name in entries}
        bind = self._numbers if each.hint.numeric else self._texts
        bound = bind(each, value, {name: entries[name] for name in keys[2:] if name in entries})
        if not good or bound is None or any(isinstance(each, Broken) for each in names.values()):
            return BROKEN
        default, binding = bound
        self._result.policies[each.name] = msgspec.structs.replace(binding, **names)
        return default

    def _numbers(
        self, each: ConfigField, value: Value, entries: Mapping[str, Value]
    ) -> tuple[float, PolicyBinding] | None:
        """Default and limits of a number; None after reporting what is wrong with them, or that some are missing."""
        number = replace(each.hint, optional=False)
        found = {name: self._value(entry, number, f"{each.key}.{name}") for name, entry in entries.items()}
        if len(found) < 3 or any(isinstance(each, Broken) for each in found.values()):
            return None
        if not found["min"] <= found["default"] <= found["max"] and not self._result.missing:
            text = f"'{each.key}' needs min <= default <= max"
            self._wrong(value.place, text, got=", ".join(f"{k} {got(entries[k])}" for k in found))
            return None
        limits = {name: float(number) for name, number in found.items()}
        return found["default"], PolicyBinding(policy="", field="", **limits)

    def _texts(self, each: ConfigField, value: Value, entries: Mapping[str, Value]) -> tuple[Any, TextBinding] | None:
        """The same of a text, or a list of texts, and the patterns of what is allowed."""
        del value
        hidden = [entry for entry in entries.values() if any(part.hidden for part in (entry, *_items(entry)))]
        if hidden:
            self._wrong(hidden[0].place, f"'{each.key}' cannot be bound to a policy: it holds a secret")
            return None
        found: dict[str, Any] = {}
        if "default" in entries:
            hint = replace(each.hint, optional=False)
            found["default"] = self._value(entries["default"], hint, f"{each.key}.default")
        if "allowed" in entries:
            found["allowed"] = self._patterns(each, entries["allowed"])
        if len(found) < 2 or any(isinstance(each, Broken) for each in found.values()):
            return None
        default = found["default"] if isinstance(found["default"], str) else tuple(found["default"])
        refused = default_problem(default, found["allowed"])
        if refused is not None and not self._result.missing:
            text = f"'{each.key}.default' is not among what is allowed"
            self._wrong(entries["default"].place, text, got=f"'{refused}'", known=found["allowed"])
            return None
        return found["default"], TextBinding(policy="", field="", default=default, allowed=found["allowed"])

    def _patterns(self, each: ConfigField, value: Value) -> Any:
        key = f"{each.key}.allowed"
        found = self._value(value, PATTERNS, key)
        if isinstance(found, Broken):
            return BROKEN
        problems = [(item, pattern_problem(str(item.data), each.hint)) for item in _items(value)]
        for item, problem in problems:
            if problem is not None:
                self._wrong(item.place, f"'{key}': {problem}", got=got(item))
        return BROKEN if any(problem for _, problem in problems) else found

    def _table(self, value: Value, path: str, read: ReadTable, hint: Hint, key: str) -> Any:
        """A table that stands in a file of its own, or BROKEN after reporting all that is wrong in it."""
        try:
            return read(path, entry_hints(hint.bare)[1].bare)
        except FlowFileError as error:
            for problem in error.problems:
                self._report.all.add(problem)
            return self._wrong(value.place, f"'{key}': the table in '{path}' cannot be used")

    def _name(self, value: Value, key: str) -> Any:
        if isinstance(value.data, str) and value.data and not value.missing:
            return value.data
        if value.missing:
            self._result.missing.append((key, value))
            return PLACEHOLDER
        return self._wrong(value.place, f"'{key}' needs a name", got=got(value))

    def _value(self, value: Value, hint: Hint, key: str) -> Any:
        """A value of the type that the hint says, or BROKEN after reporting all that is wrong in it."""
        if value.missing:
            self._result.missing.append((key, value))
            guess = placeholder(hint)
            self._result.guessed |= isinstance(guess, bool) or not isinstance(guess, str | int | float)
            return guess
        self._result.written[key] = value
        value = self._marked(value, hint)
        if value.data is None and hint.optional:
            return None
        if Any in hint.choices:
            return value.plain()
        return self._typed(value, hint, key)

    def _typed(self, value: Value, hint: Hint, key: str) -> Any:
        if isinstance(value.data, str) and hint.noted("table") and self._read_table is not None:
            return self._table(value, value.data, self._read_table, hint, key)
        if forms(hint) and isinstance(value.data, str | Mapping):
            return self._form(value, hint, key)
        if isinstance(value.data, tuple):
            return self._list(value, value.data, hint, key)
        if isinstance(value.data, Mapping):
            return self._mapping(value, value.data, hint, key)
        of_unit = hint.unit and value.data not in hint.words
        return self._quantity(value, hint, key) if of_unit else self._leaf(value, hint, key)

    def _form(self, value: Value, hint: Hint, key: str) -> Any:
        """One of several Structs, by its name alone or by a mapping with its name and its settings."""
        known = forms(hint)
        tag = tag_field(next(iter(known.values())))
        assert tag is not None
        entries = value.mapping()
        named = value if entries is None else entries.get(tag)
        if named is None:
            return self._wrong(value.place, f"'{key}.{tag}' is missing: {expectation(hint)}", known=tuple(known))
        if named.missing:
            self._result.missing.append((f"{key}.{tag}", named))
            self._result.guessed = True
            return BROKEN
        if not isinstance(named.data, str) or named.data not in known:
            close = nearest(named.data, known) if isinstance(named.data, str) and not named.hidden else None
            at = key if entries is None else f"{key}.{tag}"
            return self._wrong(
                named.place, f"'{at}' is none that is known", got=got(named), known=tuple(known), close=close
            )
        return self._struct(known[named.data], Value({}, value.place) if entries is None else value, key)

    def _list(self, value: Value, items: tuple[Value, ...], hint: Hint, key: str) -> Any:
        kinds = [kind for kind in hint.choices if is_list(kind)]
        length = fixed_length(kinds[0]) if kinds else None
        if len(kinds) != 1 or (length is not None and length != len(items)):
            shown = "a list" if length is None else f"a list of {len(items)}"
            return self._wrong(value.place, f"'{key}' needs {expectation(hint)}", got=shown)
        hints = [item_hint(kinds[0], place) for place in range(len(items))]
        made = [self._value(item, hints[place], f"{key}[{place}]") for place, item in enumerate(items)]
        broken = {place: placeholder(hints[place]) for place, item in enumerate(made) if isinstance(item, Broken)}
        if not broken:
            return self._whole(made, value, hint, key)
        if not any(isinstance(each, Broken) for each in broken.values()):
            mended = [broken.get(place, item) for place, item in enumerate(made)]
            self._partly(key, mended, [f"{key}[{place}]" for place in broken], hint)
        return BROKEN

    def _mapping(self, value: Value, entries: Mapping[str, Value], hint: Hint, key: str) -> Any:
        kinds = [kind for kind in hint.choices if is_struct(kind) or is_mapping(kind)]
        if len(kinds) != 1:
            return self._wrong(value.place, f"'{key}' needs {expectation(hint)}", got="a mapping")
        if is_struct(kinds[0]):
            return self._struct(kinds[0], value, key)
        key_hint, value_hint = entry_hints(kinds[0])
        names = [self._value(Value(name, value.keys[name], textual=True), key_hint, key) for name in entries]
        made = [self._value(each, value_hint, f"{key}.{name}") for name, each in entries.items()]
        self._result.written[key] = value  # the names were decoded under this key too
        for again in value.repeated:
            self._value(again.value, value_hint, f"{key}.{again.key}")
        if any(isinstance(each, Broken) for each in names):
            return BROKEN
        broken = [f"{key}.{name}" for name, each in zip(entries, made, strict=True) if isinstance(each, Broken)]
        broken += [f"{key}.{again.key}" for again in value.repeated]
        good = {name: each for name, each in zip(names, made, strict=True) if not isinstance(each, Broken)}
        if not broken:
            return self._whole(good, value, hint, key)
        self._partly(key, good, broken, hint)
        return BROKEN

    def _partly(self, key: str, mended: Any, broken: list[str], hint: Hint) -> None:
        """Keep what is right of a list or mapping, to check what rests on it alone."""
        try:
            self._partial[key] = msgspec.convert(mended, hint.full)
        except msgspec.ValidationError:
            return
        self._broken_items[key] = broken

    def _struct(self, kind: type[msgspec.Struct], value: Value, key: str) -> Any:
        tag = tag_field(kind)
        arguments = self._fields(kind, value, value.place, prefix=f"{key}.", others=() if tag is None else (tag,))
        if any(isinstance(each, Broken) for each in arguments.values()):
            return BROKEN
        try:
            return kind(**arguments)
        except ConfigError as error:
            for each in error.errors:
                fields = [f"{key}.{name}" for name in each.fields]
                known, close = each.known, each.nearest
                self._refused(FieldError(each.message, *fields, got=each.got, known=known, nearest=close), value.place)
            return BROKEN
        except (ValueError, TypeError) as error:
            return self._wrong(value.place, f"'{key}': {self._censored(str(error))}")

    def _whole(self, whole: Any, value: Value, hint: Hint, key: str) -> Any:
        """A list or mapping whose parts are decoded: check what holds for the whole (its length)."""
        try:
            return msgspec.convert(whole, hint.full)
        except msgspec.ValidationError:
            shown = f"{len(whole)} {'entry' if len(whole) == 1 else 'entries'}"
            return self._wrong(value.place, f"'{key}' needs {expectation(hint)}", got=shown)

    def _quantity(self, value: Value, hint: Hint, key: str) -> Any:
        assert hint.unit is not None
        if not isinstance(value.data, str):
            return self._unitless(value, hint, key, None)
        try:
            number = parse_quantity(value.data, hint.unit)
        except ValueError as error:
            reason, _, _ = str(error).rpartition("; got ")
            if value.hidden:  # the reason may quote the unit that was found
                reason = f"needs {expectation(hint)}"
            return self._wrong(value.place, f"'{key}': {reason}", got=got(value))
        wanted = int(number) if hint.bare is int and math.isfinite(number) and number == int(number) else number
        return self._converted(wanted, value, hint, key)

    def _unitless(self, value: Value, hint: Hint, key: str, default: Any) -> Broken:
        text = f"'{key}': write it with its unit, e.g. {example(hint, default)}"
        return self._wrong(value.place, text, got=got(value))

    def _leaf(self, value: Value, hint: Hint, key: str) -> Any:
        data = value.data
        if value.textual and isinstance(data, str) and str not in hint.choices and data not in hint.words:
            data = plain_scalar(data.strip())
        return self._converted(data, value, hint, key)

    def _converted(self, data: Any, value: Value, hint: Hint, key: str) -> Any:
        if not isinstance(data, float) or math.isfinite(data):
            try:
                return msgspec.convert(data, hint.full)
            except msgspec.ValidationError:
                pass
        text = f"'{key}' needs {expectation(hint)}"
        pattern = hint.constraint("pattern") or ""
        is_number = isinstance(value.data, int | float)
        if hint.bare is str and is_number and re.search(pattern, str(value.data)) and not value.hidden:
            text += " (in quotes, or YAML reads it otherwise)"
        close = nearest(data, hint.words) if isinstance(data, str) and not value.hidden else None
        return self._wrong(value.place, text, got=got(value), known=hint.words, close=close)


def _items(value: Value) -> tuple[Value, ...]:
    return value.data if isinstance(value.data, tuple) else ()


def _wanted(hint: Hint) -> str:
    return hint.description or expectation(hint)


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _base(name: str) -> str:
    """The field that an item of it belongs to.

    >>> _base("topics[2]"), _base("channels.V1"), _base("port")
    ('topics', 'channels', 'port')
    """
    return re.split(r"[.\[]", name, maxsplit=1)[0]


def _rests_on(name: str, unsure: set[str]) -> bool:
    """Whether the value of a field, or of an item of it, is among those that are not sure.

    >>> [_rests_on(name, {"topics[1]", "port"}) for name in ("topics", "topics[1]", "topics[10]", "port", "portal")]
    [True, True, False, True, False]
    """
    parts = tuple(f"{name}{mark}" for mark in ".[")
    return any(each == name or each.startswith(parts) or name.startswith((f"{each}.", f"{each}[")) for each in unsure)
