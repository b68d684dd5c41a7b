"""The parts of the urls that connections name."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit


def split_url(url: str, schemes: Collection[str], begins: str, *, ends_with_database: bool = False) -> SplitResult:
    """The parts of an url of `scheme://host[:port]`, with `/database` behind it if it `ends_with_database`.

    ValueError says what is wrong with the field `url`, for people, and never holds user or password; `begins` tells
    there which schemes there are.
    """
    split = urlsplit(url)
    if split.scheme not in schemes:
        raise ValueError(f"`url` must begin with {begins}; got '{split.scheme}'")
    if "@" in split.netloc:
        raise ValueError("`url` must not hold a user; use `username` and `password`")
    if not split.hostname:
        raise ValueError(f"`url` names no host; got '{url}'")
    if ends_with_database and (not split.path.strip("/") or "/" in split.path[1:] or split.query or split.fragment):
        raise ValueError(f"`url` ends with one database; got '{url}'")
    if not ends_with_database and (split.path.strip("/") or split.query or split.fragment):
        raise ValueError(f"`url` ends after the port; got '{url}'")
    try:
        port = split.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"`url`: the port is a number from 1 to 65535; got '{url}'")
    return split
