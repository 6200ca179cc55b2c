"""Which lines are printed, and what they look like."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from shotover_gevent import logs
from shotover_gevent.logs.directive import OFF, Directive, Filter, text_of
from shotover_gevent.logs.line import Line, Span, render_human, render_json

BAD_LEVEL = (
    'error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", '
    "or a number 0-5: "
)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

Printed = Callable[[], list[str]]


@pytest.fixture
def stream() -> io.StringIO:
    """Where the lines of a test go."""
    return io.StringIO()


@pytest.fixture
def start(stream: io.StringIO) -> Iterator[Callable[..., logs.LogHandle]]:
    """``configure`` for the test's stream; what is left open is closed."""
    handles = []

    def configure(text: str, log_format: Any = "human") -> logs.LogHandle:
        handles.append(logs.configure(logs.parse_directives(text), log_format, stream))
        return handles[-1]

    yield configure
    for handle in handles:
        handle.close()


def untimed(stream: io.StringIO) -> list[str]:
    """What was printed, line by line, with ``T`` for each time."""
    return TIME.sub("T", stream.getvalue()).splitlines()


# -- directives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("info, shotover=debug,, shotover::connection_span=trace ,", [
        Directive("", logging.INFO), Directive("shotover", logging.DEBUG),
        Directive("shotover::connection_span", logs.TRACE)]),
    ("off", [Directive("", OFF)]),
    ("shotover", [Directive("shotover", logs.TRACE)]),
    ("0,1,2,3,4,a=5", [
        Directive("", OFF), Directive("", logging.ERROR), Directive("", logging.WARNING),
        Directive("", logging.INFO), Directive("", logging.DEBUG), Directive("a", logs.TRACE)]),
    ("WARN,a=Error", [Directive("", logging.WARNING), Directive("a", logging.ERROR)]),
    ("shotover_gevent::net=info,shotover_gevent.sinks=info,kafka.conn=off", [
        Directive("shotover::net", logging.INFO), Directive("shotover::sinks", logging.INFO),
        Directive("kafka::conn", OFF)]),
    ("a=", [Directive("a", logging.ERROR)]),
    ("", []),
])
def test_directives_are_read_as_tracing_reads_them(text: str, expected: list[Directive]) -> None:
    """Levels, numbers, targets and bare targets; spaces and empty pieces do not matter."""
    assert logs.parse_directives(text) == expected


@pytest.mark.parametrize("text", ["info", "error", "warn,shotover::net=debug", "off,a::b=trace", ""])
def test_directives_are_written_as_they_are_read(text: str) -> None:
    """What is written means the same; without any directive, that is errors."""
    written = text_of(logs.parse_directives(text))
    assert written == (text or "error")
    assert logs.parse_directives(written) == logs.parse_directives(text or "error")


@pytest.mark.parametrize(("text", "message"), [
    ("good=info,bad=blah,worse=bleh", BAD_LEVEL + "bad=blah"),
    ("a=6", BAD_LEVEL + "a=6"),
    ("=info", "invalid filter directive: =info"),
    ("a b=info", "invalid filter directive: a b=info"),
    ("info\nfake", "invalid filter directive: info\nfake"),
    ("shotover[connection{id=5}]=debug",
     "invalid filter directive, span filters are not supported: shotover[connection{id=5}]=debug"),
])
def test_the_first_bad_directive_is_named(text: str, message: str) -> None:
    """A filter that cannot be read is refused with the piece that is wrong."""
    with pytest.raises(ValueError) as caught:
        logs.parse_directives(text)
    assert str(caught.value) == message


def test_rust_log_comes_after_the_configuration() -> None:
    """The directives of RUST_LOG follow those of the file, so that they win."""
    assert logs.directives_from("info,a=warn", {"RUST_LOG": "a=trace"}) == [
        Directive("", logging.INFO), Directive("a", logging.WARNING), Directive("a", logs.TRACE)]


@pytest.mark.parametrize(("text", "target", "expected"), [
    ("info", "anything", logging.INFO),
    ("shotover=debug", "other", OFF),
    ("shotover=debug", "shotover::net", logging.DEBUG),
    ("shotover=debug", "shotover_more", OFF),
    ("shotover::net=error,shotover=debug,info", "shotover::net::listener", logging.ERROR),
    ("a=info,a=warn", "a", logging.WARNING),
    ("", "anything", logging.ERROR),
])
def test_the_longest_target_decides(text: str, target: str, expected: int) -> None:
    """The most specific directive wins, then the later one; without any, errors are printed."""
    assert Filter(logs.parse_directives(text)).threshold(target) == expected


# -- lines --------------------------------------------------------------------------------------

LINE = Line(
    1767225600.25, "WARN", "shotover::runner", "a\nb \x1b[1m",
    {"n": 1, "ok": True, "none": None, "text": 'x "y"', "empty": "", "plain": "10.0.0.1:5", "x": 1e400},
    [Span("connection", "t", 10, {"id": 1, "source": "v"})],
)


def test_a_line_for_people() -> None:
    """Time, level, spans, target, message and fields; control characters are escaped."""
    assert render_human(LINE) == (
        "2026-01-01T00:00:00.250000Z  WARN connection{id=1 source=v}: shotover::runner: a\n"
        'b \\x1b[1m n=1 ok=true none=null text="x \\"y\\"" empty="" plain=10.0.0.1:5 x=inf'
    )


def test_a_line_in_colour() -> None:
    """On a terminal the level has a colour, and what frames the message is dim."""
    line = Line(0.0, "INFO", "t", "m", {"k": 1})
    assert render_human(line, has_colour=True) == (
        "\x1b[2m1970-01-01T00:00:00.000000Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mt:\x1b[0m m "
        "\x1b[3mk\x1b[0m\x1b[2m=\x1b[0m1"
    )


def test_a_line_in_json() -> None:
    """One object on one line, with tracing's keys and the values' types."""
    text = render_json(LINE)
    connection = {"id": 1, "source": "v", "name": "connection"}
    assert (text.count("\n"), json.loads(text)) == (0, {
        "timestamp": "2026-01-01T00:00:00.250000Z", "level": "WARN", "target": "shotover::runner",
        "fields": {
            "message": "a\nb \x1b[1m", "n": 1, "ok": True, "none": None, "text": 'x "y"',
            "empty": "", "plain": "10.0.0.1:5", "x": "inf",
        },
        "span": connection, "spans": [connection],
    })


def test_no_span_no_keys() -> None:
    """Outside of a span JSON has no span keys, and without a message no message."""
    assert render_json(Line(0.0, "INFO", "t", "", {"a": object})) == (
        '{"timestamp":"1970-01-01T00:00:00.000000Z","level":"INFO",'
        '"fields":{"a":"<class \'object\'>"},"target":"t"}')


# -- the process's log --------------------------------------------------------------------------


def test_importing_changes_nothing() -> None:
    """The import adds no handler, sets no level and starts no thread."""
    code = (
        "import logging, threading, shotover_gevent.logs; root = logging.getLogger(); "
        "print(root.handlers, root.level, threading.active_count())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[] 30 1\n"


def test_levels_targets_and_fields_reach_the_stream(
    start: Callable[..., logs.LogHandle], stream: io.StringIO
) -> None:
    """A line is printed under its logger's target, or its own, when the filter wants that one."""
    handle = start("error,shotover=debug,shotover::runner=info,shotover::quiet=off,other=warn")
    logger = logging.getLogger("shotover_gevent.net.listener")
    logger.debug("one", extra={"fields": {"peer": "1.2.3.4"}})
    logger.log(logs.TRACE, "not printed")
    logger.info("two", extra={"target": "shotover::runner"})
    logger.debug("not printed", extra={"target": "shotover::runner"})
    logger.critical("not printed", extra={"target": "shotover::quiet"})
    logging.getLogger("other.module").warning("three")
    logging.getLogger("third").info("not printed", extra={"target": "fourth"})
    logging.getLogger("third").info("four", extra={"target": "shotover::runner"})
    handle.close()
    assert untimed(stream) == [
        "T DEBUG shotover::net::listener: one peer=1.2.3.4",
        "T  INFO shotover::runner: two",
        "T  WARN other::module: three",
        "T  INFO shotover::runner: four",
    ]


def test_a_new_filter_takes_effect_at_once(
    start: Callable[..., logs.LogHandle], stream: io.StringIO
) -> None:
    """A filter replaces the former one; one that cannot be read changes nothing."""
    handle = start("error")
    logger = logging.getLogger("shotover_gevent.sinks.null")
    logger.info("not printed")
    handle.set_filter("shotover::sinks=trace")
    logger.log(logs.TRACE, "printed")
    with pytest.raises(ValueError):
        handle.set_filter("a=b")
    logger.log(logs.TRACE, "printed too")
    handle.set_filter("warn")
    logger.info("not printed")
    handle.close()
    assert untimed(stream) == [
        "T TRACE shotover::sinks::null: printed", "T TRACE shotover::sinks::null: printed too"]


def test_a_disabled_debug_line_costs_no_record(start: Callable[..., logs.LogHandle]) -> None:
    """DEBUG for one target leaves it off in the loggers of the others."""
    start("error,shotover::connection_span=debug")
    logger = logging.getLogger("shotover_gevent.chain.chain")
    assert (logger.isEnabledFor(logging.DEBUG), logger.isEnabledFor(logging.INFO)) == (False, True)


def test_closing_takes_everything_back(start: Callable[..., logs.LogHandle]) -> None:
    """Handlers, levels and exception hooks are as they were before."""
    def state() -> Any:
        loggers = [logging.getLogger(name) for name in ("", "shotover_gevent", "shotover_gevent.a")]
        hooks = (sys.excepthook, threading.excepthook, "print_exception" in vars(gevent.get_hub()))
        return [each.level for each in loggers], list(loggers[0].handlers), hooks

    before = state()
    handle = start("info,shotover=debug,shotover::a=trace", "json")
    logs.install_excepthooks(handle)
    during = state()
    handle.set_filter("shotover=info,root=error")
    handle.close()
    assert (during != before, state()) == (True, before)


def test_a_span_marks_the_lines_of_its_greenlet(
    start: Callable[..., logs.LogHandle], stream: io.StringIO
) -> None:
    """A span is printed with the lines inside, where the filter wants its target."""
    handle = start("info,shotover::connection_span=debug", "json")
    logger = logging.getLogger("shotover_gevent.sources.valkey")

    def session(number: int) -> None:
        with logs.span("connection", id=number, source="v"):
            gevent.sleep(0)
            logger.info("in")
        logger.info("out")

    gevent.joinall([gevent.spawn(session, number) for number in (1, 2)], raise_error=True)
    handle.set_filter("info")
    with logs.span("connection", id=3):
        logger.info("not enabled")
    handle.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["fields"]["message"], line.get("span", {}).get("id")) for line in lines] == [
        ("in", 1), ("out", None), ("in", 2), ("out", None), ("not enabled", None)]


def test_a_line_cannot_be_forged_in_json(
    start: Callable[..., logs.LogHandle], stream: io.StringIO
) -> None:
    """Newlines and lone surrogates of a peer stay inside of their line."""
    handle = start("info", "json")
    logging.getLogger("shotover_gevent.a").info("%s", 'x\n{"level":"ERROR"}\udc80\x85\u2028')
    handle.close()
    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert [json.loads(line)["fields"] for line in lines] == [
        {"message": 'x\n{"level":"ERROR"}\udc80\x85\u2028'}]


def test_an_unprintable_line_does_not_reach_the_caller(
    start: Callable[..., logs.LogHandle], stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong log call is reported as a line, with its place; nothing goes to standard error."""
    handle = start("info")
    # The capturing handlers of pytest would raise on purpose.
    logger = logging.getLogger("shotover_gevent.a")
    record = logger.makeRecord("shotover_gevent.a", 20, "/somewhere.py", 7, "%d", ("x",), None)
    logging.getLogger().handlers[-1].handle(record)
    handle.close()
    assert (untimed(stream), capfd.readouterr().err) == (
        ["T ERROR shotover::logs: a log line could not be printed "
         "place=/somewhere.py:7 error=TypeError"], "")


def test_a_traceback_follows_its_line(
    start: Callable[..., logs.LogHandle], stream: io.StringIO
) -> None:
    """For people a traceback is printed below the line; in JSON it is a field."""
    def fail() -> None:
        try:
            raise KeyError("k")
        except KeyError:
            logging.getLogger("shotover_gevent.a").exception("failed")

    start("info").close()
    handle = start("info")
    fail()
    handle.close()
    as_json = start("info", "json")
    fail()
    as_json.close()
    lines = untimed(stream)
    fields = json.loads(lines[-1])["fields"]
    assert (lines[:2], lines[-2], fields["message"], fields["exception"].splitlines()) == (
        ["T ERROR shotover::a: failed", "Traceback (most recent call last):"],
        "KeyError: 'k'", "failed", lines[1:-1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_uncaught_exceptions_are_json_lines(
    start: Callable[..., logs.LogHandle], stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    """What ends a thread, a greenlet or the program is an event with Shotover's panic fields."""
    def fail() -> None:
        raise RuntimeError("boom")

    handle = start("error", "json")
    logs.install_excepthooks(handle)
    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    gevent.spawn(fail).join()
    error = RuntimeError("main")
    sys.excepthook(RuntimeError, error, None)
    handle.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["target"], sorted(line["fields"])[1:]) for line in lines] == [
        ("shotover::tracing_panic_handler",
         ["panic.backtrace", "panic.column", "panic.file", "panic.line"])] * 2 + [
        ("shotover::tracing_panic_handler", ["panic.backtrace"])]
    messages = [re.sub("0x[0-9a-f]+: .*> ", "> ", line["fields"]["message"]) for line in lines]
    assert (messages, capfd.readouterr().err) == ([
        "thread worker failed with RuntimeError: boom",
        "<Greenlet at > failed with RuntimeError: boom",
        "the main program failed with RuntimeError: main",
    ], "")


def test_uncaught_exceptions_stay_readable_for_people(start: Callable[..., logs.LogHandle]) -> None:
    """In human mode the hooks are left alone."""
    before = (sys.excepthook, threading.excepthook)
    logs.install_excepthooks(start("error"))
    assert (sys.excepthook, threading.excepthook) == before
