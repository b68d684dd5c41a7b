"""A page of a service's operations, made of its OpenAPI document alone: nothing is loaded from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em}section{border-top:1px solid #8886;padding:.5rem 0}"
    ":root{color-scheme:light dark}"
)


class OperationsPage(OpenAPIRenderPlugin):
    """Served at the path of the document itself."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/operations"])

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        del request
        info = openapi_schema["info"]
        sections = [
            _section(method, path, operation)
            for path, methods in openapi_schema["paths"].items()
            for method, operation in methods.items()
            if isinstance(operation, dict) and "responses" in operation
        ]
        title = escape(f"{info['title']} {info['version']}")
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
            f"<h1>{title}</h1><p>{escape(info.get('description', ''))} "
            f'The whole document: <a href="/schema/openapi.json">openapi.json</a>.</p>{"".join(sections)}</html>'
        ).encode()


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<li><code>{escape(each['name'])}</code> ({escape(each['in'])}): {escape(each.get('description', ''))}</li>"
        for each in operation.get("parameters", [])
    )
    statuses = ", ".join(escape(str(status)) for status in operation["responses"])
    return (
        f"<section><h2>{escape(operation.get('summary', ''))}</h2><p><code>{escape(method.upper())} {escape(path)}"
        f"</code></p><p>{escape(operation.get('description', ''))}</p><ul>{rows}</ul>"
        f"<p>Answers: {statuses}</p></section>"
    )
