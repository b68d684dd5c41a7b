"""JSON payloads of one or many elements: all at once while they are right, one by one where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, UnsetType

from edgeflex_connectors.batching import Row
from edgeflex_connectors.payload_formats.codec import (
    BadFieldError,
    Decoded,
    Gathered,
    MissingFieldError,
    bad_payload,
    quoted,
)

LARGEST_WHOLE = 2**53
"""Beyond it a whole number in JSON is no float64 any more, so it is refused, not rounded."""

Whole: TypeAlias = Annotated[int, Meta(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
Number: TypeAlias = Whole | float
Flags: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFF)]

MOST_KEYS = 12
"""Keys of a payload that an error lists."""


class Complex(msgspec.Struct, frozen=True, gc=False):
    """A complex number as VILLASnode writes it."""

    real: Number
    imag: Number


Value: TypeAlias = Number | UnsetType | None
Phasor: TypeAlias = Complex | UnsetType | None
Word: TypeAlias = bool | Number | UnsetType | None
"""For columns without a unit, such as the state of a switch."""

MaybeFlags: TypeAlias = Flags | UnsetType | None

Read: TypeAlias = Callable[[Any, str | None, list[Row]], None]
"""`read(element, device, rows)` adds the rows of an element, all or none. Raises BadFieldError, the path in its text
beginning at `$`."""

KeyCounts: TypeAlias = Callable[[Sequence[Any]], Iterable[tuple[bytes, int]]]
"""How often each key, in its quotes, stands in a payload with these elements when none stands twice."""


class ElementDecoder:
    """Decodes a JSON array of elements, or one element where `single` allows it."""

    def __init__(self, element: Any, read: Read, counts: KeyCounts, *, single: bool, many: bool = True) -> None:
        self._all = msgspec.json.Decoder(list[element])
        self._one = msgspec.json.Decoder(element)
        self._read = read
        self._counts = counts
        self._single = single
        self._many = many
        self._keys = frozenset(key.decode()[1:-1] for key, _ in counts(()))

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        try:
            payload.decode()  # msgspec does not look into texts that it skips
            is_array = payload.lstrip()[:1] == b"["
            try:
                return Decoded(self._at_once(payload, device, is_array=is_array))
            except (msgspec.ValidationError, BadFieldError):
                return self._one_by_one(payload, device, is_array=is_array)
        except UnicodeDecodeError as error:
            raise bad_payload(f"no UTF-8 text: byte {payload[error.start]:#04x} at {error.start}", payload) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise bad_payload(str(error), payload) from error

    def _at_once(self, payload: bytes, device: str | None, *, is_array: bool) -> list[Row]:
        self._check_form(is_array=is_array)
        items = self._all.decode(payload) if is_array else (self._one.decode(payload),)
        if b"\\" in payload or any(payload.count(key) > count for key, count in self._counts(items)):
            raise BadFieldError("a key may stand twice")
        rows: list[Row] = []
        for item in items:
            self._read(item, device, rows)
        return rows

    def _check_form(self, *, is_array: bool) -> None:
        if (is_array and not self._many) or (not is_array and not self._single):
            wanted, found = ("`array`", "no array") if self._many and not self._single else ("`object`", "an array")
            raise BadFieldError(f"Expected {wanted}, got {found} - at `$`")

    def _one_by_one(self, payload: bytes, device: str | None, *, is_array: bool) -> Decoded:
        msgspec.json.decode(payload, type=msgspec.Raw)  # what is no JSON at all ends here
        try:
            self._check_form(is_array=is_array)
        except BadFieldError as error:
            raise bad_payload(str(error), payload) from error
        raws = msgspec.json.decode(payload, type=list[msgspec.Raw]) if is_array else [msgspec.Raw(payload)]
        gathered = Gathered()
        for place, raw in enumerate(raws):
            element, path = bytes(raw), f"$[{place}]" if is_array else "$"
            try:
                self._check_keys(element)
                self._read(self._one.decode(element), device, gathered.rows)
            except MissingFieldError as error:
                gathered.refuse(_with_place(_with_keys(str(error), element), path), element)
            except (msgspec.ValidationError, BadFieldError) as error:
                gathered.refuse(_with_place(str(error), path), element)
        return gathered.result()

    def _check_keys(self, element: bytes) -> None:
        """Refuse an element in which a key that is read stands twice: no reader can tell which one is meant."""

        def check(pairs: list[tuple[str, Any]]) -> None:
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise BadFieldError(f"key `{key}` stands twice - at `$`")
                if key in self._keys:
                    seen.add(key)

        try:
            # Numbers are not looked at, and need not fit anything.
            json.loads(element, object_pairs_hook=check, parse_int=len, parse_float=len, parse_constant=len)
        except json.JSONDecodeError as error:  # msgspec is less strict within what it skips
            raise BadFieldError(f"no JSON: {error.msg} at byte {error.pos} - at `$`") from error


def _with_place(text: str, place: str) -> str:
    """An error of an element with the element's place in the payload.

    >>> _with_place("Expected `float`, got `str` - at `$.x`", "$[3]"), _with_place("Expected `object`", "$[3]")
    ('Expected `float`, got `str` - at `$[3].x`', 'Expected `object` - at `$[3]`')
    """
    before, mark, path = text.rpartition("- at `$")
    return f"{before}- at `{place}{path}" if mark else f"{text} - at `{place}`"


def _with_keys(text: str, element: bytes) -> str:
    """An error about what an object lacks, with the keys that it has.

    >>> _with_keys("no `t` - at `$`", b'{"a":1,"b":2}')
    'no `t`; got a, b - at `$`'
    """
    keys = list(msgspec.json.decode(element, type=dict[str, msgspec.Raw]))
    shown = ", ".join(quoted(key)[1:-1] for key in keys[:MOST_KEYS]) or "nothing"
    before, mark, path = text.rpartition(" - at ")
    return f"{before}; got {shown}{', …' if len(keys) > MOST_KEYS else ''}{mark}{path}"
