"""``tls`` in a topology: its fields, and files that are looked at before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from shotover_gevent.config.check import check_files
from shotover_gevent.config.topology import parse_topology
from shotover_gevent.errors import ConfigError
from shotover_gevent.net.tls_settings import TlsAcceptor, TlsConnector
from tests.certificates import Authority

GONE = "No such file or directory (os error 2)"

TEXT = """\
sources:
  - Valkey:
      name: edge
      listen_addr: "127.0.0.1:0"
      tls: {source}
      chain:
        - Tee:
            name: tee
            chain:
              - ValkeySinkSingle:
                  name: shadow
                  remote_address: "localhost:1"
                  connect_timeout_ms: 1
                  tls: {shadow}
        - ValkeySinkSingle:
            name: sink
            remote_address: "{address}"
            connect_timeout_ms: 1
            tls: {sink}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority with its files."""
    return Authority(tmp_path_factory.mktemp("authority"))


def text(source: str = "", shadow: str = "", sink: str = "", address: str = "localhost:1") -> str:
    """A topology with a ``tls`` at each place that has one."""
    return TEXT.format(source=source, shadow=shadow, sink=sink, address=address)


def refused(topology: str) -> ConfigError:
    """The error that a topology is refused with."""
    with pytest.raises(ConfigError) as caught:
        parse_topology(topology, file="topology.yaml")
    return caught.value


def test_the_settings_are_those_of_the_file(authority: Authority) -> None:
    """Of the source and of its sink; absent is plain."""
    certificate, key = authority.issue()
    (entry,) = parse_topology(text(
        f"{{certificate_path: {certificate}, private_key_path: {key}}}",
        sink=f"{{certificate_authority_path: {authority.path}, verify_hostname: false}}")).sources
    tee, sink = entry.chain
    assert entry.tls == TlsAcceptor(certificate_path=certificate, private_key_path=key)
    assert sink.tls == TlsConnector(  # type: ignore[attr-defined]
        certificate_authority_path=authority.path, verify_hostname=False)
    assert tee.chain[0].tls is None  # type: ignore[attr-defined]


def test_every_file_is_looked_at_and_told_with_its_place() -> None:
    """Those of the source, of its sinks, and of sinks in sub-chains."""
    error = refused(text(
        "{certificate_path: a.pem, private_key_path: b.pem}",
        "{certificate_authority_path: c.pem, verify_hostname: true}",
        "{certificate_authority_path: d.pem, certificate_path: e.pem, verify_hostname: true}"))
    source = "sources[0].Valkey"
    assert [str(problem) for problem in error.problems] == [
        f"topology.yaml:5:31  {source}.tls.certificate_path: a.pem: {GONE}",
        f"topology.yaml:5:56  {source}.tls.private_key_path: b.pem: {GONE}",
        f"topology.yaml:14:53  {source}.chain[0].Tee.chain[0].ValkeySinkSingle.tls."
        f"certificate_authority_path: c.pem: {GONE}",
        f"topology.yaml:19:47  {source}.chain[1].ValkeySinkSingle.tls."
        f"certificate_authority_path: d.pem: {GONE}",
        f"topology.yaml:19:72  {source}.chain[1].ValkeySinkSingle.tls.certificate_path: e.pem: "
        "certificate_path was specified but private_key_path was not: Either enable both or none",
    ]
    assert error.chain[0].startswith(
        "Topology errors\nFailed to read file a.pem configured at 'certificate_path'\n\nCaused by:\n"
        f"    {GONE}\nFailed to read file b.pem")


def test_a_sink_must_say_whether_it_verifies_the_host(authority: Authority) -> None:
    """As Shotover wants it."""
    error = refused(text(sink=f"{{certificate_authority_path: {authority.path}}}"))
    assert [str(problem) for problem in error.problems] == [
        "topology.yaml:19:13  sources[0].Valkey.chain[1].ValkeySinkSingle.tls.verify_hostname: missing field"]


def test_an_unknown_field_of_tls_is_told_with_what_may_be_meant() -> None:
    """The names are long."""
    error = refused(text("{certificate_path: a, private_key: b}"))
    assert [str(problem) for problem in error.problems] == [
        "topology.yaml:5:7  sources[0].Valkey.tls.private_key_path: missing field",
        "topology.yaml:5:34  sources[0].Valkey.tls.private_key: unknown field\n"
        '    did you mean "private_key_path"?']


def test_a_unix_socket_has_no_host_to_verify(authority: Authority) -> None:
    """Then verify_hostname must be false."""
    ca = authority.path
    error = refused(text(
        sink=f"{{certificate_authority_path: {ca}, verify_hostname: true}}", address="unix:/run/x.sock"))
    assert [problem.message for problem in error.problems] == [
        "verify_hostname: a Unix socket has no host name; write false"]
    parse_topology(text(
        sink=f"{{certificate_authority_path: {ca}, verify_hostname: false}}", address="unix:/run/x.sock"))


def test_the_check_looks_at_the_files(authority: Authority, tmp_path: Path) -> None:
    """A key of another certificate, for example; and it tells what has TLS."""
    (certificate, key), (_, other) = authority.issue(), authority.issue()
    (tmp_path / "config.yaml").write_text("main_log_level: info\n")

    def checked(key: str) -> str:
        (tmp_path / "topology.yaml").write_text(yaml.safe_dump({"sources": [{"Valkey": {
            "name": "edge", "listen_addr": "127.0.0.1:1", "chain": [{"NullSink": {"name": "null"}}],
            "tls": {"certificate_path": certificate, "private_key_path": key}}}]}, sort_keys=False))
        return check_files(tmp_path / "config.yaml", tmp_path / "topology.yaml").as_text()

    assert checked(other) == (
        f"{tmp_path}/topology.yaml:10:25  sources[0].Valkey.tls.private_key_path: {other}: "
        "the private key does not match the certificate\n1 problem")
    assert "Valkey 'edge' on 127.0.0.1:1 with TLS: NullSink 'null'" in checked(key)
