"""Whatever is in a file, it loads or is refused, soon."""

import time

from config_samples import SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from shotover_gevent.config import yaml
from shotover_gevent.config.registry import Registry
from shotover_gevent.config.topology import Topology, load_topology, parse_topology
from shotover_gevent.config.yaml import read_yaml
from shotover_gevent.errors import ConfigError

REGISTRY = Registry(SAMPLES)
# Far above what any of them takes on a slow machine, far below what nobody would wait for.
PATIENCE_S = 30

fragments = st.sampled_from([
    "sources:", "- ", "  ", "\n", "\n  ", "\n      ", ": ", "Valkey", "Tcp", "Kafka", "name", "chain",
    "listen_addr", "'127.0.0.1:0'", "Fork", "End", "Pass", "Count", "size", "[", "]", "{", "}", ",",
    "&a", "*a", "!x", "!!str", "|", ">", "'", '"', "\\x", "\\U0011", "%YAML 1.", "%TAG ! x", "---",
    "...", "#", "?", "\t", "\r", "\0", "é", "\ufeff", "\x85", "null", "~", "012", "0x", "1e9", "<<", "@",
    "9" * 30, "true", "!<%zz>", "!%ff",
])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
names = st.one_of(
    st.sampled_from(["Valkey", "Tcp", "Fork", "Copies", "Pass", "End", "Coalesce", "ValkeyEnd", "name",
                     "chain", "mismatch", "parallelism", "listen_addr", "timeout", "sources", "tls",
                     "os.path", "a:b"]),
    st.text(max_size=5))
data = st.recursive(
    scalars, lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)), max_leaves=20)
steps = st.lists(st.one_of(data, st.dictionaries(
    st.sampled_from(["Fork", "Copies", "Pass", "End", "ValkeyEnd"]),
    st.fixed_dictionaries(
        {"name": st.sampled_from("abc")},
        optional={"chain": st.lists(data, max_size=3), "parallelism": st.integers(-2, 3)}),
    min_size=1, max_size=1)), max_size=4)
topologies = st.fixed_dictionaries({"sources": st.lists(st.fixed_dictionaries(
    {"Valkey": st.fixed_dictionaries(
        {"name": data, "listen_addr": st.sampled_from(["a:1", "b"]), "chain": steps})}), max_size=3)})


def outcome(read, given_data):
    """Load or be refused; anything else fails the test by being raised."""
    try:
        return read(given_data)
    except ConfigError as error:
        assert error.problems and all(problem.message for problem in error.problems)
        assert all("\n" not in problem.message for problem in error.problems)
        str(error).encode()
        return error


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.lists(fragments, max_size=40).map(
    lambda parts: "".join(parts).encode())))
def test_any_bytes_are_read_or_refused(raw):
    """The reader of YAML raises nothing but ConfigError."""
    outcome(lambda given_bytes: read_yaml(given_bytes, "f"), raw)


@settings(deadline=None, max_examples=300)
@given(st.lists(fragments, max_size=40).map("".join))
def test_any_text_is_a_topology_or_refused(text):
    """Parsing a topology raises nothing but ConfigError."""
    outcome(lambda given_text: parse_topology(given_text, REGISTRY), text)


@settings(deadline=None, max_examples=300)
@given(st.one_of(topologies, st.dictionaries(names, data, max_size=3)))
def test_any_data_is_a_topology_or_refused(given_data):
    """A topology that is accepted has only steps in its chains."""
    found = outcome(lambda d: parse_topology(d, REGISTRY), given_data)
    if isinstance(found, Topology):
        assert all(step.name for source in found.sources for step in source.chain)


def test_the_worst_files_of_the_permitted_size_are_refused_soon(tmp_path):
    """Dense, deep and repetitive files cost seconds at most."""
    path = tmp_path / "worst.yaml"
    size = yaml.MAX_FILE_BYTES
    for fragment in (b"[", b"- ", b"a,", b"- a\n", b"{a: ", b"a: b\n", b"&a ", b"'\n", b"? ", b"x", b"#\n"):
        path.write_bytes((b"[" if fragment == b"a," else b"") + fragment * (size // len(fragment) - 1))
        start = time.monotonic()
        assert isinstance(outcome(lambda p: load_topology(p, REGISTRY), path), ConfigError)
        assert time.monotonic() - start < PATIENCE_S, fragment
