#!/bin/sh
# `make run`: runs the command given, against REDIS_URL. With REDIS_URL unset and nothing on localhost:6379, a private Redis is
# started there for as long as the command runs; its data stays in .run/ and is there again the next time.
set -eu

BACKFILLER_CONSUMER=${BACKFILLER_CONSUMER:-backfiller_$(uname -n)}
export BACKFILLER_CONSUMER

# Whatever tool there is to look with.
redis_listens() {
    if command -v redis-cli >/dev/null; then
        redis-cli -h localhost -p 6379 ping >/dev/null 2>&1
    elif command -v valkey-cli >/dev/null; then
        valkey-cli -h localhost -p 6379 ping >/dev/null 2>&1
    elif command -v bash >/dev/null; then
        bash -c ': </dev/tcp/localhost/6379' 2>/dev/null
    elif command -v nc >/dev/null; then
        nc -z localhost 6379
    else
        return 1
    fi
}

is_running() {
    kill -0 "$1" 2>/dev/null
}

# Polls a condition ten times a second, for half a minute at most.
wait_until() {
    tries=300
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

has_ended() {
    ! is_running "$1"
}

data=$(pwd)/.run
pidfile=$data/redis.pid
# There from when the private Redis is told to end until it has.
ending=$data/ending

if [ -n "${REDIS_URL:-}" ]; then
    exec "$@"
fi
if [ -f "$ending" ]; then
    echo "waiting for the private Redis of the last run to end" >&2
    wait_until test ! -f "$ending" || rm -f "$ending"
fi
if redis_listens; then
    exec "$@"
fi

server=$(tests/support/ensure-redis.sh)
mkdir -p "$data"
rm -f "$pidfile"
echo "starting a private Redis on localhost:6379; its data is in $data" >&2
# Daemonized, so that Ctrl-C, which the terminal sends to all of its foreground, does not end it before the drain.
"$server" --bind 127.0.0.1 --port 6379 --dir "$data" --appendonly yes --save '' --maxmemory-policy noeviction \
    --daemonize yes --pidfile "$pidfile" --logfile "$data/redis.log" >/dev/null
if ! wait_until test -s "$pidfile" || ! wait_until redis_listens; then
    echo "the private Redis did not start; the end of $data/redis.log:" >&2
    tail -n 5 "$data/redis.log" >&2
    exit 1
fi
redis=$(cat "$pidfile")

# The program drains when it is signalled; this script waits for it, and only then stops Redis.
"$@" &
child=$!
trap : INT
trap 'kill -TERM "$child" 2>/dev/null || true' TERM HUP
status=0
while is_running "$child"; do
    # A signal ends `wait` but not the program.
    wait "$child" && status=0 || status=$?
done
touch "$ending"
kill "$redis" 2>/dev/null || true
wait_until has_ended "$redis" || true
rm -f "$ending"
exit "$status"
