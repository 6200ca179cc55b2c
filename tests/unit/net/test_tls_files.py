"""Files of certificates and keys: each way to get one wrong is told with the file and the reason."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from shotover_gevent.errors import ConfigError
from shotover_gevent.metrics import Counter
from shotover_gevent.net import tls_context
from shotover_gevent.net.tls_context import Files
from shotover_gevent.net.tls_files import Wrong, load, not_after, paths, problems
from shotover_gevent.net.tls_settings import TlsAcceptor, TlsConnector
from tests.certificates import LONG_AGO, Authority, replace


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority with its files."""
    return Authority(tmp_path_factory.mktemp("authority"))


def acceptor(files: tuple[str, str], ca: str | None = None) -> TlsAcceptor:
    """The settings of a source."""
    return TlsAcceptor(certificate_path=files[0], private_key_path=files[1], certificate_authority_path=ca)


def rewritten(key: str, target: Path, kind: serialization.PrivateFormat,
              encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()) -> str:
    """The same private key in another form."""
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    target.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, kind, encryption))
    return str(target)


@pytest.mark.parametrize("key_type", list(trustme.KeyType), ids=lambda kind: kind.name)
@pytest.mark.parametrize("kind", [
    serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL,
], ids=["PKCS8", "PKCS1 or SEC1"])
def test_keys_of_every_form_are_read(
    authority: Authority, tmp_path: Path, key_type: trustme.KeyType, kind: serialization.PrivateFormat
) -> None:
    """RSA and EC, as PKCS#8, PKCS#1 and SEC1."""
    certificate, key = authority.issue(key_type=key_type)
    files = certificate, rewritten(key, tmp_path / "key.pem", kind)
    assert problems(acceptor(files, authority.path)) == ()


def test_one_file_may_hold_the_certificate_and_its_key(authority: Authority, tmp_path: Path) -> None:
    """In either order, so that a rename replaces both at once."""
    certificate, key = (Path(path).read_text() for path in authority.issue())
    both = tmp_path / "both.pem"
    for text in (certificate + key, key + certificate):
        both.write_text(text)
        assert problems(acceptor((str(both), str(both)))) == ()


def test_the_context_of_a_source(authority: Authority) -> None:
    """From TLS 1.2 on; with an authority clients must show a certificate."""
    files = authority.issue()
    found = [load(settings).context for settings in (acceptor(files), acceptor(files, authority.path))]
    assert [(each.minimum_version, each.verify_mode) for each in found] == [
        (ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE), (ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED)]


@pytest.mark.parametrize("verify", [True, False])
def test_the_context_of_a_sink(authority: Authority, verify: bool) -> None:
    """The certificate of the database is always verified, its host name if that is wanted."""
    settings = TlsConnector(certificate_authority_path=authority.path, verify_hostname=verify)
    loaded = load(settings)
    context = loaded.context
    assert (context.minimum_version, context.verify_mode, context.check_hostname, loaded.expires_at) == (
        ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED, verify, None)


def test_the_time_of_expiry_is_read(authority: Authority) -> None:
    """In seconds since the epoch, in both forms of a time; an expired certificate is loaded."""
    for year in (2020, 2049, 2050, 2093):
        when = LONG_AGO.replace(year=year)
        assert load(acceptor(authority.issue(not_after=when))).expires_at == when.timestamp()


def test_what_is_no_certificate_has_no_time() -> None:
    """Truncated or other DER is refused, not misread."""
    for data in (b"", b"\x30", b"\x30\x82\x01", b"\x30\x03\x30\x01\x02", bytes(100)):
        with pytest.raises((ValueError, IndexError)):
            not_after(data)


def test_paths_are_those_that_are_named(authority: Authority) -> None:
    """Without those that are absent."""
    assert paths(acceptor(("a", "b"))) == ("a", "b")
    assert paths(TlsConnector(certificate_authority_path="c", verify_hostname=True)) == ("c",)


Make = Callable[[Path, tuple[str, str]], None]


def _write(field: int, data: bytes) -> Make:
    return lambda folder, files: Path(files[field]).write_bytes(data) and None


def _encrypt(folder: Path, files: tuple[str, str]) -> None:
    rewritten(files[1], Path(files[1]), serialization.PrivateFormat.PKCS8,
              serialization.BestAvailableEncryption(b"secret"))


def _encrypt_traditionally(folder: Path, files: tuple[str, str]) -> None:
    rewritten(files[1], Path(files[1]), serialization.PrivateFormat.TraditionalOpenSSL,
              serialization.BestAvailableEncryption(b"secret"))


def _swap(folder: Path, files: tuple[str, str]) -> None:
    os.replace(files[0], folder / "x")
    os.replace(files[1], files[0])
    os.replace(folder / "x", files[1])


def _to_der(folder: Path, files: tuple[str, str]) -> None:
    Path(files[0]).write_bytes(ssl.PEM_cert_to_DER_cert(Path(files[0]).read_text()))


def _damage(folder: Path, files: tuple[str, str]) -> None:
    lines = Path(files[0]).read_text().splitlines()
    lines[2] = lines[2][::-1]
    Path(files[0]).write_text("\n".join(lines))


def _damage_key(folder: Path, files: tuple[str, str]) -> None:
    lines = Path(files[1]).read_text().splitlines()
    Path(files[1]).write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))


CERTIFICATE, KEY = "certificate_path", "private_key_path"
ENCRYPTED = ("the private key is encrypted, and nobody could be asked for its password",
             "decrypt it: openssl pkey -in {} -out FILE")


@pytest.mark.parametrize(("make", "field", "reason", "suggestion"), [
    (lambda folder, files: os.unlink(files[0]), CERTIFICATE, "No such file or directory (os error 2)", None),
    (lambda folder, files: (os.unlink(files[1]), os.mkdir(files[1])), KEY,
     "Is a directory (os error 21)", None),
    (_write(0, b""), CERTIFICATE, "no certificate found in PEM", "the file is empty"),
    (_write(0, b"hello"), CERTIFICATE, "no certificate found in PEM", None),
    (_write(0, bytes(2 * 1024 * 1024 + 1)), CERTIFICATE, "the file is larger than 2097152 bytes", None),
    (_to_der, CERTIFICATE, "no certificate found in PEM",
     "it looks like DER; convert it: openssl x509 (or pkey) -inform der -in FILE -out PEM"),
    (_damage, CERTIFICATE, "Error while parsing PEM: certificate 1 cannot be read", None),
    (_write(1, b"hello"), KEY, "No suitable keys found in PEM", None),
    (_damage_key, KEY, "Error while parsing PEM: the private key cannot be read", None),
    (_encrypt, KEY, *ENCRYPTED),
    (_encrypt_traditionally, KEY, *ENCRYPTED),
])
def test_a_file_that_cannot_be_used_is_told(
    authority: Authority, tmp_path: Path, make: Make, field: str, reason: str, suggestion: str | None
) -> None:
    """The field that names it, the file, the reason, and a way out if there is one."""
    files = authority.issue()
    make(tmp_path, files)
    path = files[0] if field == CERTIFICATE else files[1]
    assert problems(acceptor(files)) == (
        Wrong(field, path, reason, suggestion and suggestion.replace("{}", path)),)


def test_files_in_each_others_place_are_told(authority: Authority, tmp_path: Path) -> None:
    """Both, and what they hold instead."""
    files = authority.issue()
    _swap(tmp_path, files)
    assert [(w.field, w.suggestion) for w in problems(acceptor(files))] == [
        (CERTIFICATE, "the file holds: EC PRIVATE KEY"), (KEY, "the file holds: CERTIFICATE")]


def test_a_key_of_another_certificate_is_told(authority: Authority) -> None:
    """A key of the same type, and one of another."""
    certificate, _ = authority.issue()
    for key_type in trustme.KeyType:
        _, other = authority.issue(key_type=key_type)
        assert problems(acceptor((certificate, other))) == (
            Wrong(KEY, other, "the private key does not match the certificate"),)


def test_all_files_are_looked_at(tmp_path: Path) -> None:
    """Each that is wrong is told, and the error says all in Shotover's words."""
    settings = acceptor(("/none/cert", "/none/key"), "/none/ca")
    gone = "No such file or directory (os error 2)"
    with pytest.raises(ConfigError) as caught:
        load(settings)
    assert [str(problem) for problem in caught.value.problems] == [
        f"/none/cert  certificate_path: {gone}", f"/none/key  private_key_path: {gone}",
        f"/none/ca  certificate_authority_path: {gone}"]
    assert caught.value.chain[0] == (
        f"Failed to read file /none/cert configured at 'certificate_path'\n\nCaused by:\n    {gone}")


@pytest.mark.parametrize("given", [CERTIFICATE, KEY])
def test_a_sink_shows_a_certificate_with_its_key_or_none(authority: Authority, given: str) -> None:
    """One without the other is refused."""
    files = dict(zip((CERTIFICATE, KEY), authority.issue(), strict=True))
    settings = TlsConnector(certificate_authority_path=authority.path, verify_hostname=True,
                            **{given: files[given]})
    other = KEY if given == CERTIFICATE else CERTIFICATE
    assert problems(settings) == (Wrong(
        given, files[given], f"{given} was specified but {other} was not: Either enable both or none"),)


# -- changes ------------------------------------------------------------------------------------


@pytest.fixture
def checked_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files each time."""
    monkeypatch.setattr(tls_context, "CHECK_S", 0.0)


def test_changed_files_are_loaded(
    authority: Authority, checked_always: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, as a whole; the context of before is the same until then."""
    files = authority.issue()
    held = Files(acceptor(files), "source s", failures := Counter())
    first = held.current()
    assert held.current() is first
    replace(authority.issue(), files)
    with caplog.at_level("INFO"):
        second = held.current()
    assert (second is not first, held.current() is second, failures.value) == (True, True, 0)
    assert caplog.messages == ["source s: the changed TLS files are in use from now on"]


def test_a_change_that_cannot_be_used_is_told_once(
    authority: Authority, checked_always: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate alone was replaced: what was loaded stays until its key comes, too."""
    files, others = authority.issue(), authority.issue()
    held = Files(acceptor(files), "source s", failures := Counter())
    first = held.current()
    os.replace(others[0], files[0])
    assert [held.current() is first for _ in range(3)] == [True] * 3
    assert (failures.value, caplog.messages) == (1, [
        "source s: the changed TLS files cannot be used, those of before stay in use: private_key_path: "
        f"{files[1]}: the private key does not match the certificate"])
    os.replace(others[1], files[1])
    assert (held.current() is not first, failures.value) == (True, 1)


def test_files_are_not_looked_at_all_the_time(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the interval is over."""
    files = authority.issue()
    held = Files(acceptor(files), "source s", Counter())
    first = held.current()
    replace(authority.issue(), files)
    assert held.current() is first
    monkeypatch.setattr(tls_context, "CHECK_S", 0.0)
    assert held.current() is not first
