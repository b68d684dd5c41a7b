"""A setting that holds one of several mappings, told apart by a word: `auth` of the connection `rest`."""

from __future__ import annotations

from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from msgspec import json

from edgeflex_connectors.rest_auth import Bearer, ClientCredentials
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.manual import page, to_markdown
from edgeflex_flow.flowfile import CheckedFlow, check_flow, json_schema
from edgeflex_flow.flowfile.document import parse_document

REGISTRY = shipped_registry()
FLOW = """\
flow: ask
nodes:
  ask: {kind: rest_poll, api: grid, path: /a, period: 1s, messages: [alarm]}
  log: {kind: file_write, from: ask, path: a.jsonl}
"""
GOOD = "{kind: bearer, token: hunter2}"
OAUTH2 = "{kind: oauth2, token_url: 'https://a/token', client_id: i, client_secret: '${file:secret}'}"


def site_with(auth: str) -> str:
    return f"site: yard\nconnections:\n  grid: {{kind: rest, url: 'https://a', auth: {auth}}}\n"


def check(folder: Path, auth: str) -> CheckedFlow:
    (folder / "flow.yaml").write_text(FLOW)
    (folder / "site.yaml").write_text(site_with(auth))
    return check_flow(folder / "flow.yaml", REGISTRY, site=folder / "site.yaml", environment={})


def auth_of(checked: CheckedFlow) -> object:
    assert [str(problem) for problem in checked.problems] == []
    assert checked.plan is not None
    config = checked.plan.nodes[0].connections["api"].config
    return config.auth  # type: ignore[attr-defined]


def test_the_word_says_which_mapping_it_is(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s\n")
    assert auth_of(check(tmp_path, GOOD)) == Bearer(token="hunter2")
    granted = ClientCredentials(token_url="https://a/token", client_id="i", client_secret="s")
    assert auth_of(check(tmp_path, OAUTH2)) == granted


@pytest.mark.parametrize(
    ("auth", "complaint"),
    [
        ("{token: hunter2}", "'auth.kind' is missing: one of bearer, jwt, oauth2"),
        ("{kind: baerer, token: hunter2}", "did you mean 'bearer'?"),
        ("{kind: 5, token: hunter2}", "'auth.kind' is none that is known"),
        ("{kind: bearer}", "'auth.token' is missing: The token."),
        ("{kind: bearer, token: hunter2, issuer: x}", "unknown key 'auth.issuer'; known: kind, token"),
        ("{kind: jwt, key: a.pem, issuer: i, audience: a, lifetime: 5}", "'auth.lifetime': write it with its unit"),
        ("{kind: jwt, key: a.pem, issuer: i, audience: a, lifetime: 1s}", "from 10s to 24h"),
        ("{kind: oauth2, token_url: 'http://b', client_id: i, client_secret: hunter2}", "must begin with https://"),
        ("5", "'auth' needs one of bearer, jwt, oauth2"),
        ("bearer", "'auth.token' is missing"),
    ],
)
def test_what_is_wrong_in_it_is_told_without_its_secret(tmp_path: Path, auth: str, complaint: str) -> None:
    checked = check(tmp_path, auth)
    texts = [str(problem) for problem in checked.problems]
    assert any(complaint in text for text in texts), texts
    assert "hunter2" not in json.encode(checked.problems).decode() + repr(checked)


def test_a_secret_that_is_not_there_is_noted(tmp_path: Path) -> None:
    checked = check(tmp_path, OAUTH2)
    assert [str(problem) for problem in checked.problems] == []
    assert any("auth.client_secret" in note for note in checked.notes), checked.notes


def test_a_word_that_is_not_there_is_noted(tmp_path: Path) -> None:
    checked = check(tmp_path, "{kind: '${AUTH_KIND}', token: hunter2}")
    assert [str(problem) for problem in checked.problems] == []
    assert any("auth.kind" in note for note in checked.notes), checked.notes


def test_the_schema_knows_each_mapping_by_its_word() -> None:
    validator = jsonschema.Draft202012Validator(json_schema(REGISTRY))

    def is_valid(auth: str) -> bool:
        root = parse_document(site_with(auth), "x.yaml").root
        assert root is not None
        return bool(validator.is_valid(root.plain()))

    assert [is_valid(auth) for auth in (GOOD, OAUTH2)] == [True, True]
    assert [is_valid(auth) for auth in ("{token: t}", "{kind: bearer}", "{kind: jwt, token: t}")] == [False] * 3


def test_the_manual_names_the_words() -> None:
    assert "one of bearer, jwt, oauth2" in to_markdown(page(REGISTRY.connections["rest"]))
