"""Variables of the environment in a topology: a process takes them, hides them, and hands them on."""

import json
import os
import re
import subprocess
import sys

from tests.harness import Client, ProxyProcess, command, free_port

SECRET = "hunter2-and-more"

TOPOLOGY = """\
sources:
  - Valkey:
      name: "v"
      listen_addr: "127.0.0.1:${PROXY_PORT}"
      connection_limit: ${LIMIT:-7}
      chain:
        - DebugReturner: {name: "r", Valkey: "${ANSWER}"}
"""


def test_variables_are_taken_hidden_and_handed_on(tmp_path):
    """The values serve, the log has what is written, and a plan and a reload from another environment
    find the same chain."""
    port = free_port()
    proxy = ProxyProcess(
        TOPOLOGY, env={"PROXY_PORT": str(port), "ANSWER": SECRET},
        hotreload_socket=tmp_path / "control.sock",
        args=["--hotreload-gradual-shutdown-seconds", "5"])
    answer = b"$%d\r\n%s\r\n" % (len(SECRET), SECRET.encode())
    with proxy, Client(port) as client:
        client.ask(command("GET", "x"), answer)
        plan = json.loads(proxy.reload("--plan", "--json").stdout)
        report = json.loads(proxy.reload("--json").stdout)
        client.ask(command("GET", "x"), answer)
        log = proxy.log
    assert (plan["sessions"]["moved"], plan["reason"]) == (1, "")
    assert (report["verdict"], report["sessions"]["moved"]) == ("ok", 1)
    assert (SECRET in log, "'Valkey': '${ANSWER}'" in log, "'connection_limit': '${LIMIT:-7}'" in log) == (
        False, True, True)


def test_a_missing_variable_ends_the_start(tmp_path):
    """With its place and a way out, and no value of another one anywhere."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY.replace("LIMIT:-7", "ANSWER"))
    (tmp_path / "config.yaml").write_text("main_log_level: info\n")
    environ = {name: value for name, value in os.environ.items() if name != "PROXY_PORT"}
    result = subprocess.run(
        [sys.executable, "-m", "shotover_gevent", "serve", "-t", "topology.yaml", "-c", "config.yaml"],
        cwd=tmp_path, env=environ | {"ANSWER": SECRET}, capture_output=True, text=True, timeout=60,
        check=False)
    assert (result.returncode, result.stderr) == (78, """\
topology.yaml:4:20  sources[0].Valkey.listen_addr: the environment has no variable PROXY_PORT
    set it, or give a default: ${PROXY_PORT:-default}
topology.yaml:5:25  sources[0].Valkey.connection_limit: found the text "${ANSWER}", wanted an integer
2 problems; nothing was started
""")
    assert re.search("PROXY_PORT", result.stdout) and SECRET not in result.stdout
