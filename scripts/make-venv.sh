#!/bin/sh
# Makes the virtual environment at $1 with the Python named by $PYTHON; installs Debian's venv package where it is missing,
# and a C compiler where that can be had: edgebig works without the part that is compiled, only more slowly.
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

as_root=
if ! command -v apt-get >/dev/null 2>&1; then
    cannot="install it with your system's package manager"
elif [ "$(id -u)" = 0 ]; then
    as_root=env
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo env"
else
    cannot="install it with 'sudo apt-get install'"
fi

apt_install() {
    echo "edgebig: installing $*" >&2
    $as_root DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null >&2 &&
        $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2
}

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=python$version-venv
    [ -n "$as_root" ] || fail "$python has no venv module ($package): $cannot first"
    apt_install "$package" || fail "could not install $package: install it by hand, then try again"
fi

compiler=
command -v cc >/dev/null 2>&1 || compiler="gcc libc6-dev"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    compiler="$compiler python$version-dev"
if [ -n "$compiler" ]; then
    # shellcheck disable=SC2086 # several packages
    if [ -z "$as_root" ] || ! apt_install $compiler; then
        echo "edgebig: no $compiler: calibration will count with NumPy, more slowly" >&2
    fi
fi

echo "edgebig: making $venv with Python $version" >&2
"$python" -m venv "$venv"
