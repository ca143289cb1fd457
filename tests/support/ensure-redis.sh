#!/bin/sh
# Prints the path of redis-server or valkey-server; installs one with the system's package manager where there is none.
set -eu

find_server() {
    command -v redis-server || command -v valkey-server
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

# The package is called redis, redis-server or valkey, depending on the system and its age.
install_server() {
    if command -v apt-get >/dev/null; then
        # The list of packages may be missing or old; only then it is fetched, for it takes a while.
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y redis-server ||
            { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y redis-server; }
    elif command -v dnf >/dev/null; then
        as_root dnf install -y redis || as_root dnf install -y valkey
    elif command -v apk >/dev/null; then
        as_root apk add --no-cache redis || as_root apk add --no-cache valkey
    elif command -v brew >/dev/null; then
        brew install redis
    else
        return 1
    fi
}

if ! find_server >/dev/null; then
    echo "redis-server is not installed; installing it" >&2
    install_server >&2 || true
fi
if ! server=$(find_server); then
    echo "redis-server could not be installed: please install Redis 7.0 or later, or Valkey, and try again" >&2
    exit 1
fi
# "Redis server v=7.0.15 sha=…"; Valkey's versions begin with 7.
version=$("$server" --version | sed -n 's/.*v=\([0-9]*\).*/\1/p')
if [ "${version:-7}" -lt 7 ]; then
    echo "$server is version $version: please install Redis 7.0 or later, or Valkey, and try again" >&2
    exit 1
fi
echo "$server"
