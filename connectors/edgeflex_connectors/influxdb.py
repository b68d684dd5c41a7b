"""`influxdb`: a history in InfluxDB 1."""

from __future__ import annotations

import hashlib
import importlib
import re
import ssl
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_connectors.certificate_end import SeenCertificate, certificate_of_server
from edgeflex_connectors.http_client import DEFAULT_PORTS
from edgeflex_connectors.store import (
    EARLIEST_NS,
    LATEST_NS,
    MOST_VALUES,
    NewerStoreError,
    NoStoreError,
    NotStorable,
    Refused,
    Series,
    Span,
    StoreConfig,
    StoredMessage,
    WindowTooLargeError,
    probe_store,
)
from edgeflex_connectors.store_rows import Stored, Values, rows_without, table_of, values_of
from edgeflex_connectors.tls import default_tls
from edgeflex_connectors.urls import split_url
from edgeflex_flow.errors import FatalError, FieldError, RetryableError, how_to_install
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import ConnectionNode, Context, Probe, login, path, quantity
from edgeflex_flow.node import url as url_of

if TYPE_CHECKING:
    import httpx

SCHEMA_VERSION = 1
OLDEST_NS, NEWEST_NS = -(2**63) + 2, 2**63 - 2
"""Times that InfluxDB can hold."""
SECOND_NS = 1_000_000_000

MESSAGES = "messages"
FACTS = "edgeflex_store"
"""Measurement with the version of the store and how far its down-sampling is."""
FACTS_NS = 0
NO_TIME_NS = OLDEST_NS // SECOND_NS * SECOND_NS + SECOND_NS
"""Where messages without a time stand."""
MADE = re.compile(r"^(.*)\.(mean|min|max)\.[0-9.e+]+s$")
"""Measurements with down-sampled values."""

LINES_AT_ONCE = 20_000
"""Lines of one request: some 1.5 MB, of the 25 MB that a server takes."""
CHUNK_ROWS = 10_000
"""Rows of one part of an answer."""
LONGEST_BODY = 60_000
"""Bytes of a message: the longest text that a field holds, with some room for escapes."""
GZIP = 16 + zlib.MAX_WBITS

NO_DATABASE = "database not found"
OF_CONTENT = ("partial write", "unable to parse")
"""What a server says that kept all points but those it names; any other 400 tells nothing of points."""
MOST_TOLD = 200
"""Characters of an answer that is not the server's own, such as a page of a proxy."""

VALUE_ROW = np.dtype([("time_ns", np.int64), ("value", np.float64), ("quality", np.uint16)])


class InfluxdbConfig(StoreConfig, frozen=True, kw_only=True):
    r"""A history in InfluxDB 1.6 or newer of the 1.x line, by line protocol over HTTP.

    Each column is a measurement with the tag `device` and the fields `value` and `quality`; what a down-sampling rule
    made stands in measurements such as `frequency_hz.mean.1s`; `messages` has the tag `type` and the fields `id`,
    `time_ns` and `body` (JSON), at times within their second that keep messages of one time apart. The database is
    made if it does not exist and the user may; its default retention policy must keep everything: `keep` deletes.

    A missing value (NaN) makes no point and leaves a value that is stored already as it is. Writing the same device,
    time and column again replaces the point. Large commits go out as several requests, so that others may see a part
    of one for a moment; a commit that failed is written again as a whole.

    Input:
        None: nodes name the connection in their field `store`.

    Output:
        None. Counts `not_storable`: infinite values, times beyond what InfluxDB holds, messages of more than 60 kB,
        and points that the server dropped or that alone are too large for it, or for a proxy before it.

    Errors:
        A server that is away, busy or out of room is tried again, and so is whatever else it, or a proxy before it,
        answers that is no success. FatalError: user, password or certificate refused, a right that the user lacks, a
        proxy that wants a login, a database that was dropped, a store of a newer version. In names, %, \ and control
        characters stand as %25, %5C ….

    Source:
        https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/

    >>> InfluxdbConfig(url="http://db.example:8086", database="grid", username="flow", password="secret")
    InfluxdbConfig(url='http://db.example:8086', database='grid', username='flow')
    """

    url: Annotated[
        str, url_of("http://host:port or https://host:port.", DEFAULT_PORTS, example="http://127.0.0.1:8086")
    ]
    database: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_.-]+$", max_length=200, description="Database, made if it does not exist.")
    ]
    username: Annotated[str | None, login("user", "User name for the server.")] = None
    password: Annotated[str | None, login("password", "Password of the user.")] = None
    ca: Annotated[str | None, path("Certificates of the authorities to trust, PEM; the system's if not given.")] = None
    compress: Annotated[bool, Meta(description="Whether lines and answers are compressed (gzip) on their way.")] = False
    connect_timeout: Annotated[float, quantity("s", "How long an attempt to connect may take.", gt=0, le=60)] = 5
    answer_timeout: Annotated[float, quantity("s", "How long the server may be silent.", ge=1, le=3600)] = 30

    def refusals(self) -> Iterator[FieldError]:
        yield from super().refusals()
        try:
            split = _split(self.url)
        except ValueError as error:
            yield FieldError(str(error), "url")
        else:
            if split.scheme != "https" and self.ca is not None:
                yield FieldError("`ca` needs an url that begins with https://", "ca", "url")
        if (self.password is None) != (self.username is None):
            yield FieldError("`username` and `password` must be given together", "username", "password")

    def __repr__(self) -> str:
        """Only what tells the connection; never the password."""
        user = "" if self.username is None else f", username={self.username!r}"
        return f"InfluxdbConfig(url={self.url!r}, database={self.database!r}{user})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("url", self.url), ("database", self.database), ("username", self.username)]


def _split(url: str) -> SplitResult:
    return split_url(url, DEFAULT_PORTS, "http:// or https://")


class _Part(msgspec.Struct):
    """A series in an answer, or a part of one."""

    name: str
    columns: list[str]
    values: list[Any] = []
    tags: dict[str, str] = {}


class _Result(msgspec.Struct):
    series: list[_Part] = []
    error: str = ""


class _Answer(msgspec.Struct):
    results: list[_Result] = []
    error: str = ""


_decode = msgspec.json.Decoder(_Answer).decode

_HARD = re.compile(r"[%\\\x00-\x1f\x7f]")


def encoded(name: str) -> str:
    r"""A name as it can stand in line protocol, which cannot hold all characters in tags and measurements.

    >>> encoded("a%b\\c"), decoded("a%25b%5Cc")
    ('a%25b%5Cc', 'a%b\\c')
    """
    return _HARD.sub(lambda found: f"%{ord(found[0]):02X}", name) or "%"


def decoded(name: str) -> str:
    return "" if name == "%" else re.sub("%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), name)


def _tag(name: str) -> str:
    return encoded(name).replace(",", r"\,").replace(" ", r"\ ").replace("=", r"\=")


def _field_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _quoted(text: str) -> str:
    """A string of InfluxQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _identifier(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _measurement(column: str, series: Series | None) -> str:
    name = encoded(column)
    return name if series is None else f"{name}.{series.how}.{series.every_ns / 1e9:.9g}s"


def _between(begin_ns: int, end_ns: int) -> str:
    return f"time >= {max(begin_ns, OLDEST_NS)} AND time < {min(end_ns, NEWEST_NS)}"


class Block(NamedTuple):
    """Lines of line protocol. Where it is one line, it may hold line feeds, in texts."""

    lines: int
    text: str

    def split(self) -> list[Block]:
        """Each of its lines alone."""
        return [self] if self.lines == 1 else [Block(1, line) for line in self.text.split("\n")]


def sample_blocks(values: Values, devices: Sequence[str], series: Series | None) -> Iterator[Block]:
    """The lines of a column's values, in their order, at most LINES_AT_ONCE in a block."""
    measurement = _measurement(values.column, series).replace(",", r"\,").replace(" ", r"\ ")
    edges = np.flatnonzero(np.diff(values.device, prepend=-1, append=-1)).tolist()
    # All numbers at once: formatting them one by one would take five times as long.
    numbers, times_ns = _texts(values.value.tolist()), _texts(values.time_ns.tolist())
    for begin, end in pairwise(edges):
        head = f"\n{measurement},device={_tag(devices[int(values.device[begin])])} value="
        for first in range(begin, end, LINES_AT_ONCE):
            rows = slice(first, min(first + LINES_AT_ONCE, end))
            count = rows.stop - rows.start
            parts = 4 * [head] * count
            parts[1::4] = numbers[rows]
            parts[2::4] = _flag_texts(values.quality[rows])
            parts[3::4] = times_ns[rows]
            yield Block(count, "".join(parts)[1:])


def _texts(numbers: list[Any]) -> list[str]:
    """Each number as the shortest text that means it."""
    return msgspec.json.encode(numbers)[1:-1].decode().split(",")


def _flag_texts(quality: NDArray[np.uint16]) -> list[str]:
    if (quality == quality[0]).all():
        return [f",quality={quality[0]}i "] * len(quality)
    return [f",quality={flags}i " for flags in quality.tolist()]


def _place_ns(message: StoredMessage) -> int:
    """The time at which a message stands: of its second, and its own. Messages of one second are not told apart by
    tags, which InfluxDB keeps in memory, and two of 10⁹ places are the same for one pair in 10⁹."""
    second_ns = NO_TIME_NS if message.time_ns is None else message.time_ns // SECOND_NS * SECOND_NS
    digest = hashlib.sha256(f"{message.type} {message.id}".encode()).digest()
    return second_ns + int.from_bytes(digest[:8], "big") % SECOND_NS


def message_line(message: StoredMessage) -> str:
    fields = [f"id={_field_text(message.id)}", f"body={_field_text(message.body.decode())}"]
    if message.time_ns is not None:
        fields.append(f"time_ns={message.time_ns}i")
    if message.device is not None:
        fields.append(f"device={_field_text(message.device)}")
    return f"{MESSAGES},type={_tag(message.type)} {','.join(fields)} {_place_ns(message)}"


class InfluxdbStore:
    """The store in a database of a server. Used by one thread at a time."""

    def __init__(self, config: InfluxdbConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._httpx = _library()
        self._client: httpx.Client | None = None
        self._certificate = SeenCertificate()
        context.gauges.watch("certificate_until_s", lambda: self._certificate.until_s)
        self._is_open = False
        self._name = f"{config.url} database {config.database}"
        self._not_storable = NotStorable(self._name, context)

    # The server -----------------------------------------------------------------------------------------------------

    def _http(self) -> httpx.Client:
        if self._client is None:
            config, library = self._config, self._httpx
            self._client = library.Client(
                base_url=config.url,
                auth=None if config.username is None else (config.username, config.password or ""),
                headers={"Accept-Encoding": "gzip" if config.compress else "identity"},
                verify=self._tls(),
                timeout=library.Timeout(config.answer_timeout, connect=config.connect_timeout),
                trust_env=False,
            )
        assert self._client is not None
        return self._client

    def _tls(self) -> ssl.SSLContext | bool:
        if _split(self._config.url).scheme != "https":
            return False
        return default_tls(self._config.ca, self._context, self._name)

    def certificate_until_s(self) -> float | None:
        """When the server's certificate ends, seconds since 1970; None without TLS."""
        split, tls = _split(self._config.url), self._tls()
        if not isinstance(tls, ssl.SSLContext):
            return None
        host, port = split.hostname or "", split.port or DEFAULT_PORTS["https"]
        return certificate_of_server(host, port, tls, self._config.connect_timeout)

    def _problem(self, error: httpx.TransportError) -> FatalError | RetryableError:
        cause = error.__cause__ or error.__context__
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return FatalError(f"{self._name}: the server's certificate is refused: {cause.verify_message}")
            cause = cause.__cause__ or cause.__context__
        return RetryableError(f"{self._name}: {error or type(error).__name__}")

    def _refusal(self, status: int, text: str) -> FatalError | RetryableError:
        """What a status means that is no success. Of one that is not foreseen nobody knows what became of the request:
        it comes again."""
        if status in (401, 403):
            return FatalError(f"{self._name}: the server refused user '{self._config.username}': {text}")
        if status == 407:
            return FatalError(f"{self._name}: a proxy before the server wants a login, which there is none for: {text}")
        if status == 404 and NO_DATABASE in text:
            return FatalError(f"{self._name}: {text}")
        return RetryableError(f"{self._name}: answered with HTTP status {status}: {text[:MOST_TOLD]}")

    def _ask(self, statement: str, *, most_rows: int = 10**12) -> list[_Part]:
        """Series of an answer. Parts of one series follow each other."""
        parameters = {"db": self._config.database, "epoch": "ns", "chunked": "true", "chunk_size": str(CHUNK_ROWS)}
        found: list[_Part] = []
        rows = 0
        try:
            with self._http().stream("POST", "/query", params=parameters, data={"q": statement}) as response:
                self._certificate.look(response.extensions)
                if response.status_code != 200:
                    text = response.read().decode(errors="replace").strip()
                    if response.status_code == 400:
                        raise FatalError(f"{self._name}: {text}")
                    raise self._refusal(response.status_code, text)
                for line in _lines(response.iter_bytes()):
                    for part in self._parts(line):
                        rows += len(part.values)
                        found.append(part)
                    if rows > most_rows:
                        text = f"{self._name}: holds more than {most_rows} values of that time; read a shorter one"
                        raise WindowTooLargeError(text)
        except self._httpx.TransportError as error:
            raise self._problem(error) from error
        return found

    def _parts(self, line: bytes) -> Iterator[_Part]:
        try:
            answer = _decode(line)
        except msgspec.DecodeError as problem:
            raise RetryableError(f"{self._name}: did not answer as InfluxDB does: {problem}") from problem
        for error in (answer.error, *(result.error for result in answer.results)):
            if error.startswith((NO_DATABASE, "error authorizing")):
                kind = NoStoreError if error.startswith(NO_DATABASE) else FatalError
                raise kind(f"{self._name}: {error}")
            if error:
                raise RetryableError(f"{self._name}: {error}")
        for result in answer.results:
            yield from result.series

    def _send(self, blocks: Sequence[Block]) -> list[tuple[int, str]]:
        """Write lines; how many of them the server did not want, and why."""
        unwanted: list[tuple[int, str]] = []
        group: list[Block] = []
        lines = 0
        for block in blocks:
            if group and lines + block.lines > LINES_AT_ONCE:
                unwanted += self._post(group)
                group, lines = [], 0
            group.append(block)
            lines += block.lines
        if group:
            unwanted += self._post(group)
        return unwanted

    def _post(self, blocks: Sequence[Block]) -> list[tuple[int, str]]:
        status, text = self._answer_to("\n".join(block.text for block in blocks).encode())
        if status == 204:
            return []
        if status == 413:
            return self._post_halves(blocks, text)
        if status == 400 and any(each in text for each in OF_CONTENT):
            return [(min(_dropped(text), sum(block.lines for block in blocks)), text)]
        raise self._refusal(status, text)

    def _post_halves(self, blocks: Sequence[Block], text: str) -> list[tuple[int, str]]:
        """What the server, or a proxy before it, found too large to take at once; a line alone is dropped."""
        parts = blocks if len(blocks) > 1 else blocks[0].split()
        if len(parts) == 1:
            return [(1, f"a line of {len(parts[0].text)} characters: {text}")]
        middle = len(parts) // 2
        return self._post(parts[:middle]) + self._post(parts[middle:])

    def _answer_to(self, body: bytes) -> tuple[int, str]:
        headers: dict[str, str] = {}
        if self._config.compress:
            packer = zlib.compressobj(level=1, wbits=GZIP)
            body, headers = packer.compress(body) + packer.flush(), {"Content-Encoding": "gzip"}
        parameters = {"db": self._config.database, "precision": "ns"}
        try:
            response = self._http().post("/write", params=parameters, content=body, headers=headers)
        except self._httpx.TransportError as error:
            raise self._problem(error) from error
        self._certificate.look(response.extensions)
        return response.status_code, response.text.strip()

    # The store ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        if self._is_open:
            return
        try:
            version = self._version()
        except FatalError as error:
            if NO_DATABASE not in str(error):
                raise
            self._ask(f"CREATE DATABASE {_identifier(self._config.database)}")
            version = None
        if version is None:
            self._put_fact("version", SCHEMA_VERSION)
            if self._version() is None:
                text = "the default retention policy of the database does not keep everything; `keep` is there for that"
                raise FatalError(f"{self._name}: {text}")
        self._is_open = True

    def _version(self) -> int | None:
        """Version of the store, None if there is none. FatalError if it is too new."""
        version = self._fact("version")
        if version is not None and version > SCHEMA_VERSION:
            raise NewerStoreError(self._name, version, SCHEMA_VERSION)
        return version

    def _fact(self, what: str) -> int | None:
        where = f"WHERE what = {_quoted(what)} AND time = {FACTS_NS}"
        parts = self._ask(f"SELECT value FROM {FACTS} {where}")  # noqa: S608
        return int(parts[0].values[0][1]) if parts else None

    def _put_fact(self, what: str, value: int) -> None:
        for count, why in self._send([Block(1, f"{FACTS},what={_tag(what)} value={value}i {FACTS_NS}")]):
            self._not_storable.add(count, why)

    def write(self, samples: Sequence[Samples], messages: Sequence[StoredMessage]) -> Refused:
        self.open()
        refused = Refused()
        self._write_samples(samples, None, refused)
        self._write_messages(messages, refused)
        self._not_storable.tell(refused)
        return refused

    def _write_messages(self, messages: Sequence[StoredMessage], refused: Refused) -> None:
        blocks: list[Block] = []
        for message in messages:
            if len(message.body) + len(message.id) > LONGEST_BODY:
                refused.add_message(f"a {message.type} of {len(message.body)} bytes")
            elif message.time_ns is not None and not OLDEST_NS + SECOND_NS <= message.time_ns <= NEWEST_NS - SECOND_NS:
                refused.add_message(f"a {message.type} at {message.time_ns} ns")
            else:
                blocks.append(Block(1, message_line(message)))
        for count, why in self._send(blocks):
            refused.messages += count
            refused.reasons.append((count, why))

    def write_series(self, series: Series, values: Sequence[Samples], until_ns: int) -> None:
        self.open()
        refused = Refused()
        self._write_samples(values, series, refused)
        self._not_storable.tell(refused)
        before = self.made_until(series)
        if before is None or until_ns > before:
            self._put_fact(_measurement("made", series), until_ns)

    def _write_samples(self, batches: Sequence[Samples], series: Series | None, refused: Refused) -> None:
        devices, columns = values_of(batches)
        kept = _storable(columns, refused)
        unwanted = self._send([block for values in kept for block in sample_blocks(values, devices, series)])
        if not unwanted:
            return
        for count, why in unwanted:
            refused.add_values(count, why)
        # Which ones they are is not told: so many rows are gone at least.
        left = sum(len(values.row) for values in kept) - sum(count for count, _ in unwanted)
        refused.rows += max(0, rows_without(kept, []) - left)

    def sync(self) -> None:
        """Nothing: the server answers when its log is on the disk."""

    def read(
        self,
        columns: Sequence[str] | None = None,
        begin_ns: int = EARLIEST_NS,
        end_ns: int = LATEST_NS,
        devices: Sequence[str] | None = None,
        *,
        series: Series | None = None,
        most_values: int = MOST_VALUES,
    ) -> Samples:
        """See `Store`. FatalError for a database that does not exist or holds no store."""
        self._need_store()
        names = tuple(self._columns(series) if columns is None else columns)
        place_of = {_measurement(name, series): place for place, name in enumerate(names)}
        known = devices if devices is not None else []
        codes = {name: code for code, name in enumerate(known)}
        conditions = [_between(begin_ns, end_ns)]
        if devices is not None:
            wanted = " OR ".join(f"device = {_quoted(encoded(name))}" for name in devices)
            conditions.append(f"({wanted})" if wanted else "device = ''")
        parts: dict[tuple[int, int], list[Any]] = {}
        if names:
            tables = ", ".join(map(_identifier, place_of))
            statement = f"SELECT value, quality FROM {tables} WHERE {' AND '.join(conditions)} GROUP BY device"  # noqa: S608
            for part in self._ask(statement, most_rows=most_values):
                code = codes.setdefault(decoded(part.tags["device"]), len(codes))
                parts.setdefault((code, place_of[part.name]), []).extend(part.values)
        stored = [Stored(code, place, *_arrays(rows)) for (code, place), rows in parts.items()]
        return table_of(stored, names, tuple(codes))

    def _need_store(self) -> None:
        if not self._is_open and self._version() is None:
            raise NoStoreError(f"{self._name}: there is no store in it")

    def _columns(self, series: Series | None) -> list[str]:
        """The columns of which values are stored."""
        found = {row[0] for part in self._ask("SHOW MEASUREMENTS") for row in part.values} - {MESSAGES, FACTS}
        if series is None:
            return sorted(decoded(name) for name in found if not MADE.match(name))
        columns = {match[1] for name in found if (match := MADE.match(name))}
        return sorted(decoded(name) for name in columns if _measurement(decoded(name), series) in found)

    def read_messages(self, types: Sequence[str], begin_ns: int, end_ns: int) -> list[StoredMessage]:
        self._need_store()
        wanted = " OR ".join(f"type = {_quoted(encoded(kind))}" for kind in types)
        seconds = _between(begin_ns // SECOND_NS * SECOND_NS, -(-end_ns // SECOND_NS) * SECOND_NS)
        parts = self._ask(
            f"SELECT id, time_ns, device, body FROM {MESSAGES} WHERE ({wanted}) AND {seconds} GROUP BY type"  # noqa: S608
        )
        found = [
            StoredMessage(type=decoded(part.tags["type"]), id=key, time_ns=time_ns, device=device, body=body.encode())
            for part in parts
            for _, key, time_ns, device, body in part.values
            if time_ns is not None and begin_ns <= time_ns < end_ns
        ]
        return sorted(found, key=lambda each: (each.time_ns, each.type, each.id))

    def span(
        self, begin_ns: int = EARLIEST_NS, end_ns: int = LATEST_NS, *, series: Series | None = None
    ) -> Span | None:
        self._need_store()
        names = self._columns(series)
        if not names:
            return None
        where = (
            f"FROM {', '.join(_identifier(_measurement(name, series)) for name in names)} "
            f"WHERE {_between(begin_ns, end_ns)}"
        )
        ends = [
            [row[0] for part in self._ask(f"SELECT {end}(value) {where}") for row in part.values]
            for end in ("first", "last")
        ]
        return Span(min(ends[0]), max(ends[1])) if all(ends) else None

    def last_message_ns(self, end_ns: int = LATEST_NS) -> int | None:
        """That of one within a second of the newest: within it messages do not stand at their time."""
        self._need_store()
        where = _between(EARLIEST_NS, end_ns)
        parts = self._ask(f"SELECT last(time_ns) FROM {MESSAGES} WHERE {where}")  # noqa: S608 - ours
        return int(parts[0].values[0][1]) if parts else None

    def made_until(self, series: Series) -> int | None:
        return self._fact(_measurement("made", series))

    def delete(self, what: Series | Literal["samples", "messages"], before_ns: int) -> int:
        """InfluxDB does not tell how many: 0."""
        self.open()
        if what == "messages":
            begin_ns, end_ns, names = NO_TIME_NS + SECOND_NS, before_ns // SECOND_NS * SECOND_NS, [MESSAGES]
        else:
            series = None if what == "samples" else what
            begin_ns, end_ns = OLDEST_NS, before_ns
            names = [_measurement(name, series) for name in self._columns(series)]
        for name in names:
            self._ask(f"DELETE FROM {_identifier(name)} WHERE {_between(begin_ns, end_ns)}")  # noqa: S608
        return 0

    def tidy(self) -> None:
        """Nothing: the server compacts by itself."""

    def close(self) -> None:
        self._is_open = False
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _storable(columns: Sequence[Values], refused: Refused) -> list[Values]:
    """The values that InfluxDB can hold."""
    kept: list[Values] = []
    lost: list[Values] = []
    for values in columns:
        good = np.isfinite(values.value) & (values.time_ns >= OLDEST_NS) & (values.time_ns <= NEWEST_NS)
        if good.all():
            kept.append(values)
            continue
        kept += [values.only(good)] if good.any() else []
        lost.append(values.only(~good))
        refused.add_values(int((~good).sum()), f"infinite values or times out of range of {values.column}")
    refused.rows += rows_without(lost, kept)
    return kept


def _dropped(text: str) -> int:
    """How many points the server did not take: those that it dropped, and lines that it could not read.

    >>> _dropped("partial write: points beyond retention policy dropped=2"), _dropped("unable to parse 'x': no fields")
    (2, 1)
    """
    dropped = re.search(r"dropped=(\d+)", text)
    return max(1, int(dropped[1] if dropped else 0) + text.count("unable to parse '"))


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from (line for line in lines if line)
    if rest.strip():
        yield rest


def _arrays(rows: Sequence[Sequence[Any]]) -> tuple[Any, Any, Any]:
    table = np.array([tuple(row) for row in rows], dtype=VALUE_ROW)
    return table["time_ns"], table["value"], table["quality"]


def _library() -> Any:
    """httpx, which only those need who name such a connection."""
    try:
        return importlib.import_module("httpx")
    except ImportError as error:
        raise FatalError(f"influxdb needs httpx: {how_to_install('influxdb')}") from error


def open_store(config: InfluxdbConfig, context: Context) -> InfluxdbStore:
    return InfluxdbStore(config, context)


def probe(config: InfluxdbConfig, context: Context) -> Probe:
    store = open_store(config, context)
    found = probe_store(store)
    return replace(found, certificate_until_s=store.certificate_until_s())


NODE = ConnectionNode(
    kind="influxdb", config=InfluxdbConfig, family="store", open=open_store, probe=probe, where=("url", "database")
)
