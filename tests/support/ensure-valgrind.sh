#!/bin/sh
# Installs valgrind with the system's package manager where there is none.
set -eu

is_there() {
    command -v valgrind >/dev/null && command -v callgrind_annotate >/dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

install_valgrind() {
    if command -v apt-get >/dev/null; then
        # The list of packages may be missing or old; only then it is fetched, for it takes a while.
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y valgrind ||
            { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y valgrind; }
    elif command -v dnf >/dev/null; then
        as_root dnf install -y valgrind
    elif command -v apk >/dev/null; then
        # callgrind_annotate and callgrind_control are scripts in Perl.
        as_root apk add --no-cache valgrind valgrind-scripts perl
    else
        return 1
    fi
}

if ! is_there; then
    echo "valgrind is not installed; installing it" >&2
    install_valgrind >&2 || true
fi
if ! is_there; then
    echo "valgrind could not be installed: please install it and try again (it counts instructions; it runs on Linux)" >&2
    exit 1
fi
