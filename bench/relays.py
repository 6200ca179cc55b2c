"""Candidates that forward bytes: HAProxy and nginx; and, for comparison, no proxy at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from bench.peers import Missing, Peer, first_match


class Direct(Peer):
    """No proxy at all: what the clients and the database cost by themselves."""

    name, title = "none", "direct to Redis"

    def _find(self) -> str:
        return ""

    def version(self) -> str:
        """Nothing is between."""
        return "no proxy"

    def start(self) -> float:
        """The database runs already."""
        self.port = self.upstream
        return 0.0


class HAProxy(Peer):
    """HAProxy in TCP mode."""

    name, title = "haproxy", "HAProxy, tcp"
    program, hint = "haproxy", "on Debian: apt-get install haproxy"

    def version(self) -> str:
        """Of ``haproxy -v``."""
        return "HAProxy " + first_match([self.path, "-v"], r"version (\d[\w.]*)")

    def files(self) -> dict[str, str]:
        """One thread; as many connections as are asked for."""
        return {"haproxy.cfg": f"""\
global
    nbthread 1
    maxconn {self.connections + 50}
defaults
    mode tcp
    timeout connect 3s
    timeout client 1h
    timeout server 1h
listen bench
    bind 127.0.0.1:{self.port}
    maxconn {self.connections + 50}
    server redis 127.0.0.1:{self.upstream}
"""}

    def command(self) -> list[str]:
        """In the foreground, without a master process."""
        return [self.path, "-db", "-f", "haproxy.cfg"]


class Nginx(Peer):
    """nginx with its stream module."""

    name, title = "nginx", "nginx, stream"
    program, hint = "nginx", "on Debian: apt-get install nginx libnginx-mod-stream"

    # Where distributions keep modules that are not built in.
    modules: ClassVar[tuple[str, ...]] = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")

    def version(self) -> str:
        """Of ``nginx -v``."""
        return "nginx " + first_match([self.path, "-v"], r"nginx/([\d.]+)")

    def _module(self) -> str:
        if re.search(r"--with-stream(?!=dynamic)(\s|$)", self._build()):
            return ""
        for folder in self.modules:
            if (found := Path(folder, "ngx_stream_module.so")).is_file():
                return f"load_module {found};"
        raise Missing("nginx has no stream module; on Debian: apt-get install libnginx-mod-stream")

    def _build(self) -> str:
        return first_match([self.path, "-V"], r"configure arguments: (.*)")

    def files(self) -> dict[str, str]:
        """One worker; two connections for each client."""
        limit = 2 * self.connections + 100
        return {"nginx.conf": f"""\
{self._module()}
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile {limit};
events {{ worker_connections {limit}; }}
stream {{
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        proxy_pass 127.0.0.1:{self.upstream};
        proxy_timeout 1h;
    }}
}}
"""}

    def command(self) -> list[str]:
        """With all its paths in its folder."""
        return [self.path, "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]
