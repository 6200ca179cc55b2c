"""Shotover Proxy as a candidate: the original, whose topology we read. The path of its binary is given."""

from __future__ import annotations

import os
from pathlib import Path

from bench.ours import SPARE_CONNECTIONS, VALKEY
from bench.peers import Missing, Peer, first_match

# Releases up to 0.7.3: the name of a counter is that of its transform, and sinks have none.
RELEASED = """\
sources:
  - Valkey:
      name: "bench"
      listen_addr: "127.0.0.1:{port}"
      connection_limit: {limit}
      chain:
        - QueryCounter: {{name: "bench"}}
        - ValkeySinkSingle: {{remote_address: "127.0.0.1:{upstream}", connect_timeout_ms: 3000}}
{options}"""

CONFIG = 'main_log_level: "warn"\n'


class Shotover(Peer):
    """The same chain as ours, in whichever of its dialects the binary reads."""

    name, title = "shotover", "Shotover Proxy, QueryCounter + ValkeySinkSingle"

    def __init__(self, upstream: int, connections: int, binary: str = "") -> None:
        self.binary = binary
        self.topology = VALKEY
        super().__init__(upstream, connections)

    def _find(self) -> str:
        if not self.binary:
            raise Missing("its binary is not known; name it by --shotover PATH")
        if not os.access(self.binary, os.X_OK):
            raise Missing(f"{self.binary} cannot be executed")
        return str(Path(self.binary).resolve())

    def version(self) -> str:
        """Of ``--version``."""
        return "Shotover Proxy " + first_match([self.path, "--version"], r"(\d+\.\d+[\w.+-]*)")

    def files(self) -> dict[str, str]:
        """A topology, and a configuration without metrics."""
        text = self.topology.format(
            port=self.port, upstream=self.upstream, options="", limit=self.connections + SPARE_CONNECTIONS)
        return {"topology.yaml": text, "config.yaml": CONFIG}

    def command(self) -> list[str]:
        """One worker thread."""
        return [self.path, "-t", "topology.yaml", "-c", "config.yaml", "--core-threads", "1"]

    def start(self) -> float:
        """As the development version reads it; if that is refused, as releases do."""
        try:
            return super().start()
        except Missing as refusal:
            if self.topology is RELEASED or "unknown field" not in str(refusal):
                raise
            self.topology = RELEASED
            return super().start()
