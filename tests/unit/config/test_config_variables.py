"""Variables in values: what they become, what is wrong with them, and that nobody sees the values."""

import json

import pytest
from config_samples import SAMPLES, ValkeyEnd
from pydantic import Field, SecretStr

from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.check import check_files
from shotover_gevent.config.load import load_config
from shotover_gevent.config.registry import Registry
from shotover_gevent.config.topology import parse_topology
from shotover_gevent.errors import ConfigError
from shotover_gevent.metrics import MetricStore


class Guarded(TransformConfig):
    """Has secrets, and fields of every type that a variable can stand for."""

    password: SecretStr | None = None
    user: str = ""
    ratio: float = 0.5
    limit: int | None = Field(None, le=100)
    is_on: bool = False
    words: list[str] = []


END = ValkeyEnd(name="end")


def topology(fields, **environ):
    """A topology whose first step has those fields, one in a line."""
    lines = "".join(f"            {field}\n" for field in fields)
    text = ("sources:\n  - Valkey:\n      name: v\n      listen_addr: 127.0.0.1:0\n      chain:\n"
            f"        - Guarded:\n            name: g\n{lines}        - ValkeyEnd: {{name: end}}\n")
    return parse_topology(text, Registry([Guarded, *SAMPLES]), "topology.yaml", environ)


def step(field, **environ):
    """The configuration object of a step with that field."""
    return topology([field], **environ).sources[0].chain[0]


def refusal(*fields, **environ):
    """The error of a step with those fields."""
    with pytest.raises(ConfigError) as caught:
        topology(fields, **environ)
    return caught.value


@pytest.mark.parametrize(("written", "environ", "user"), [
    ("${A}", {"A": "x"}, "x"),
    ('"${A}"', {"A": "x"}, "x"),
    ("a-${A}-${B}!", {"A": "x", "B": "y"}, "a-x-y!"),
    ("${A:-other}", {}, "other"),
    ("${A:-other}", {"A": ""}, "other"),
    ("${A:-}", {}, ""),
    ('"${A:-a: b}"', {}, "a: b"),
    ("$${A}", {"A": "x"}, "${A}"),
    ("$${A} ${A}", {"A": "x"}, "${A} x"),
    ("$A $ 5$", {"A": "x"}, "$A $ 5$"),
    ("${A}", {"A": "${B}", "B": "x"}, "${B}"),
    ("${A}", {"A": "012"}, "012"),
    ("${A}", {"A": "true"}, "true"),
    ("${A}", {"A": "null"}, "null"),
    ('"${A}"', {"A": ""}, ""),
])
def test_a_text_becomes_what_the_variables_say(written, environ, user):
    """Whatever the value looks like, a text field has it as it is."""
    found = step(f"user: {written}", **environ)
    assert found.user == user


@pytest.mark.parametrize("value", [
    "a: b", "- x", "{x: y}", "[1]", "!!str x", "&a x", "*a", "x # y", "a\nb: c", '"', "'", "%", "|", "${",
])
def test_no_value_changes_the_structure(value):
    """What YAML would take for something else is a text."""
    assert step("user: ${A}", A=value).user == value


@pytest.mark.parametrize(("field", "value", "found"), [
    ("limit: ${A}", "7", 7),
    ('limit: "${A}"', "0x10", 16),
    ("limit: ${A:-9}", "", 9),
    ("limit: ${A}", "", None),
    ("ratio: ${A}", "0.25", 0.25),
    ("ratio: ${A}", "1", 1),
    ("is_on: ${A}", "true", True),
])
def test_a_number_or_boolean_is_what_yaml_makes_of_the_text(field, value, found):
    """Quoted or not; an empty one that is not quoted is null."""
    made = step(field, A=value)
    assert getattr(made, field.partition(":")[0]) == found


def test_variables_may_stand_in_lists():
    """Each entry is a value."""
    assert step("words: [a, '${A}', '${B:-c}']", A="b").words == ["a", "b", "c"]


def test_keys_are_not_looked_at():
    """A key is what is written."""
    assert "${A}" in str(refusal("${A}: 1", A="user"))


@pytest.mark.parametrize(("written", "environ", "message"), [
    ("${MISSING}", {},
     "the environment has no variable MISSING\n    set it, or give a default: ${MISSING:-default}"),
    ("${PASWORD}", {"PASSWORD": "x"},
     "the environment has no variable PASWORD\n"
     "    did you mean ${PASSWORD}? set it, or give a default: ${PASWORD:-default}"),
    ("${A", {}, "${A is not a variable; one is written ${NAME} or ${NAME:-default}\n"
     "    write $${ for the characters ${"),
    ("${1A}", {}, "${1A} is not a variable; one is written ${NAME} or ${NAME:-default}\n"
     "    write $${ for the characters ${"),
    ("${A:=x}", {}, "${A:=x} is not a variable; one is written ${NAME} or ${NAME:-default}\n"
     "    write $${ for the characters ${"),
    ("${A}", {"A": "\udcff"}, "the variable A is not UTF-8\n    set it to a text"),
])
def test_what_cannot_be_put_in_is_told_with_its_place(written, environ, message):
    """Line, column, the way to the value, and a way out."""
    (problem,) = refusal(f'user: "{written}"', **environ).problems
    assert str(problem) == (
        f"topology.yaml:8:19  sources[0].Valkey.chain[0].Guarded.user: {message}")


def test_all_problems_come_together():
    """A missing variable hides nothing else, and is told once, whatever its field wants."""
    error = refusal("limit: ${A}", "ratio: wide")
    assert [problem.message for problem in error.problems] == [
        "the environment has no variable A", 'found the text "wide", wanted a number']


@pytest.mark.parametrize(("field", "value"), [
    ("limit: ${A}", "hunter2-and-more"), ("limit: ${A}", "70000"), ("is_on: ${A}", "x"),
    ("limit: ${A}", "y" * 200), ("limit: ${A}", 'quo"te\\'), ("words: ['${A}', 5.5.5, [x]]", "hunter2"),
    ("nothing: ${A}", "hunter2"),
])
def test_a_refusal_does_not_show_the_value(field, value):
    """It shows what is written; neither the report, nor Shotover's text, nor a cause has the value."""
    error = refusal(field, A=value)
    texts = [str(error), *error.chain, repr(error.__cause__), str(error.__cause__)]
    assert [text for text in texts if f'"{value}"' in text or len(value) > 3 and value[:60] in text] == []


def test_a_refusal_shows_what_is_written():
    """So that the place of the mistake is clear."""
    assert refusal("limit: ${A}", A="hunter2").problems[0].message == (
        'found the text "${A}", wanted an integer')


def described(topology):
    """The fields of the first step in a dump."""
    return topology.describe()["sources"][0]["Valkey"]["chain"][0]["Guarded"]


def test_a_dump_shows_what_is_written_for_variables():
    """Secrets are never in a dump; what is written plainly is."""
    found = topology(
        ["password: ${PW}", "user: me-${A}", "limit: ${N}", "words: ['${A}', x]"],
        PW="hunter2", A="you", N="5")
    assert described(found) == {
        "name": "g", "password": "${PW}", "user": "me-${A}", "limit": "${N}", "words": ["${A}", "x"],
        "ratio": 0.5, "is_on": False}
    assert (found.sources[0].chain[0].limit, found.sources[0].chain[0].user) == (5, "me-you")


def test_names_and_addresses_are_shown_in_a_dump():
    """Everybody can see them in metrics and in the list of listeners."""
    text = ("sources:\n  - Valkey:\n      name: ${A}\n      listen_addr: 127.0.0.1:${P}\n"
            "      chain: [{ValkeyEnd: {name: end}}]\n")
    source = parse_topology(text, Registry(SAMPLES), environ={"A": "edge", "P": "7"}).describe()["sources"][0]
    assert (source["Valkey"]["name"], source["Valkey"]["listen_addr"]) == ("edge", "127.0.0.1:7")


def test_a_secret_field_is_never_shown():
    """Not in a dump, and not in the repr of anything, wherever its value came from."""
    found = topology(["password: hunter2", "user: ${A}"], A="sesame")
    texts = [json.dumps(found.describe()), repr(found), str(found.sources[0].chain[0])]
    assert [text for text in texts if "hunter2" in text or "sesame" in text] == []


def identity(step):
    """What is compared when sessions move."""
    return ChainConfig("c", "Valkey", (step, END), MetricStore()).identity


def test_the_identity_of_a_chain_compares_the_real_values():
    """A secret that has changed makes another chain."""
    one, same, other = (step("password: ${A}", A=value) for value in ("x", "x", "y"))
    assert (identity(one) == identity(same), identity(one) == identity(other)) == (True, False)


def test_a_config_may_have_variables(tmp_path):
    """They are put in, and not printed."""
    path = tmp_path / "config.yaml"
    path.write_text("main_log_level: ${LEVEL:-info}\nobservability_interface: ${ADMIN}\n")
    found = load_config(path, {"ADMIN": "127.0.0.1:9001"})
    assert (found.main_log_level, found.observability_interface, str(found)) == (
        "info", "127.0.0.1:9001", "main_log_level='${LEVEL:-info}' observability_interface='${ADMIN}'")
    assert load_config(path, {"ADMIN": ""}).observability_interface is None


def test_the_check_takes_the_variables_of_its_process(tmp_path, monkeypatch):
    """As ``serve`` will; a missing one is a problem with its place."""
    (tmp_path / "config.yaml").write_text("main_log_level: info\n")
    (tmp_path / "topology.yaml").write_text(
        "sources:\n  - Valkey:\n      name: v\n      listen_addr: 127.0.0.1:${SOME_PORT}\n"
        "      chain: [{NullSink: {name: n}}]\n")
    files = tmp_path / "config.yaml", tmp_path / "topology.yaml"
    monkeypatch.delenv("SOME_PORT", raising=False)
    assert [(p.line, p.column, p.message) for p in check_files(*files).problems] == [
        (4, 20, "the environment has no variable SOME_PORT")]
    monkeypatch.setenv("SOME_PORT", "6379")
    assert str(check_files(*files).topology.sources[0].listen_addr) == "127.0.0.1:6379"
