#!/bin/sh
# Prints the path of Chromium (or Chrome); installs it with the system's package manager where there is none.
set -eu

find_browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable
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

install_browser() {
    if command -v apt-get >/dev/null; then
        # The list of packages may be missing or old; only then it is fetched, for it takes a while.
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium ||
            { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; }
    elif command -v dnf >/dev/null; then
        as_root dnf install -y chromium
    elif command -v apk >/dev/null; then
        as_root apk add --no-cache chromium
    else
        return 1
    fi
}

if ! find_browser >/dev/null; then
    echo "chromium is not installed; installing it" >&2
    install_browser >&2 || true
fi
if ! find_browser; then
    echo "chromium could not be installed: the tests of the page will be skipped" >&2
    exit 1
fi
