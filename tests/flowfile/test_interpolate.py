"""`${…}` in flow and site files: where values come from, what type they have, and that secrets stay secret."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_kinds
import pytest
from flow_kinds import FLOW, SITE

from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import CheckedFlow, PlannedNode, load_flow, to_mermaid, to_svg

Check = Callable[..., CheckedFlow]

SECRET = "s3cr3t-Pa55"
LOGIN_SITE = SITE.replace(
    "host: bus.example", 'host: bus.example, username: "${BUS_USER}", password: "${file:bus.txt}"'
)


def node(checked: CheckedFlow, name: str) -> PlannedNode:
    assert checked.plan is not None, [str(problem) for problem in checked.problems]
    return next(each for each in checked.plan.nodes if each.id == name)


def setting(checked: CheckedFlow, name: str, key: str) -> Any:
    return getattr(node(checked, name).config, key)


def with_topic(topic: str) -> str:
    return FLOW.replace('"edgeflex/${site}/event"', topic)


def with_port(port: str) -> str:
    return FLOW.replace('"${meter_port}"', port)


def test_the_site_gives_its_name(check: Check) -> None:
    assert setting(check(), "tell", "topic") == "edgeflex/yard_7/event"


def test_without_a_site_file_the_site_is_called_local(check: Check) -> None:
    flow = 'flow: a\nnodes: {m: {kind: meter, port: 1, host: "${site}"}}\n'
    checked = check(flow, None)
    assert setting(checked, "m", "host") == "local"
    assert checked.plan is not None
    assert checked.plan.site == "local"
    assert checked.plan.folder == Path.cwd()


def test_the_command_line_wins_over_the_site_and_the_site_over_the_flow(check: Check) -> None:
    bare_site = SITE.replace("params: {meter_port: 4800}", "")
    found = [
        setting(checked, "pmu", "port")
        for checked in (check(site=bare_site), check(), check(params={"meter_port": "4900"}))
    ]
    assert found == [4713, 4800, 4900]


def test_params_win_over_the_environment(check: Check) -> None:
    flow = with_port('"${PORT}"').replace("{meter_port: 4713}", "{PORT: 1}")
    assert setting(check(flow, environment={"PORT": "2"}), "pmu", "port") == 1


def test_lower_case_names_never_come_from_the_environment(check: Check) -> None:
    [problem] = check(with_topic('"${home}"'), environment={"home": "x"}).problems
    assert (problem.message, problem.got) == ("unknown param", "'home'")


@pytest.mark.parametrize(
    ("text", "environment", "topic"),
    [
        ('"${TOPIC}"', {"TOPIC": "a/b"}, "a/b"),
        ('"${TOPIC:-c}"', {}, "c"),
        ('"${TOPIC:-c}"', {"TOPIC": ""}, "c"),
        ('"${TOPIC:-}x"', {}, "x"),
        ('"a/${TOPIC}/${site}"', {"TOPIC": "t"}, "a/t/yard_7"),
        ('"$$SYS/$${x}"', {}, "$SYS/${x}"),
        ('"$SYS/$"', {}, "$SYS/$"),
        ('"${TOPIC}"', {"TOPIC": "${site}$$"}, "${site}$$"),
        ('"p${meter_port}"', {}, "p4800"),
    ],
)
def test_text_is_put_together_from_its_parts(text: str, environment: dict[str, str], topic: str, check: Check) -> None:
    assert setting(check(with_topic(text), environment=environment), "tell", "topic") == topic


def test_a_param_may_be_made_of_others(check: Check) -> None:
    flow = with_topic('"${root}/x"').replace("{meter_port: 4713}", '{meter_port: 1, root: "${top}/${HOST}", top: t}')
    assert setting(check(flow, environment={"HOST": "h"}), "tell", "topic") == "t/h/x"


def test_keys_are_never_interpolated(check: Check) -> None:
    flow = FLOW.replace("store: history", 'store: history, levels: {"${site}": 1}')
    assert setting(check(flow), "shed", "levels") == {"${site}": 1.0}


def test_a_param_keeps_its_own_type(check: Check) -> None:
    flow = with_port('"${meter_port}"')
    [problem] = check(flow, params={"meter_port": "'4900'"}).problems
    assert (problem.message, problem.got) == ("'port' needs an integer from 1 to 65535", "'4900'")


def test_list_items_and_nested_values_are_interpolated(check: Check) -> None:
    flow = FLOW.replace("store: history", 'store: history, delays: [1s, "${D}"], steps: [{level: "${L}"}]')
    checked = check(flow, environment={"D": "20ms", "L": "0.5"})
    assert setting(checked, "shed", "delays") == (1.0, 0.02)
    assert setting(checked, "shed", "steps")[0].level == 0.5


@pytest.mark.parametrize(("text", "port"), [("4711", 4711), (" 4711 ", 4711), ("0x10", 16)])
def test_text_of_the_environment_becomes_the_number_that_is_wanted(text: str, port: int, check: Check) -> None:
    assert setting(check(with_port('"${PORT}"'), environment={"PORT": text}), "pmu", "port") == port


def test_a_default_becomes_the_number_that_is_wanted(check: Check) -> None:
    assert setting(check(with_port('"${PORT:-4711}"')), "pmu", "port") == 4711


def test_text_of_the_environment_stays_text_where_text_is_wanted(check: Check) -> None:
    assert setting(check(with_topic('"${TOPIC}"'), environment={"TOPIC": "5"}), "tell", "topic") == "5"


def test_a_param_without_a_value_must_be_given(check: Check) -> None:
    flow = FLOW.replace("meter_port: 4713", "meter_port: ")
    site = SITE.replace("params: {meter_port: 4800}", "")
    [problem] = check(flow, site, secrets="required").problems
    expected = "param 'meter_port' has no value (give it with -D meter_port=… or in the site file), needed by 'port'"
    assert (problem.line, problem.column, problem.message) == (5, 31, expected)
    assert check(flow, site).problems == ()
    assert setting(check(flow), "pmu", "port") == 4800


def test_an_unknown_option_names_the_nearest_param(check: Check) -> None:
    [problem] = check(params={"metr_port": "1"}).problems
    assert str(problem) == (
        "-D metr_port: no file declares the param 'metr_port' under 'params:'; known: meter_port; "
        "did you mean 'meter_port'?"
    )


def test_the_name_of_the_site_is_no_option(check: Check) -> None:
    [problem] = check(params={"site": "x"}).problems
    assert problem.message == "'site' is the site's name and cannot be set"


def test_an_option_may_set_what_only_the_site_file_uses(check: Check) -> None:
    site = SITE.replace("bus.example", '"${bus_host}"').replace("{meter_port: 4800}", "{bus_host: a}")
    checked = check(site=site, params={"bus_host": "b"})
    assert getattr(node(checked, "tell").connections["bus"].config, "host", None) == "b"


def test_a_site_may_hold_params_for_other_flows(check: Check) -> None:
    assert check(site=SITE.replace("{meter_port: 4800}", "{other: 1}")).problems == ()


def test_missing_secrets_are_notes_when_only_checking(check: Check) -> None:
    checked = check(with_port('"${PORT}"'), LOGIN_SITE)
    assert checked.problems == ()
    assert checked.notes == (
        "flow.yaml:5:31: node 'pmu': environment variable PORT is not set, needed by 'port'",
        "site.yaml:3:56: environment variable BUS_USER is not set, needed by connection 'databus' ('username')",
        "site.yaml:3:81: secret file bus.txt does not exist or is no file, needed by connection 'databus' ('password')",
    )


def test_missing_secrets_are_problems_when_running(check: Check) -> None:
    checked = check(with_port('"${PORT}"'), LOGIN_SITE, secrets="required")
    assert [(problem.file, problem.line, problem.node) for problem in checked.problems] == [
        ("flow.yaml", 5, "pmu"),
        ("site.yaml", 3, None),
        ("site.yaml", 3, None),
    ]
    assert checked.problems[0].message == "environment variable PORT is not set, needed by 'port'"


def test_a_variable_that_is_nearly_there_is_named(check: Check) -> None:
    [note] = check(with_port('"${PMU_PORT}"'), environment={"PMU_PROT": "1"}).notes
    assert note.endswith("environment variable PMU_PORT is not set (did you mean 'PMU_PROT'?), needed by 'port'")


def test_a_flow_does_not_need_the_secrets_of_connections_that_it_does_not_use(check: Check) -> None:
    flow = "flow: a\nnodes:\n  m: {kind: meter, port: 1}\n  s: {kind: shed, from: m, store: history}\n"
    checked = check(flow, LOGIN_SITE, secrets="required")
    assert checked.problems == ()
    assert checked.plan is not None


def test_the_rest_is_checked_while_a_secret_is_missing(check: Check) -> None:
    flow = with_port('"${PORT}", host: 3').replace("kind: detect, from: slope", "kind: detect, from: pmu")
    checked = check(flow, LOGIN_SITE.replace("timeout: 2s", "timeout: 2"))
    assert [(problem.file, problem.node) for problem in checked.problems] == [
        ("flow.yaml", "pmu"),
        ("flow.yaml", "detect"),
        ("site.yaml", None),
    ]


def test_wires_behind_a_node_that_lacks_a_number_are_checked(check: Check) -> None:
    flow = with_port('"${PORT}"').replace("kind: detect, from: slope", "kind: detect, from: pmu")
    [problem] = check(flow).problems
    assert problem.message.startswith("port 'in' needs column 'rocof_hz_per_s'")


@pytest.mark.parametrize(
    "change",
    [
        ("column: rocof_hz_per_s", 'column: "${COLUMN}"'),
        ("column: rocof_hz_per_s", 'column: "x${COLUMN}"'),
        ('port: "${meter_port}"', 'port: 1, channels: ["${COLUMN}"]'),
        ('port: "${meter_port}"', 'port: 1, test: "${TEST}"'),
        ("store: history", 'store: history, mode: "${MODE}"'),
        ("store: history", 'store: "${STORE}"'),
        ("store: history", 'store: history, delays: ["${DELAY}"]'),
        ("store: history", 'store: history, limit: "${LIMIT}"'),
        ("default: 0.02 Hz/s", 'default: "${ONSET}"'),
        ("policy: trigger", 'policy: "${POLICY}"'),
        (
            "  shed:   {kind: shed, from: [pmu, slope], store: history}",
            '  shed: {kind: rename, from: pmu, columns: {frequency_hz: "${NAME}"}}\n'
            "  next: {kind: limit, from: shed, column: x_hz}",
        ),
    ],
    ids=lambda change: change[1][:40],
)
def test_what_is_missing_causes_no_other_problem(change: tuple[str, str], check: Check) -> None:
    checked = check(FLOW.replace(*change))
    assert [str(problem) for problem in checked.problems] == []
    assert any(" is not set, needed by '" in note for note in checked.notes)


def write_secret(text: str = f"{SECRET}\n") -> None:
    Path("bus.txt").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("text", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
def test_a_secret_file_is_read_without_its_last_newline(text: str, check: Check) -> None:
    write_secret(text)
    checked = check(site=LOGIN_SITE, environment={"BUS_USER": "u"}, secrets="required")
    assert getattr(node(checked, "tell").connections["bus"].config, "password", None) == SECRET


def test_a_secret_file_stands_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "sites" / "keys").mkdir(parents=True)
    (tmp_path / "sites" / "keys" / "bus.txt").write_text(SECRET)
    (tmp_path / "sites" / "yard.yaml").write_text(LOGIN_SITE.replace("file:bus.txt", "file:keys/bus.txt"))
    (tmp_path / "flow.yaml").write_text(FLOW)
    plan = load_flow(
        tmp_path / "flow.yaml",
        flow_kinds.registry(),
        site=tmp_path / "sites" / "yard.yaml",
        environment={"BUS_USER": "u"},
    )
    [config] = [each.connections["bus"].config for each in plan.nodes if each.id == "tell"]
    assert getattr(config, "password", None) == SECRET
    assert plan.folder == tmp_path / "sites"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * 70_000, "is larger than 64 KiB"),
        (None, "does not exist or is no file"),
    ],
)
def test_a_secret_file_that_cannot_be_used_says_why(content: bytes | None, reason: str, check: Check) -> None:
    if content is None:
        os.mkfifo("bus.txt")  # reading it would wait for ever
    else:
        Path("bus.txt").write_bytes(content)
    checked = check(site=LOGIN_SITE, environment={"BUS_USER": "u"}, secrets="required")
    assert [problem.message for problem in checked.problems] == [
        f"secret file bus.txt {reason}, needed by connection 'databus' ('password')"
    ]


SPILLS = [
    # What goes wrong with the secret, in the site file or the flow file.
    (SITE.replace("host: bus.example", 'host: bus.example, password: "${file:bus.txt}"'), FLOW),
    (SITE.replace("timeout: 2s", 'timeout: "${file:bus.txt}"'), FLOW),
    (SITE.replace("host: bus.example", 'host: bus.example, port: "${file:bus.txt}"'), FLOW),
    (SITE.replace("host: bus.example", 'host: bus.example, port: "1${file:bus.txt}"'), FLOW),
    (SITE, FLOW.replace("store: history", 'store: "${file:bus.txt}"')),
    (SITE, FLOW.replace("store: history", 'store: history, mode: "${file:bus.txt}"')),
    (SITE, FLOW.replace("column: rocof_hz_per_s", 'column: "${file:bus.txt}"')),
    (SITE, FLOW.replace("column: rocof_hz_per_s", 'column: "x_${file:bus.txt}_hz"')),
    (SITE, FLOW.replace("max: 1 Hz/s", 'max: "${file:bus.txt}"')),
    (SITE, FLOW.replace("policy: trigger", 'policy: "${file:bus.txt}"')),
    (SITE, FLOW.replace("window: 500ms", 'window: "5${file:bus.txt}"')),
    (SITE, FLOW.replace("window: 500ms", 'windw: "${file:bus.txt}"')),
    (
        SITE,
        FLOW.replace(
            "{kind: shed, from: [pmu, slope], store: history}",
            '{kind: rename, from: pmu, columns: {none: "${file:bus.txt}"}}',
        ),
    ),
    (SITE, FLOW.replace('"${meter_port}"', '1, channels: ["${file:bus.txt}"]').replace("rocof_hz_per_s", "no_such_hz")),
    (LOGIN_SITE, FLOW),
]


@pytest.mark.parametrize(("site", "flow"), SPILLS)
@pytest.mark.parametrize("secret", [SECRET, "fas", "two\nlines", "x"])
def test_a_secret_shows_in_no_problem_note_or_repr(site: str, flow: str, secret: str, check: Check) -> None:
    write_secret(secret)
    checked = check(flow, site, environment={"BUS_USER": SECRET}, secrets="required")
    shown = repr(checked) + "".join(map(str, checked.problems)) + "".join(checked.notes)
    # A secret of one letter cannot be told from other text; it must not stand in quotes.
    wanted = secret if len(secret) > 1 else f"'{secret}'"
    assert wanted not in shown.replace("'fast'", "").replace("fast, slow", "")
    assert SECRET not in shown


def test_a_secret_shows_in_no_picture(check: Check) -> None:
    write_secret()
    checked = check(site=LOGIN_SITE, environment={"BUS_USER": "someone"}, secrets="required")
    assert checked.plan is not None
    for picture in (to_mermaid(checked.plan), to_svg(checked.plan), repr(checked.plan)):
        assert SECRET not in picture
        assert "someone" not in picture


def test_a_secret_is_an_ordinary_text_to_those_who_use_it(check: Check) -> None:
    write_secret()
    checked = check(site=LOGIN_SITE, environment={"BUS_USER": "u"}, secrets="required")
    password = getattr(node(checked, "tell").connections["bus"].config, "password", None)
    assert password == SECRET
    assert f"{password}" == SECRET
    assert password.encode() == SECRET.encode()
    assert pickle.loads(pickle.dumps(password)) == SECRET


def test_a_refused_login_does_not_quote_the_password(check: Check) -> None:
    write_secret()
    site = SITE.replace("host: bus.example", 'host: bus.example, password: "${file:bus.txt}"')
    [problem] = check(site=site, secrets="required").problems
    assert problem.message == "its values do not go together (***)"


@pytest.mark.parametrize("user", ["", ", username: u"])
def test_a_password_that_stands_in_the_file_is_not_quoted_either(user: str, check: Check) -> None:
    checked = check(site=SITE.replace("host: bus.example", f"host: bus.example, password: {SECRET}{user}"))
    assert (checked.plan is None) == (user == "")
    assert SECRET not in repr(checked)


def test_load_raises_with_every_problem(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW.replace("500ms", "500").replace("kind: detect", "kind: detct"))
    with pytest.raises(FlowFileError) as caught:
        load_flow(tmp_path / "flow.yaml", flow_kinds.registry(), params={"x": "1"}, environment={})
    assert [problem.line for problem in caught.value.problems] == [6, 7, 14, 15, 0]


def params_of(count: int, text: str) -> str:
    """Params `p0` to `p<count>`, each made of the next; the last is `x`."""
    lines = [f"  p{i}: '{text.format(i + 1)}'" for i in range(count)]
    return FLOW.replace("params: {meter_port: 4713}", "\n".join(["params:", *lines, f"  p{count}: x"]))


@pytest.mark.parametrize(("text", "count"), [("${{p{0}}}", 3000), ("${{p{0}}}${{p{0}}}", 60)])
def test_params_that_stand_for_each_other_without_end_are_a_problem(text: str, count: int, check: Check) -> None:
    flow = params_of(count, text).replace("500ms", "'${p0}'")
    problems = check(flow).problems
    assert "params stand for each other more than 40 deep" in {problem.message for problem in problems}


def test_a_text_that_grows_without_end_is_a_problem(check: Check) -> None:
    flow = params_of(30, "${{p{0}}}${{p{0}}}").replace("500ms", "'${p0}'")
    problems = check(flow).problems
    assert problems[0].message == "a text with its params replaced has at most 1048576 characters"


def test_a_long_param_in_many_texts_is_told_once_and_exhausts_no_memory(check: Check) -> None:
    channels = ", ".join(['"${long}x"'] * 5_000)
    flow = FLOW.replace("params: {", f"params: {{long: {'x' * 100_000}, ").replace(
        'port: "${meter_port}"', f'port: "${{meter_port}}", channels: [{channels}]'
    )
    assert channels in flow
    told = [each for each in check(flow).problems if "16777216 characters together" in each.message]
    assert [each.node for each in told] == ["pmu"]


def test_texts_that_share_a_long_param_as_it_is_take_nothing(check: Check) -> None:
    channels = ", ".join(['"${long}"'] * 3)
    flow = FLOW.replace("params: {", f"params: {{long: {'x' * 900_000}, ").replace(
        'port: "${meter_port}"', f'port: "${{meter_port}}", channels: [{channels}]'
    )
    assert not [each for each in check(flow).problems if "characters together" in each.message]
