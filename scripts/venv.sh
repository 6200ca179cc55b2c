# Makes the virtual environment of a checkout. Sourced by the scripts beside it, which set `root`:
#
#     root=...; . "$root/scripts/venv.sh"; make_venv test
#
# The environment is in .venv below the root, or where VENV says. It is made anew when it does not
# work, and left as it is when nothing that it depends on has changed since it was made.

VENV=${VENV:-$root/.venv}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# What an installation depends on: where the checkout is, what it asks for, and which Python it gets.
venv_key() {
    {
        echo "$root"
        python3 --version
        cat "$root/setup.cfg" "$root/pyproject.toml" "$root/shotover_gevent/_version.py"
    } | cksum
}

check_python() {
    command -v python3 >/dev/null ||
        fail "python3 is missing; on Debian: apt-get install python3 python3-venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed; python3 is $(python3 --version 2>&1)"
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        fail "python3-venv is missing; on Debian: apt-get install python3-venv"
}

# An environment that does not work is emptied first; a folder that is none is never touched.
create_venv() {
    [ -e "$VENV/pyvenv.cfg" ] || [ -z "$(ls -A "$VENV" 2>/dev/null)" ] ||
        fail "$VENV holds files but is no virtual environment; choose another folder by VENV"
    python3 -m venv --clear "$VENV" || fail "the virtual environment $VENV cannot be made"
}

# make_venv EXTRA: the environment with the package (editable) and that extra of setup.cfg.
make_venv() {
    check_python
    key=$(venv_key)
    stamp=$VENV/.installed-$1
    if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
        return
    fi
    echo "${0##*/}: installing shotover-gevent[$1] into $VENV" >&2
    rm -f "$stamp"
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || create_venv
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[$1]" >&2 ||
        fail "installing shotover-gevent[$1] failed"
    echo "$key" >"$stamp"
}
