"""What pages for people share: forms that only they can send, what browsers may do with answers, files they load."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.types import Message, Scope

LOOK = Path(__file__).parent / "look"
"""Files of the look that all pages share."""
MOST_FIELDS = 10_000
FOR_LONG = "public, max-age=31536000, immutable"
"""Of files whose address changes with what they hold."""
PATH = re.compile(r"/(?:[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)?/?(?:\?[A-Za-z0-9_.%&=+-]*)?")

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # Not `no-referrer`: with it browsers send `Origin: null` with our own forms.
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


async def guard_answer(message: Message, _: Scope) -> None:
    """Tell browsers with every answer what it may be used for."""
    if message["type"] == "http.response.start":
        message["headers"] = [*message["headers"], *HEADERS]


class Static(NamedTuple):
    """A file that pages load."""

    body: bytes
    media_type: str
    digest: str


_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def static_files(*folders: Path) -> Mapping[str, Static]:
    """All files of folders by name: a path in a request is looked up there and never opened."""
    return {
        file.name: Static(file.read_bytes(), _TYPES[file.suffix], hashlib.sha256(file.read_bytes()).hexdigest()[:12])
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.suffix in _TYPES
    }


def templates_in(folder: Path) -> Environment:
    """The templates of a folder. What is put into them is escaped, and what they lack is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def static_answer(files: Mapping[str, Static], name: str) -> Response[bytes]:
    """A file, which browsers keep. Raises HTTPException when there is none."""
    file = files.get(name)
    if file is None:
        raise HTTPException("there is no such file", status_code=404)
    return Response(file.body, media_type=file.media_type, headers={"Cache-Control": FOR_LONG})


def cookie_name(request: Request[Any, Any, Any], name: str) -> str:
    """With https a name that browsers let nobody but this very host set."""
    return f"__Host-{name}" if request.url.scheme == "https" else name


def session_cookie(request: Request[Any, Any, Any], name: str, shown: str | None) -> Cookie:
    """The cookie that shows a session; None: the one that ends it."""
    return Cookie(
        key=cookie_name(request, name),
        value=shown or "",
        path="/",
        max_age=None if shown else 0,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def this_path(request: Request[Any, Any, Any]) -> str:
    """The path of a request, with its query."""
    query = request.scope["query_string"].decode("ascii", "replace")
    return request.url.path + (f"?{query}" if query else "")


def safe_path(path: str) -> str:
    """A path of this site; the start page for what leads anywhere else.

    >>> safe_path("/policies?q=x"), safe_path("//evil.example"), safe_path("javascript:1")
    ('/policies?q=x', '/', '/')
    """
    return path if PATH.fullmatch(path) and not path.startswith("//") else "/"


class Form(dict[str, list[str]]):
    """What was typed, by field."""

    def text(self, name: str) -> str:
        """The last value of a field, without spaces around it."""
        return self.get(name, [""])[-1].strip()

    def number(self, name: str) -> int:
        """Raises HTTPException for what is no small number: only our own fields hold them."""
        text = self.text(name)
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise HTTPException(f"'{name}' is no number", status_code=400)
        return int(text)


def check_origin(request: Request[Any, Any, Any]) -> None:
    """Refuse what another site's page sends. Browsers say with every POST where it comes from.

    Raises PermissionDenied.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    from_here = site == "same-origin" if site is not None else True
    if origin is not None:
        from_here = from_here and urlsplit(origin).netloc == request.headers.get("host")
    if not from_here or (site is None and origin is None):
        raise PermissionDeniedException("this was not sent from one of our own pages")


async def read_form(request: Request[Any, Any, Any]) -> Form:
    check_origin(request)
    try:
        body = (await request.body()).decode("ascii")
        pairs = parse_qsl(body, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise HTTPException("the form cannot be read", status_code=400) from error
    form = Form()
    for name, value in pairs:
        form.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return form
