"""This checkout as three candidates: bytes, the protocol, and the protocol over shared connections."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import Tree
from bench.peers import Missing, Peer
from shotover_gevent import __version__
from shotover_gevent.testing.family import Family

CONFIG = 'main_log_level: "warn"\n'

TCP = """\
sources:
  - Tcp:
      name: "bench"
      listen_addr: "127.0.0.1:{port}"
      connection_limit: {limit}
      chain:
        - TcpSinkSingle: {{name: "sink", remote_address: "127.0.0.1:{upstream}", connect_timeout_ms: 3000}}
"""

VALKEY = """\
sources:
  - Valkey:
      name: "bench"
      listen_addr: "127.0.0.1:{port}"
      connection_limit: {limit}
      chain:
        - QueryCounter: {{name: "count", counter_name: "bench"}}
        - ValkeySinkSingle:
            name: "sink"
            remote_address: "127.0.0.1:{upstream}"
            connect_timeout_ms: 3000
            {options}
"""

# Clients that come and go besides those that are counted.
SPARE_CONNECTIONS = 64

SOCKET = "reload.sock"

# Each takes a fraction of a second on an idle machine.
CHECK_S = 30.0
RELOAD_S = 60.0


def program(*arguments: str) -> list[str]:
    """The command of this checkout."""
    return [sys.executable, "-m", "shotover_gevent", *arguments]


class Ours(Peer):
    """What the three have in common."""

    topology = VALKEY
    options = ""

    def _find(self) -> str:
        return sys.executable

    def version(self) -> str:
        """Of the package."""
        return f"shotover-gevent {__version__}"

    def files(self) -> dict[str, str]:
        """One source, with room for all clients."""
        text = self.topology.format(
            port=self.port, upstream=self.upstream, options=self.options,
            limit=self.connections + SPARE_CONNECTIONS)
        return {"topology.yaml": text, "config.yaml": CONFIG}

    def command(self) -> list[str]:
        """With a control socket, so that it can be reloaded."""
        return program("serve", "-t", "topology.yaml", "-c", "config.yaml", "--hotreload-socket", SOCKET,
                       "--hotreload-gradual-shutdown-seconds", "1")

    def start(self) -> float:
        """Start it; whatever comes from it is ended with it."""
        self.family = Family()
        return super().start()

    def environ(self) -> dict[str, str]:
        """With the mark of the family."""
        return self.family.environ()

    def reload(self) -> Tree:
        """Let it be replaced; returns what the successor costs. Raises :class:`Missing` if it stays."""
        result = subprocess.run(
            program("reload", "--hotreload-socket", SOCKET, "--timeout", str(RELOAD_S), "--json"),
            cwd=self.folder, env=self.environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=RELOAD_S + CHECK_S, check=False)
        if result.returncode:
            raise Missing(f"it was not replaced: {result.stdout.strip()} {result.stderr.strip()}")
        return Tree(json.loads(result.stdout)["successor_pid"])

    def stop(self) -> None:
        """End it and its successors."""
        super().stop()
        self.family.stop()


class OursTcp(Ours):
    """Bytes are forwarded."""

    name, title, topology = "tcp", "shotover-gevent, Tcp", TCP


class OursValkey(Ours):
    """The protocol is spoken, and each client has a connection to the database of its own."""

    name, title = "valkey", "shotover-gevent, QueryCounter + ValkeySinkSingle"


class OursShared(Ours):
    """The protocol is spoken, and the clients share connections to the database."""

    name, title = "valkey-shared", "shotover-gevent, the same, connection_mode: shared"
    options = "connection_mode: shared"

    def _find(self) -> str:
        """Ask the checkout whether it knows the mode."""
        with tempfile.TemporaryDirectory(prefix="shotover-bench-") as folder:
            for name, text in self.files().items():
                Path(folder, name).write_text(text)
            result = subprocess.run(
                program("check", "-t", "topology.yaml", "-c", "config.yaml"), cwd=folder, check=False,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CHECK_S)
        if result.returncode:
            lines = [line.strip() for line in result.stdout.splitlines() if "connection_mode" in line]
            raise Missing(f"this checkout cannot do it: {' '.join(lines) or result.stdout + result.stderr}")
        return sys.executable
