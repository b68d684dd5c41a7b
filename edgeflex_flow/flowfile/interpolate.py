"""Interpolation of string leaves: `${name}`, `${NAME:-default}`, `${file:PATH}`, `$$`.

It happens after parsing, so that a value can never change the structure of a file. Lower-case names are params and
must be known; upper-case names may be params too, and else are variables of the environment. The first that gives a
value wins: `-D` on the command line, the site's params, the flow's params, the environment, the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.document import NO_SECRETS, Scalar, Value, remember_stamp
from edgeflex_flow.flowfile.report import FileReport, Secret, got, shown
from edgeflex_flow.flowfile.secrecy import HIDDEN, REFERENCE, Place, SecretKeys, user_of

PARAM_NAME = re.compile(r"[a-z][a-z0-9_]*")
VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
SITE_PARAM = "site"
"""The param that every flow has: the name of the site."""

_PART = re.compile(r"\$\$|\$\{(?P<inner>[^}]*)\}|\$\{")
_LARGEST_SECRET_BYTES = 64 * 1024
_LONGEST_TEXT = 1024 * 1024
"""Characters of a text once params are replaced: params that hold params grow without bounds."""
MOST_REPLACED = 16 * 1024 * 1024
"""Characters of all texts of a file once params are replaced: a long param may stand in many texts."""
_DEEPEST_PARAMS = 40


@dataclass(slots=True)
class _Allowance:
    """How many characters the texts of a file may still take."""

    left: int = MOST_REPLACED

    @property
    def is_spent(self) -> bool:
        return self.left < 0


@dataclass(frozen=True, slots=True)
class Param:
    """A param: where it is declared, and its value as written there."""

    value: Value
    report: FileReport
    folder: Path


@dataclass(frozen=True, slots=True)
class Sources:
    """Where names find their values, strongest first."""

    layers: tuple[Mapping[str, Param], ...]
    environment: Mapping[str, str]
    complete: bool = True
    """False when a file that may declare more params could not be read."""
    secret_keys: SecretKeys = NO_SECRETS
    known: dict[tuple[str, bool], Value] = field(default_factory=dict)
    """Params that were looked up before, by name and whether they hold a secret."""
    allowance: _Allowance = field(default_factory=_Allowance)

    def find(self, name: str) -> Param | None:
        """The strongest layer that gives the param a value; a param declared without one comes last."""
        found = [layer[name] for layer in self.layers if name in layer]
        given = [param for param in found if param.value.data is not None]
        return next(iter(given or found), None)

    @property
    def names(self) -> list[str]:
        return sorted({name for layer in self.layers for name in layer})


class Interpolator:
    """Replaces what stands in `${…}` in the values of one file."""

    def __init__(self, sources: Sources, report: FileReport, folder: Path) -> None:
        self._sources = sources
        self._report = report
        self._folder = folder
        self._pending: tuple[str, ...] = ()

    def apply(self, value: Value, *, node: str | None = None, secret: bool = False) -> Value:
        """The value with all its string leaves interpolated. Problems go to the report."""
        if isinstance(value.data, Mapping):
            return self._mapping(value, value.data, node, secret=secret)
        if isinstance(value.data, tuple):
            return replace(value, data=tuple(self.apply(each, node=node, secret=secret) for each in value.data))
        if isinstance(value.data, str) and "$" in value.data:
            return self._text(value, value.data, node, secret=secret or value.hidden)
        return value

    def entries(self, value: Value, *, node: str | None, other_than: Iterable[str]) -> Value:
        """A mapping with all its settings interpolated, and without the keys that are none."""
        left = {key: each for key, each in (value.mapping() or {}).items() if key not in other_than}
        repeated = tuple(each for each in value.repeated if each.key not in other_than)
        return self._mapping(replace(value, repeated=repeated), left, node, secret=False)

    def _mapping(self, value: Value, entries: Mapping[str, Value], node: str | None, *, secret: bool) -> Value:
        def applied(key: str, each: Value) -> Value:
            return self.apply(each, node=node, secret=secret or self._sources.secret_keys.name_secret(key))

        return replace(
            value,
            data={key: applied(key, each) for key, each in entries.items()},
            repeated=tuple(each._replace(value=applied(each.key, each.value)) for each in value.repeated),
        )

    def _text(self, value: Value, text: str, node: str | None, *, secret: bool) -> Value:
        if self._sources.allowance.is_spent:
            return replace(_unusable(""), place=value.place, end=value.end)
        whole = _PART.fullmatch(text)
        if whole and whole["inner"] is not None:
            found = self._lookup(whole["inner"], value.place, node, secret=secret)
            if found.textual and not self._spend(len(_as_text(found.data)), value.place, node):
                found = _unusable("")
            return replace(found, place=value.place, end=value.end, hidden=found.hidden or secret)
        pieces: list[Value] = []
        length = 0
        for piece in self._pieces(text, value.place, node, secret=secret):
            pieces.append(piece)
            length += len(_as_text(piece.data))
            if length > _LONGEST_TEXT:
                text = f"a text with its params replaced has at most {_LONGEST_TEXT} characters"
                self._report.problem(value.place, text, node=node)
                return replace(_unusable(""), place=value.place, end=value.end)
        if not self._spend(length, value.place, node):
            return replace(_unusable(""), place=value.place, end=value.end)
        if not secret:
            self._conceal_user(text, pieces, value.place, node)
        return Value(
            _joined(pieces),
            value.place,
            end=value.end,
            hidden=secret or any(piece.hidden for piece in pieces),
            missing=tuple(dict.fromkeys(what for piece in pieces for what in piece.missing)),
        )

    def _spend(self, length: int, place: Place, node: str | None) -> bool:
        """Whether a text of this length fits into what the file may still take; the first that does not is told."""
        allowance = self._sources.allowance
        if allowance.is_spent:
            return False
        allowance.left -= length
        if allowance.is_spent:
            text = f"the texts of a file with their params replaced have at most {MOST_REPLACED} characters together"
            self._report.problem(place, text, node=node)
        return not allowance.is_spent

    def _conceal_user(self, text: str, pieces: list[Value], place: Place, node: str | None) -> None:
        """Conceal the params that became user and password of an url, where they are declared."""
        joined = "".join(_as_text(piece.data) for piece in pieces)
        user = user_of(joined)
        if user is None:
            return
        self._report.all.hide(joined[slice(*user)])
        start = 0
        for piece, inner in zip(pieces, _inners(text), strict=True):
            end = start + len(_as_text(piece.data))
            if inner is not None and start < user[1] and end > user[0]:
                self._lookup(inner, place, node, secret=True)
                self._report.all.hide(_as_text(piece.data))
            start = end

    def _pieces(self, text: str, place: Place, node: str | None, *, secret: bool) -> Iterator[Value]:
        end = 0
        for match in _PART.finditer(text):
            yield Value(text[end : match.start()])
            end = match.end()
            if match[0] == "$$":
                yield Value("$")
            elif match["inner"] is None:
                self._report.problem(place, "'${' without its '}' (write '$$' for a dollar sign)", node=node)
            else:
                # A password may well hold '${': what follows may be part of it.
                yield self._lookup(match["inner"], place, node, secret=secret, quoted=not secret)
        yield Value(text[end:])

    def _lookup(self, inner: str, place: Place, node: str | None, *, secret: bool, quoted: bool = True) -> Value:
        """What `${inner}` stands for. With `quoted` its name may stand in problems."""
        if inner.startswith("file:"):
            return self._secret(inner.removeprefix("file:"))
        name, marker, text = inner.partition(":-")
        default = text if marker else None
        if not PARAM_NAME.fullmatch(name) and not VARIABLE_NAME.fullmatch(name):
            message = "a name in ${…} is a param (lower case) or an environment variable (upper case)"
            self._report.problem(place, message, node=node, got=shown(name) if quoted else HIDDEN)
            return _unusable("")
        param = self._sources.find(name)
        if param is not None and param.value.data is not None:
            return self._param(name, param, place, node, secret=secret)
        if VARIABLE_NAME.fullmatch(name):
            return self._variable(name, default, quoted=quoted)
        if param is None:
            if self._sources.complete and quoted:
                self._report.unknown(place, "param", name, self._sources.names, node=node)
            elif self._sources.complete:
                self._report.problem(place, "unknown param", node=node, got=HIDDEN, known=self._sources.names)
            return _unusable("")
        absent = _unusable(f"param '{name}' has no value (give it with -D {name}=… or in the site file)")
        return absent if default is None else Value(default, textual=True)

    def _param(self, name: str, param: Param, place: Place, node: str | None, *, secret: bool) -> Value:
        if name in self._pending:
            circle = " → ".join((*self._pending[self._pending.index(name) :], name))
            self._report.problem(place, f"param '{name}' stands for itself: {circle}", node=node)
            return _unusable("")
        if secret:
            self._conceal(name)
        if not isinstance(param.value.data, str):
            return param.value
        if (name, secret) not in self._sources.known:
            if len(self._pending) >= _DEEPEST_PARAMS:
                text = f"params stand for each other more than {_DEEPEST_PARAMS} deep"
                self._report.problem(place, text, node=node)
                return _unusable("")
            inner = Interpolator(self._sources, param.report, param.folder)
            inner._pending = (*self._pending, name)
            self._sources.known[name, secret] = inner.apply(param.value, secret=secret)
        return self._sources.known[name, secret]

    def _conceal(self, name: str) -> None:
        """Conceal a param in all files that give it a value, also where another file has the last word."""
        for param in (layer[name] for layer in self._sources.layers if name in layer):
            if not _is_reference(param.value):
                param.report.all.conceal(param.report.file, param.value)

    def _variable(self, name: str, default: str | None, *, quoted: bool) -> Value:
        text = self._sources.environment.get(name)
        if default is not None and not text:
            return Value(default, textual=True)
        if text is None and not quoted:
            return _unusable(f"environment variable {HIDDEN} is not set")
        if text is None:
            close = nearest(name, self._sources.environment)
            hint = f" (did you mean '{close}'?)" if close else ""
            return _unusable(f"environment variable {name} is not set{hint}")
        self._report.all.hide(text)
        return Value(Secret(text), hidden=True, textual=True)

    def _secret(self, name: str) -> Value:
        try:
            file = self._folder / Path(name).expanduser()
            remember_stamp(file)
            if not file.is_file():
                return _unusable(f"secret file {name} does not exist or is no file")
            with file.open("rb") as stream:
                raw = stream.read(_LARGEST_SECRET_BYTES + 1)
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return _unusable(f"secret file {name} is not UTF-8 text")
        except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; no home folder for '~'
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
            return _unusable(f"secret file {name} cannot be read: {reason}")
        if len(raw) > _LARGEST_SECRET_BYTES:
            return _unusable(f"secret file {name} is larger than {_LARGEST_SECRET_BYTES // 1024} KiB")
        text = text.removesuffix("\n").removesuffix("\r")
        self._report.all.hide(text)
        return Value(Secret(text), hidden=True, textual=True)


def _inners(text: str) -> Iterator[str | None]:
    """What stands in the braces of each piece of a text; None for pieces without."""
    for match in _PART.finditer(text):
        yield None
        if match[0] == "$$" or match["inner"] is not None:
            yield match["inner"]
    yield None


def _is_reference(value: Value) -> bool:
    return isinstance(value.data, str) and REFERENCE.fullmatch(value.data) is not None


def _unusable(what: str) -> Value:
    """A value that is not there; `what` is empty when a problem already says so."""
    return Value("", missing=(what,))


def _joined(pieces: Iterable[Value]) -> str:
    kept = list(pieces)
    text = "".join(_as_text(piece.data) for piece in kept)
    return Secret(text) if any(piece.hidden for piece in kept) else text


def _as_text(data: object) -> str:
    if data is None or isinstance(data, str):
        return str(data or "")
    return shown(data) if isinstance(data, int | float) else ""


def read_params(declared: Value | None, report: FileReport, folder: Path) -> dict[str, Param]:
    """The params of a file: names and single values. Problems go to the report."""
    if declared is None or declared.data is None:
        return {}
    entries = declared.mapping()
    if entries is None:
        report.problem(declared.place, "'params' is a mapping of names to values", got=got(declared))
        return {}
    params: dict[str, Param] = {}
    for name, value in entries.items():
        if not PARAM_NAME.fullmatch(name) and not VARIABLE_NAME.fullmatch(name):
            text = "a param's name is lower case letters, digits and '_'"
            report.problem(declared.keys[name], text, got=shown(name))
        elif name == SITE_PARAM:
            report.problem(declared.keys[name], f"param '{SITE_PARAM}' is the site's name and cannot be set")
        elif isinstance(value.data, Mapping | tuple):
            report.problem(value.place, f"param '{name}' is a single value", got=got(value))
        else:
            params[name] = Param(value, report, folder)
    return params


def check_params(params: Mapping[str, Param], sources: Sources) -> None:
    """Report what is wrong in the values of params, whether or not a node uses them."""
    for name in params:
        param = params[name]
        inner = Interpolator(sources, param.report, param.folder)
        inner._pending = (name,)
        inner.apply(param.value, secret=sources.secret_keys.name_secret(name))


def fixed_param(data: Scalar, report: FileReport) -> Param:
    """A param whose value comes from outside the files and is taken as it is."""
    text = data.replace("$", "$$") if isinstance(data, str) else data
    return Param(Value(text), report, Path())
