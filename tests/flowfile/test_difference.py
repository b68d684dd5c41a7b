"""What differs between two versions of a flow, told by what it is about."""

from __future__ import annotations

from pathlib import Path

import pytest
from flow_versions import version_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeflex_flow.flowfile import Plan, to_svg
from edgeflex_flow.flowfile.difference import both_of, difference, marks_of, renamed

TELL = "  tell: {kind: mqtt_publish, from: event, bus: databus, topic: event}"
FLOW = """\
flow: grid
nodes:
  pmu: {kind: pmu_client, host: 127.0.0.1, port: 4712, idcode: 1}
  rocof: {kind: rocof, from: pmu, window: 500ms}
  event:
    kind: frequency_event
    from: rocof
    onset: {policy: trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}
  tell: {kind: mqtt_publish, from: event, bus: databus, topic: event}
"""


def plan(folder: Path, *changes: tuple[str, str]) -> Plan:
    return version_of(FLOW, folder, *changes)


CASES = {
    ("window: 500ms", "window: 1s"): ["rocof.window: 500ms → 1s"],
    ("port: 4712", "port: 4713"): ["pmu.port: 4712 → 4713"],
    ("hush", "hush-hush"): ["connection databus.password: *** → ***"],
    ("127.0.0.1:1883", "bus.example:1883"): [
        "connection databus.url: mqtt://127.0.0.1:1883 → mqtt://bus.example:1883"
    ],
    ("  tell:", "  say:"): ["node tell is called say now"],
    ("from: event,", "from: [event, rocof],"): ["wire rocof -> tell is new"],
    ("  event:", "  log: {kind: file_write, from: rocof, path: out.jsonl}\n  event:"): [
        "node log is new: file_write",
        "wire rocof -> log is new",
    ],
    (TELL, "  out: {kind: file_write, from: event, path: x.jsonl}"): [
        "node tell is gone: mqtt_publish",
        "node out is new: file_write",
        "wire event -> tell is gone",
        "wire event -> out is new",
        "connection databus is gone: mqtt",
    ],
    ("default: 0.02 Hz/s", "default: 0.03 Hz/s"): ["event.onset (trigger.onset) default: 0.02 Hz/s → 0.03 Hz/s"],
    ("max: 1 Hz/s", "max: 2 Hz/s"): ["event.onset (trigger.onset) max: 1 Hz/s → 2 Hz/s"],
    ("{policy: trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}", "0.02 Hz/s"): [
        "event.onset: policy trigger.onset, 0.005 Hz/s to 1 Hz/s, else 0.02 Hz/s → bound to no policy"
    ],
    ("site: yard\n", "site: yard\nstate: {folder: state}\n"): ["state: none → kept in state, every 1 s"],
    ("flow: grid", "# another\nflow: grid"): [],
}  # fmt: skip


@pytest.mark.parametrize("change", CASES, ids=lambda change: change[1].strip().splitlines()[-1][:40])
def test_each_thing_that_differs_is_told_in_the_words_of_the_file(tmp_path: Path, change: tuple[str, str]) -> None:
    old = plan(tmp_path)
    assert [each.text for each in difference(old, plan(tmp_path, change))] == CASES[change]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(list(CASES)[:5]), max_size=3, unique=True))
def test_a_version_differs_from_itself_in_nothing_and_back_as_there(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("versions")
    old = plan(folder)
    new = plan(folder, *changes)
    assert difference(new, new) == []
    there, back = difference(old, new), difference(new, old)
    assert len(there) == len(back)
    assert {(each.name, each.before, each.after) for each in there if each.how == "changed"} == {
        (each.name, each.after, each.before) for each in back if each.how == "changed"
    }


def test_a_picture_shows_what_is_gone_what_is_new_and_what_changed(tmp_path: Path) -> None:
    old = plan(tmp_path)
    new = plan(
        tmp_path,
        ("window: 500ms", "window: 1s"),
        ("  tell: {kind: mqtt_publish, from: event,", "  say: {kind: mqtt_publish, from: rocof, qos: 2,"),
    )
    nodes, wires = marks_of(difference(old, new))
    assert nodes == {"tell": "removed", "say": "added", "rocof": "changed"}
    assert wires == {"event -> tell": "removed", "rocof -> say": "added"}
    picture = to_svg(both_of(old, new, renamed(old, new)), nodes=nodes, wires=wires)
    for words in ('class="sink removed"', 'class="sink added"', 'class="operator changed"', 'class="wire removed"'):
        assert words in picture


POLL = "  load: {kind: rest_poll, api: market, path: /load, period: 60s, columns: [active_power_w]}\n"
BEARER = "{kind: bearer, token: first-token}"
JWT = "{kind: jwt, key: key.pem, issuer: grid, audience: market}"
OAUTH = '{kind: oauth2, token_url: "https://login.example/token", client_id: grid, client_secret: first-secret}'


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (BEARER, BEARER.replace("first", "other"), ["auth.token: *** → ***"]),
        (
            JWT,
            BEARER,
            [
                "auth.kind: jwt → bearer",
                "auth.key: key.pem → none",
                "auth.issuer: grid → none",
                "auth.audience: market → none",
                "auth.token: none → ***",
            ],
        ),
        (OAUTH, OAUTH.replace("first-secret", "other-secret"), ["auth.client_secret: *** → ***"]),
        (OAUTH, OAUTH.replace("id: grid", "id: yard"), ["auth.client_id: grid → yard"]),
        (JWT, JWT.replace("}", ", lifetime: 60s}"), ["auth.lifetime: 5min → 60s"]),
        ("null", BEARER, ['auth: none → {"kind":"bearer","token":"***"}']),
        (BEARER, "null", ['auth: {"kind":"bearer","token":"***"} → none']),
    ],
)
def test_secrets_within_settings_are_not_shown_and_nested_settings_are_told_key_by_key(
    tmp_path: Path, old: str, new: str, told: list[str]
) -> None:
    (tmp_path / "key.pem").write_text("")
    both = [
        version_of(
            FLOW + POLL,
            tmp_path,
            ("connections:\n", f'connections:\n  market: {{kind: rest, url: "https://m.example", auth: {auth}}}\n'),
        )
        for auth in (old, new)
    ]
    found = [each.text.replace(f"{tmp_path}/", "") for each in difference(*both)]
    assert found == [f"connection market.{each}" for each in told]
