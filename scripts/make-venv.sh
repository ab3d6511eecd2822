#!/bin/sh
# Makes the virtual environment at $1 with the Python named by $PYTHON; installs Debian's venv package where it is missing.
set -eu

venv=$1
python=${PYTHON:-python3}

fail() {
    echo "edgebig: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "no $python on this machine: install Python 3.10 to 3.13, or name one: make test PYTHON=/path/to/python3.12"

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "$python is Python $version, edgebig needs 3.10 to 3.13: name another, as in make test PYTHON=python3.12" ;;
esac

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=python$version-venv
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "$python has no venv module: install it with your system's package manager"
    elif [ "$(id -u)" = 0 ]; then
        as_root=env
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo env"
    else
        fail "$python has no venv module: run 'sudo apt-get install $package' first"
    fi
    echo "edgebig: installing $package" >&2
    $as_root DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null >&2 &&
        $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" </dev/null >&2 ||
        fail "could not install $package: install it by hand, then try again"
fi

echo "edgebig: making $venv with Python $version" >&2
"$python" -m venv "$venv"
