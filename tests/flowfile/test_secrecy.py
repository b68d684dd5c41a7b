"""A secret that stands in a file shows in nothing that the check says, however the file is wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from flow_kinds import FLOW, SITE
from msgspec import json

from edgeflex_flow.errors import Problem
from edgeflex_flow.flowfile import CheckedFlow
from edgeflex_flow.flowfile.report import Report
from edgeflex_flow.flowfile.secrecy import Place, Span, masked

Check = Callable[..., CheckedFlow]

SECRET = "hunter2"


def said(checked: CheckedFlow) -> str:
    """All that any output may hold."""
    return json.encode(checked.problems).decode() + "".join(checked.notes) + repr(checked)


def site_with(connection: str, params: str = "{meter_port: 4800}") -> str:
    return SITE.replace("host: bus.example, timeout: 2s", connection).replace("{meter_port: 4800}", params)


WRONG = [
    "host: a, port: 0, username: u, password: hunter2",
    "password: hunter2, host: a, prot: 5, username: u",
    "host: a, prot: 5, username: u, password: 'hunter2'",
    'host: a, prot: 5, username: u, password: "hunter2"',
    "host: a, prot: 5, username: u, password: hunter2 two words",
    "host: a, prot: 5, username: u, password: one,hunter2",
    "host: a, prot: 5, username: u, password: hunter2, password: hunter2b",
    "host: a, prot: 5, username: u, password: [hunter2]",
    "host: a, prot: 5, username: u, password: {hunter2: hunter2, hunter2: 1}",
    "host: a, prot: 5, username: u, password: !hunter2 x",
    "host: a, prot: 5, username: u, password: *hunter2",
    "host: &x hunter2, prot: 5, username: u, password: *x",
    "host: a, prot: 5, username: u, password: '${NONE:-hunter2}'",
    "host: a, prot: 5, username: u, password: 'pre${hunter2}'",
    "host: a, prot: 5, username: u, password: 'pre${HUNTER2}hunter2'",
    "host: a, prot: 5, username: u, password: 'pre${hunter2'",
    "host: a, prot: 5, username: u, pasword: hunter2",
    "host: a, prot: 5, username: u, Password: hunter2",
    "host: a, prot: 5, username: u, password hunter2",
    "host: a, prot: 5, username: u, password:hunter2",
    "host: a, prot: 5, password: hunter2",
    "host: mqtt://me:hunter2@bus, prot: 5",
    "host: a, kind: brokr, username: u, password: hunter2",
    "host: a, prot: 5, username: u, password: 'hunter2",
    "host: a, prot: 5, username: u, password: hunter2: x",
    "host: a, prot: 5, username: u, password: ]hunter2",
    "host: a, prot: 5, username: u, password: hunter2 # hunter2 of the old bus",
    "host: a, prot: 5, pwd: hunter2",
    "host: a, prot: 5, pw: hunter2",
    "host: a, prot: 5, PW: hunter2",
    "host: a, prot: 5, token: hunter2",
    "host: a, prot: 5, secret: hunter2",
    "host: a, prot: 5, secrets: hunter2",
    "host: a, prot: 5, passphrase: hunter2",
    "host: a, prot: 5, userpass: hunter2",
    "host: a, prot: 5, brokerPass: hunter2",
    "host: a, prot: 5, broker_login_password: hunter2",
    "host: a, prot: 5, kennwort: hunter2",
    "host: a, prot: 5, Passwort: hunter2",
    "host: a, prot: 5, api_key: hunter2",
    "host: a, prot: 5, apiKey: hunter2",
    "host: a, prot: 5, APIKEY: hunter2",
    "host: a, prot: 5, private-key: hunter2",
    "host: a, prot: 5, credentials: hunter2",
    "host: a, prot: 5, mqtt_passwd: hunter2",
    "host: a, prot: 5, bus_pw2: hunter2",
    "host: 'mqtt://u:p@hunter2@bus', prot: 5",
    "host: 'mqtt://u:p/hunter2@bus', prot: 5",
    "host: 'mqtt://u:p hunter2@bus', prot: 5",
    "host: mqtt://hunter2@bus, prot: 5",
    "host: 'mqtt:/u:hunter2@bus', prot: 5",
    "host: 'u:hunter2@bus', prot: 5",
    "host: 'u:a://hunter2@bus', prot: 5",
    "host: 'u:it''s hunter2@bus', prot: 5",
    'host: "mqtt://u:\\x41hunter2@bus", prot: 5',
    "host: a, prot: 'mqtt://u:hunter2@bus'",
    f"host: a, prot: 'mqtt://u:{'hunter2' * 20}@bus'",
    "host: a, prot: 5, 'u:hunter2@bus': 1",
    "host: a, prot: 5, 'mqtt://u:${NONE:-hunter2}@bus': 1",
    "host: 'mqtt://u:${NONE:-hunter2}@bus', prot: 5",
    "host: a, prot: 5, pwd=hunter2",
    "host: a, prot: 5, token hunter2",
    "host: a, prot: 5, secret: {value: hunter2}",
    "host: a, prot: 5, tokens: [hunter2]",
    "host: mqtt://u:p hunter2@bus, prot: [",
    "host: u:hunter2@bus, prot: [",
    "host: u:hunter2 x:/y@bus, prot: [",
    "host: a, prot: 5, pwd: 'hunter2",
    "host: a, prot: 5} # password is hunter2 #",
    "host: a, prot: 5} # Passwort: hunter2 #",
    "host: a, prot: 5} # the pw of the bus, which is hunter2 #",
    "host: a, prot: 5} # was mqtt://u:p hunter2@bus #",
]


@pytest.mark.parametrize("connection", WRONG)
def test_a_literal_secret_shows_in_no_output(connection: str, check: Check) -> None:
    checked = check(site=site_with(connection))
    assert checked.problems
    assert "hunter2" not in said(checked).casefold()


@pytest.mark.parametrize("number", ["1234567", "12.34567", "0x1234567", "-1234567"])
def test_a_secret_that_is_a_number_shows_in_no_output(number: str, check: Check) -> None:
    checked = check(site=site_with(f"host: a, prot: 5, username: u, password: {number}"))
    assert [problem.got for problem in checked.problems if "password" in problem.message] == ["***"]
    assert "34567" not in said(checked)


def test_other_keys_of_the_line_are_shown_with_the_caret_in_its_place(check: Check) -> None:
    checked = check(site=site_with("host: a, password: 1234567890, prot: 5"))
    excerpts = {problem.message: problem.excerpt for problem in checked.problems}
    excerpt = excerpts["unknown key 'prot'"]
    assert excerpt is not None
    assert excerpt.line == "  databus: {kind: broker, host: a, password: ***, prot: 5}"
    assert excerpt.line[excerpt.column - 1 :] == "prot: 5}"


def test_where_a_secret_comes_from_is_shown(check: Check) -> None:
    checked = check(site=site_with('host: a, prot: 5, username: u, password: "${file:bus.txt}"'))
    excerpt = checked.problems[0].excerpt
    assert excerpt is not None
    assert "${file:bus.txt}" in excerpt.line


def test_a_secret_in_a_param_is_no_more_shown_there(check: Check) -> None:
    site = site_with('host: a, username: u, password: "${bus_pw}"', "{bus_pw: 1234567, Wrong: 1, meter_port: 1}")
    checked = check(site=site)
    assert len(checked.problems) == 2
    assert "1234567" not in said(checked)


@pytest.mark.parametrize(
    ("host", "params"),
    [
        ("mqtt://u:${word}@bus", "{word: hunter2, Wrong: 1, meter_port: 1}"),
        ("u:${word}@bus", "{word: hunter2, Wrong: 1, meter_port: 1}"),
        ("mqtt://${who}@bus", "{who: 'u:${word}', word: hunter2, Wrong: 1, meter_port: 1}"),
        ("mqtt://$$u:x${word}$${@bus", "{word: hunter2, Wrong: 1, meter_port: 1}"),
        ("${where}", "{where: 'mqtt://u:${word}@bus', word: hunter2, Wrong: 1, meter_port: 1}"),
        ("mqtt://u:${word}@bus", "{word: hunter2, meter_port: 1, again: '${word}${'}"),
    ],
)
def test_a_param_that_becomes_the_password_of_an_url_is_shown_nowhere(host: str, params: str, check: Check) -> None:
    checked = check(site=site_with(f'host: "{host}", port: 0', params))
    assert len(checked.problems) >= 2
    assert SECRET not in said(checked)


def test_a_secret_param_is_shown_in_no_file_that_gives_it_a_value(check: Check) -> None:
    flow = FLOW.replace("params: {", "params: {word: hunter2, Wrong: 1, ")
    site = site_with('host: "${word}", username: u, password: "${word}"', "{word: abcdefg, meter_port: 1}")
    flow = flow.replace('"edgeflex/${site}/event"', '"mqtt://u:${word}@bus"')
    checked = check(flow, site=site)
    assert checked.problems
    assert SECRET not in said(checked)


def test_the_rest_of_an_url_is_shown(check: Check) -> None:
    checked = check(site=site_with("host: 'mqtt://u:p@q@bus', prot: 'mqtt://u:p@q@bus'"))
    excerpt = checked.problems[0].excerpt
    assert excerpt is not None
    assert excerpt.line == "  databus: {kind: broker, host: 'mqtt://***@bus', prot: 'mqtt://***@bus'}"


def test_a_node_may_be_named_after_a_secret(check: Check) -> None:
    flow = FLOW.replace("pmu", "token")
    assert "token:" in flow
    assert check(flow).problems == ()


def test_filters_let_bands_pass_and_hide_nothing(check: Check) -> None:
    checked = check(FLOW.replace("window: 500ms", "window: 500ms, low_pass_hz: 5, passive: 6"))
    excerpts = [problem.excerpt.line for problem in checked.problems if problem.excerpt]
    assert excerpts
    assert all("low_pass_hz: 5, passive: 6" in line for line in excerpts)


def test_a_secret_over_several_lines_is_shown_on_none(check: Check) -> None:
    block = (
        "\n    kind: broker\n    prot: 5\n    password: |\n      hunter2\n      hunter2\n    username: u\n    host: 5"
    )
    site = SITE.replace(" {kind: broker, host: bus.example, timeout: 2s}", block)
    checked = check(site=site)
    assert len(checked.problems) == 2
    assert SECRET not in said(checked)


@pytest.mark.parametrize(
    "lines",
    [
        "    password: |\n      hunter2\n     \t- hunter2: [",
        "    password: 'hunter2\n hunter2: x\n\n  y: [",
        "    password:\n      hunter2: hunter2: 5",
        "    password hunter2\n    host: a",
        "    password: hunter2\n  - host",
    ],
)
def test_a_secret_in_a_file_that_is_no_yaml_is_not_shown(lines: str, check: Check) -> None:
    site = SITE.replace(" {kind: broker, host: bus.example, timeout: 2s}", f"\n    kind: broker\n{lines}")
    checked = check(site=site)
    assert checked.problems
    assert SECRET not in said(checked)


def test_a_secret_on_the_command_line_is_not_shown(check: Check) -> None:
    site = site_with('host: a, username: u, password: "${bus_pw}"')
    checked = check(site=site, params={"bus_pw": "1234567"})
    assert "1234567" not in said(checked)


def test_a_key_of_another_kind_is_no_secret_for_being_close_to_one(check: Check) -> None:
    checked = check(FLOW.replace("window: 500ms", "window: 500"))
    assert [problem.got for problem in checked.problems] == ["500"]


@pytest.mark.parametrize(("column", "shown_column"), [(1, 1), (4, 4), (5, 5), (9, 5), (12, 5), (13, 8), (15, 10)])
def test_a_caret_within_a_secret_stands_at_its_start(column: int, shown_column: int) -> None:
    line = "abcdSECRETXXefg"
    assert masked(line, 1, column, [Span(Place(1, 5), Place(1, 13))]) == ("abcd***efg", shown_column)


def test_problems_without_a_line_have_no_excerpt(check: Check) -> None:
    problems: tuple[Problem, ...] = check(params={"nothing": "1"}).problems
    assert [problem.excerpt for problem in problems] == [None]


def test_many_secrets_beside_many_problems_are_hidden_in_little_time(check: Check) -> None:
    connections = "".join(f"  c{k}: {{kind: broker, host: 'u:p{k}p@x', pwd: p{k}p, q: 1}}\n" for k in range(3000))
    before = time.process_time()
    checked = check(site=SITE.replace("connections:\n", f"connections:\n{connections}"))
    assert len(checked.problems) >= 1000
    assert not re.search(r"p\d+p", said(checked))
    assert time.process_time() - before < 30


@pytest.mark.parametrize("before", [1, 1970, 1990, 1999, 2500])
def test_a_secret_in_a_very_long_text_is_taken_out_before_the_text_is_cut(before: int) -> None:
    report = Report(())
    report.hide("hunter2" * 400)
    report.hide("xhunt")
    shown = report.scrub("x" * before + "hunter2" * 400)
    assert len(shown) <= 2004
    assert "h" not in shown


def test_hidden_texts_that_overlap_leave_nothing_of_each_other() -> None:
    report = Report(())
    for text in ("abc", "bcdefg", "fgh"):
        report.hide(text)
    assert report.scrub("-abcdefgh-abc-bc") == "-***-***-bc"
