"""Listening sockets that a service manager has opened and passes by name."""

import socket

import pytest

from tests.harness import Client, ProxyProcess, command, eventually, free_port
from tests.integration.manager import launcher, listen_environ

TOPOLOGY = """\
sources:
  - Valkey:
      name: "edge"
      listen_addr: "{address}"
      chain:
        - DebugReturner: {{name: "r", Valkey: "42"}}
"""
ASK, ANSWER = command("GET", "x"), b"$2\r\n42\r\n"


def listening(port=0):
    """A socket as a manager opens it."""
    return socket.create_server(("127.0.0.1", port))


class Activated(ProxyProcess):
    """A proxy that is passed sockets with names."""

    def __init__(self, topology, sockets, names, **more):
        super().__init__(topology, env=listen_environ(names), **more)
        self.program = launcher(sockets)
        self.pass_fds = [sock.fileno() for sock in sockets]


def port_of(sock):
    """Where it listens."""
    return sock.getsockname()[1]


def topology_of(sock):
    """A topology whose source is to have it."""
    return TOPOLOGY.format(address=f"127.0.0.1:{port_of(sock)}")


def test_a_source_serves_the_socket_with_its_name():
    """Clients that came before the process are answered."""
    with listening() as sock, Client(port_of(sock)) as client:
        client.send(ASK)
        with Activated(topology_of(sock), [sock], ["edge"]):
            client.expect(ANSWER)


def test_a_restart_refuses_nobody():
    """Between two processes clients wait in the queue of the manager's socket."""
    with listening() as sock:
        with Activated(topology_of(sock), [sock], ["edge"]), Client(port_of(sock)) as client:
            client.ask(ASK, ANSWER)
        with Client(port_of(sock)) as client:
            client.send(ASK)
            with Activated(topology_of(sock), [sock], ["edge"]):
                client.expect(ANSWER)


def test_a_reload_keeps_the_socket(tmp_path):
    """The successor has it from its predecessor, twice; sessions move."""
    with listening() as sock, Activated(
            topology_of(sock), [sock], ["edge"], hotreload_socket=tmp_path / "control.sock",
            args=["--hotreload-gradual-shutdown-seconds", "5"]) as proxy, Client(port_of(sock)) as client:
        for _ in range(2):
            assert proxy.reload().returncode == 0
            eventually(lambda: len(proxy.family.pids()) == 1)
            client.ask(ASK, ANSWER)
            with Client(port_of(sock)) as another:
                another.ask(ASK, ANSWER)


def test_the_file_of_a_unix_socket_stays(tmp_path):
    """It is the manager's: neither a stop nor a reload removes it."""
    path = tmp_path / "edge.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with Activated(
                TOPOLOGY.format(address=f"unix:{path}"), [sock], ["edge"],
                hotreload_socket=tmp_path / "control.sock",
                args=["--hotreload-gradual-shutdown-seconds", "0"]) as proxy:
            assert proxy.reload().returncode == 0
            proxy.wait()
        assert path.exists()


def test_the_admin_interface_may_have_one():
    """By its key in ``config.yaml``."""
    with listening() as edge, listening() as admin:
        proxy = Activated(topology_of(edge), [edge, admin], ["edge", "observability_interface"])
        proxy.config = f"main_log_level: info\nobservability_interface: 127.0.0.1:{port_of(admin)}\n"
        with proxy, Client(port_of(admin)) as client:
            proxy.wait_ready()
            client.send(b"GET /livez HTTP/1.0\r\n\r\n")
            client.expect(b"HTTP/1.1 200 OK")


def refusal(topology, sockets, names):
    """The exit code and what is told of sockets that do not fit."""
    proxy = Activated(topology, sockets, names)
    proxy.start()
    try:
        code = proxy.wait()
    finally:
        folder = proxy.folder
        proxy._remove()
    return code, "\n".join(proxy.noise).replace(f"{folder}/", "")


def test_another_address_is_refused():
    """Both are told, at the place of the file."""
    port = free_port()
    with listening() as sock:
        assert refusal(TOPOLOGY.format(address=f"127.0.0.1:{port}"), [sock], ["edge"]) == (78, (
            "topology.yaml:4:20  sources[0].Valkey.listen_addr: the socket 'edge' that was passed "
            f"listens at 127.0.0.1:{port_of(sock)}, not at 127.0.0.1:{port}\n"
            "    write the same address here and into ListenStream= of the socket unit\n"
            "1 problem; nothing was started"))


def test_another_name_is_refused():
    """A socket that nobody would serve keeps clients waiting."""
    with listening() as sock:
        assert refusal(topology_of(sock), [sock], ["egde"]) == (78, (
            "topology.yaml:2:3  sources: a socket named 'egde' was passed, and nothing here has that name\n"
            "    FileDescriptorName= of the socket unit is the name of a source: edge\n"
            "1 problem; nothing was started"))


@pytest.mark.parametrize(("change", "message"), [
    ("twice", "2 sockets named 'edge' were passed, and there is room for one"),
    ("silent", "the socket 'edge' that was passed does not listen"),
    ("hard", "the service manager holds the listening socket, which cannot be closed at the limit"),
])
def test_what_does_not_fit_is_refused(change, message):
    """Two for one source, one that does not listen, and a limit that closes the socket."""
    with listening() as sock, socket.socket() as silent:
        topology, sockets = topology_of(sock), [silent if change == "silent" else sock]
        if change == "twice":
            sockets *= 2
        if change == "hard":
            topology = topology.replace("      chain:", "      hard_connection_limit: true\n      chain:")
        code, told = refusal(topology, sockets, ["edge"] * len(sockets))
    assert (code, message in told) == (78, True)


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path):
    """With what is wrong."""
    with listening() as sock, open(tmp_path / "file", "w") as file:
        proxy = Activated(topology_of(sock), [sock], ["edge"])
        proxy.pass_fds = [file.fileno()]
        proxy.program[3] = str(file.fileno())
        proxy.start()
        try:
            code = proxy.wait()
        finally:
            proxy._remove()
    assert (code, proxy.noise) == (
        1, ["a descriptor of LISTEN_FDS cannot be used: Socket operation on non-socket (os error 88)"])


def test_sockets_of_another_process_are_left_alone():
    """``LISTEN_PID`` says whose they are."""
    port = free_port()
    with ProxyProcess(TOPOLOGY.format(address=f"127.0.0.1:{port}"),
                      env={**listen_environ(["nothing"]), "LISTEN_PID": "1"}), Client(port) as client:
        client.ask(ASK, ANSWER)
