#!/bin/sh
# `make threads`: names and stacks of the threads of a running backfiller, as gdb sees them, or without gdb their names and states.
# PID=… chooses one. The process stands still while gdb looks, for a second or so. (SIGUSR1 says more of what the threads are at,
# and stops nothing.)
set -eu

program=backfiller

fail() {
    echo "$@" >&2
    exit 1
}

# Whether the process of this number is one: by its name, and not dead already.
is_one() {
    [ "$(cat "/proc/$1/comm" 2>/dev/null)" = "$program" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

running() {
    for folder in /proc/[0-9]*; do
        if is_one "${folder#/proc/}"; then
            echo "${folder#/proc/}"
        fi
    done
}

show_states() {
    for task in "/proc/$1/task"/*; do
        # A thread may end while it is looked at.
        state=$(sed -n 's/^State:[[:space:]]*//p' "$task/status" 2>/dev/null) || continue
        printf '%8s  %-15s  %s\n' "${task##*/}" "$(cat "$task/comm" 2>/dev/null)" "$state"
    done
}

[ -r /proc/self/comm ] || fail "there is no /proc here: ask the process itself, with kill -USR1"

pid=${PID:-}
if [ -n "$pid" ]; then
    case $pid in *[!0-9]*) fail "PID=$pid is no number" ;; esac
    is_one "$pid" || fail "no $program runs as process $pid"
else
    found=$(running)
    # The numbers are words of their own.
    # shellcheck disable=SC2086
    set -- $found
    case $# in
        0) fail "no $program is running here" ;;
        1) pid=$1 ;;
        *) fail "more than one $program is running; choose one with PID=…: $*" ;;
    esac
fi

if ! command -v gdb >/dev/null; then
    echo "for stacks install gdb (apt-get install gdb, dnf install gdb, apk add gdb); without it, the names and states:" >&2
    show_states "$pid"
    exit 0
fi
# As quiet as it gets: no start-up files, no questions, no downloads of symbols.
if ! gdb --nx --batch --pid "$pid" -iex 'set debuginfod enabled off' -ex 'thread apply all backtrace' 2>/dev/null |
    sed -n '/^Thread [0-9]/,$p' | grep .; then
    echo "gdb may not look into process $pid (try as root); the names and states:" >&2
    show_states "$pid"
fi
