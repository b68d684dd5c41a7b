"""Behind a proxy: whom it forwards, and under which path it shows the page."""

from __future__ import annotations

from collections.abc import Collection

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send


class Forwarded:
    """ASGI middleware. Of proxies that the site file names, and of nobody else, it believes `X-Forwarded-For`,
    `X-Forwarded-Proto` and `X-Forwarded-Host`; it takes the base path off, if the proxy has not done so."""

    def __init__(self, app: ASGIApp, proxies: Collection[str], base_path: str) -> None:
        self._app = app
        self._proxies = frozenset(proxies)
        self._base_path = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            client = scope["client"]
            if client is not None and client[0] in self._proxies:
                self._believe(scope)
            self._take_off(scope)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> None:
        told = {name: value for name, value in scope["headers"] if name.startswith(b"x-forwarded-")}
        # Each proxy adds whom it saw; what stands before the last that is none of ours, anybody may have written.
        hops = [each.strip() for each in told.get(b"x-forwarded-for", b"").decode("latin-1").split(",") if each.strip()]
        while hops and hops[-1] in self._proxies:
            hops.pop()
        if hops:
            scope["client"] = (hops[-1][:64], 0)
        scheme = told.get(b"x-forwarded-proto", b"").decode("latin-1")
        if scheme in ("http", "https"):
            scope["scheme"] = scheme
        host = told.get(b"x-forwarded-host")
        if host:
            kept = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [*kept, (b"host", host)]

    def _take_off(self, scope: Scope) -> None:
        base = self._base_path
        if base and (scope["path"] == base or scope["path"].startswith(base + "/")):
            scope["path"] = scope["path"][len(base) :] or "/"
            scope["raw_path"] = scope["raw_path"][len(base) :] or b"/"
