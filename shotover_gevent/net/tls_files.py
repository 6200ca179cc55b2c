"""Certificates and keys: read from PEM files, checked, and made into an ``ssl.SSLContext``.

Rules:
 1. What is wrong is said of one file, with the field that names it, the reason, and a way out. All
    files of a ``tls`` are looked at before anything is refused.
 2. An expired certificate is no error: it is loaded, and whoever loads it may warn.
 3. Reading a file never asks for a password, and never waits on anything but the disk.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from shotover_gevent.errors import ConfigError, Problem, os_error_text, render
from shotover_gevent.net.tls_settings import TlsAcceptor, TlsConnector, TlsSettings

# The bundle of all public authorities is about 220 KB.
MAX_FILE_BYTES = 2 * 1024 * 1024

_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(b"-----BEGIN (?:RSA |EC )?PRIVATE KEY-----")
_ENCRYPTED_KEY = re.compile(b"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)

# DER tags of X.509 (RFC 5280, 4.1): the version is optional, a time has one of two forms.
_VERSION, _UTC_TIME = 0xA0, 0x17


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong with the file that a field names."""

    field: str
    path: str
    reason: str
    suggestion: str | None = None

    @property
    def message(self) -> str:
        """The file and the reason."""
        return f"{self.path}: {self.reason}"

    @property
    def text(self) -> str:
        """The same in Shotover's words, of several lines."""
        return render(f"Failed to read file {self.path} configured at '{self.field}'", [self.reason])


class TlsFilesError(ConfigError):
    """Files of a ``tls`` cannot be used; ``wrong`` holds all that was found."""

    def __init__(self, wrong: Sequence[Wrong]) -> None:
        self.wrong = tuple(wrong)
        super().__init__(
            [Problem(w.path, 0, 0, w.field, w.reason, w.suggestion) for w in wrong],
            [w.text for w in wrong])

    def __str__(self) -> str:
        return "; ".join(f"{w.field}: {w.message}" for w in self.wrong)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A context made of files. ``expires_at`` (seconds since the epoch) is when the first of our own
    certificates expires; ``None`` when we have none."""

    context: ssl.SSLContext
    expires_at: float | None


def paths(settings: TlsSettings) -> tuple[str, ...]:
    """Every file that the settings name."""
    named = (
        settings.certificate_path, settings.private_key_path, settings.certificate_authority_path)
    return tuple(path for path in named if path is not None)


def problems(settings: TlsSettings) -> tuple[Wrong, ...]:
    """What is wrong with the files; nothing stays open or loaded."""
    try:
        load(settings)
    except TlsFilesError as error:
        return error.wrong
    return ()


def load(settings: TlsSettings) -> Loaded:
    """The context of a source or of a sink. Raises :class:`TlsFilesError`."""
    return _Loader(settings).load()


class _Loader:
    """One attempt to load; what is wrong is collected."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._wrong: list[Wrong] = []

    def load(self) -> Loaded:
        settings = self._settings
        if isinstance(settings, TlsAcceptor):
            context = _restricted(ssl.PROTOCOL_TLS_SERVER)
            if settings.certificate_authority_path is not None:
                context.verify_mode = ssl.CERT_REQUIRED
        else:
            context = _restricted(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = settings.verify_hostname
            context.hostname_checks_common_name = False  # rustls looks at the SANs only
            self._check_both(settings)
        expires_at = self._load_own(context)
        self._load_authorities(context)
        if self._wrong:
            raise TlsFilesError(self._wrong)
        return Loaded(context, expires_at)

    def _refuse(self, field: str, reason: str, suggestion: str | None = None) -> None:
        self._wrong.append(Wrong(field, getattr(self._settings, field), reason, suggestion))

    def _check_both(self, settings: TlsConnector) -> None:
        certificate, key = "certificate_path", "private_key_path"
        for given, missing in ((certificate, key), (key, certificate)):
            if getattr(settings, given) is not None and getattr(settings, missing) is None:
                self._refuse(
                    given, f"{given} was specified but {missing} was not: Either enable both or none")

    def _load_own(self, context: ssl.SSLContext) -> float | None:
        """Load our certificate and its key; returns when the first of the certificates expires."""
        settings, before = self._settings, len(self._wrong)
        if settings.certificate_path is None or settings.private_key_path is None:
            return None
        found = self._certificates("certificate_path")
        self._check_key()
        if len(self._wrong) > before:
            return None
        try:
            # Both were seen not to be encrypted; the password keeps OpenSSL from asking a terminal.
            context.load_cert_chain(settings.certificate_path, settings.private_key_path, password="")
        except OSError as error:  # of ssl, too; a file may have changed meanwhile
            self._refuse("private_key_path", _load_text(error))
        return min(map(not_after, found))

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        if self._settings.certificate_authority_path is not None:
            found = self._certificates("certificate_authority_path")
            if found:
                context.load_verify_locations(cadata=b"".join(dict.fromkeys(found)))

    def _certificates(self, field: str) -> list[bytes]:
        """The certificates in a file, as DER; none if anything is wrong with them."""
        data = self._read(field)
        if data is None:
            return []
        blocks = _CERTIFICATE.findall(data)
        if not blocks:
            self._refuse(field, "no certificate found in PEM", _other_content(data))
            return []
        found = []
        for number, block in enumerate(blocks, 1):
            try:
                der = ssl.PEM_cert_to_DER_cert(block.decode("ascii"))
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
                not_after(der)
            except (ValueError, IndexError, ssl.SSLError):
                self._refuse(field, f"Error while parsing PEM: certificate {number} cannot be read")
                return []
            found.append(der)
        return found

    def _check_key(self) -> None:
        field = "private_key_path"
        data = self._read(field)
        if data is None:
            return
        if _ENCRYPTED_KEY.search(data):
            path = self._settings.private_key_path
            self._refuse(
                field, "the private key is encrypted, and nobody could be asked for its password",
                f"decrypt it: openssl pkey -in {path} -out FILE")
        elif not _KEY.search(data):
            self._refuse(field, "No suitable keys found in PEM", _other_content(data))

    def _read(self, field: str) -> bytes | None:
        try:
            with open(getattr(self._settings, field), "rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            self._refuse(field, os_error_text(error) if isinstance(error, OSError) else str(error))
            return None
        if len(data) > MAX_FILE_BYTES:
            self._refuse(field, f"the file is larger than {MAX_FILE_BYTES} bytes")
            return None
        return data


def _restricted(protocol: int) -> ssl.SSLContext:
    """A context with what TLS of ours has everywhere."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Whoever asks for it again and again costs us much more than it costs them.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Any certificate of the file is trusted, an intermediate one, too, as rustls does.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _load_text(error: OSError) -> str:
    """Why a certificate that can be read does not go with its key."""
    reason = getattr(error, "reason", None)
    if not isinstance(error, ssl.SSLError):
        return os_error_text(error)
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return "the private key does not match the certificate"
    if reason is not None and reason.endswith(("TOO_SMALL", "TOO_WEAK")):
        return f"OpenSSL refuses it: {reason.replace('_', ' ').lower()}"
    return "Error while parsing PEM: the private key cannot be read"


def _other_content(data: bytes) -> str | None:
    """A way out for whoever has named another kind of file."""
    kinds = re.findall(rb"-----BEGIN ([A-Z0-9 ]+)-----", data)
    if kinds:
        return f"the file holds: {', '.join(dict.fromkeys(kind.decode() for kind in kinds))}"
    if data[:1] == b"\x30":
        return "it looks like DER; convert it: openssl x509 (or pkey) -inform der -in FILE -out PEM"
    return "the file is empty" if not data else None


def not_after(der: bytes) -> float:
    """When a certificate expires, in seconds since the epoch.

    ``der`` is an X.509 certificate that OpenSSL has accepted (RFC 5280, 4.1). Raises ``ValueError``
    or ``IndexError`` for anything else.
    """
    _, at, _ = _element(der, 0)  # Certificate
    _, at, _ = _element(der, at)  # TBSCertificate
    tag, _, end = _element(der, at)
    at = end if tag == _VERSION else at
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at)  # Validity
    _, _, at = _element(der, at)  # notBefore
    tag, start, end = _element(der, at)
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the DER element at ``at``, and where its content begins and ends."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start:start + size], "big")
        start += size
    return der[at], start, start + length
