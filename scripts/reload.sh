#!/bin/sh
# Replaces a running proxy by a new process, from its own command line and its present configuration:
#
#     scripts/reload.sh --hotreload-socket PATH [--timeout SECONDS] [--json]
#
# Exit code 0: the new process serves. 75: it does not, the old one goes on, and the reason is printed.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)

if command -v shotover-gevent >/dev/null; then
    program=shotover-gevent
elif [ -x "${VENV:-$here/../.venv}/bin/shotover-gevent" ]; then
    program=${VENV:-$here/../.venv}/bin/shotover-gevent
else
    echo "reload.sh: shotover-gevent is neither on PATH nor in ${VENV:-.venv}; run scripts/run once" >&2
    exit 1
fi

exec "$program" reload "$@"
