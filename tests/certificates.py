"""Certificates for tests: an authority of one's own, and files of what it has signed."""

from __future__ import annotations

import os
import ssl
from datetime import datetime, timezone
from pathlib import Path

import trustme

# What the tests' clients and servers are called.
HOSTS = ("localhost", "127.0.0.1")


class Authority:
    """Signs certificates; all files are in ``folder``, which exists."""

    def __init__(self, folder: Path, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
        self.folder = folder
        self._ca = trustme.CA(key_type=key_type)
        self._number = 0
        #: Its own certificate.
        self.path = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.path)

    def issue(
        self, *hosts: str, key_type: trustme.KeyType = trustme.KeyType.ECDSA,
        not_after: datetime | None = None,
    ) -> tuple[str, str]:
        """Files of a new certificate for ``hosts`` (by default :data:`HOSTS`), and of its key."""
        self._number += 1
        made = self._ca.issue_cert(*(hosts or HOSTS), key_type=key_type, not_after=not_after)
        files = tuple(str(self.folder / f"{part}-{self._number}.pem") for part in ("cert", "key"))
        Path(files[0]).write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        made.private_key_pem.write_to_path(files[1])
        return files[0], files[1]

    def client_context(self, certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
        """What a client of the test trusts and shows."""
        context = ssl.create_default_context(cafile=self.path)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


def replace(new: tuple[str, str], old: tuple[str, str]) -> None:
    """Put the new certificate and key in the place of the old ones, each by a rename."""
    for source, target in zip(new, old, strict=True):
        os.replace(source, target)


# When certificates of tests have expired.
LONG_AGO = datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
