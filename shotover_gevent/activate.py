"""Which source gets which socket of the service manager, and what is wrong with those that fit none.

Rules:
 1. A socket is for the source that has its name (systemd: ``FileDescriptorName=``); one that is called
    ``observability_interface`` is for that of ``config.yaml``.
 2. Everything must fit: the name, the kind of socket, and the address that the file says. A socket
    that nobody would serve keeps clients waiting for ever.
 3. A source with ``hard_connection_limit`` closes its socket at the limit, so that clients are refused.
    A socket that the manager holds stays open all the same.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping

from shotover_gevent.config.document import Document, Path
from shotover_gevent.config.load import open_document
from shotover_gevent.errors import ConfigError
from shotover_gevent.hotreload.client import resolve
from shotover_gevent.net.activation import (
    Activation,
    Passed,
    is_listening,
    manager_names,
    passed_sockets,
)
from shotover_gevent.net.address import Address
from shotover_gevent.proxy import OBSERVABILITY, Proxy


def activation(
    proxy: Proxy, options: argparse.Namespace, environ: Mapping[str, str], is_successor: bool
) -> Activation:
    """The sockets that were passed, for the sources of ``proxy``; the caller closes it.

    Raises ``ConfigError`` with everything that does not fit, and ``OSError`` for a descriptor that is
    no socket; none stays open then.
    """
    passed = passed_sockets(environ)
    held = manager_names(environ, is_successor)
    try:
        if passed or held:
            _Fitting(proxy, options).check(passed, held)
    except BaseException:
        for each in passed:
            each.socket.close()
        raise
    return Activation({each.name: each.socket for each in passed}, held)


class _Fitting:
    """Compares what was passed with what the files say."""

    def __init__(self, proxy: Proxy, options: argparse.Namespace) -> None:
        self._proxy = proxy
        self._topology = open_document(options.topology_file, "topology")
        self._config = open_document(options.config_file, "config")

    def check(self, passed: list[Passed], held: frozenset[str]) -> None:
        """Raises ``ConfigError``."""
        counts = Counter(each.name for each in passed)
        for name, count in counts.items():
            self._check_name(name, count)
        for each in passed:
            self._check_socket(each)
        for index, source in enumerate(self._proxy.sources):
            if source.name in held and source.hard_connection_limit:
                self._topology.refuse(
                    ("sources", index, source.type_name, "hard_connection_limit"),
                    "the service manager holds the listening socket, which cannot be closed at the limit",
                    "write false: further clients wait then")
        problems = [*self._config.sorted_problems(), *self._topology.sorted_problems()]
        if problems:
            raise ConfigError(problems)

    def _check_name(self, name: str, count: int) -> None:
        document, path, address = self._target(name)
        if address is None:
            names = [source.name for source in self._proxy.sources]
            document.refuse(
                path, f"a socket named {name!r} was passed, and nothing here has that name",
                f"FileDescriptorName= of the socket unit is the name of a source: {', '.join(names)}")
        elif count > 1:
            document.refuse(path, f"{count} sockets named {name!r} were passed, and there is room for one",
                            "write one ListenStream= for each name, and one socket unit for each source")

    def _check_socket(self, passed: Passed) -> None:
        document, path, wanted = self._target(passed.name)
        if wanted is None:
            return
        if not is_listening(passed.socket):
            document.refuse(path, f"the socket {passed.name!r} that was passed does not listen",
                            "write ListenStream= and Accept=no into the socket unit")
            return
        found = Address.of(passed.socket.getsockname())
        if not _fits(wanted, found):
            document.refuse(
                path, f"the socket {passed.name!r} that was passed listens at {found}, not at {wanted}",
                "write the same address here and into ListenStream= of the socket unit")

    def _target(self, name: str) -> tuple[Document, Path, Address | None]:
        """What a socket of that name is for: the file, the place in it, and the address there."""
        for index, source in enumerate(self._proxy.sources):
            if source.name == name:
                path: Path = ("sources", index, source.type_name, "listen_addr")
                return self._topology, path, source.listen_addr
        admin = self._proxy.config.observability_address
        if name == OBSERVABILITY and admin is not None:
            return self._config, (OBSERVABILITY,), admin
        return self._topology, ("sources",), None


def _fits(wanted: Address, found: Address) -> bool:
    if wanted.port == 0 and not wanted.is_unix:
        return not found.is_unix
    resolved = resolve(wanted)
    return str(found) == (str(wanted) if resolved is None else str(Address.of(resolved)))
