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
    elif command -v bash >/dev/null; then
        bash -c ': </dev/tcp/localhost/6379' 2>/dev/null
    else
        return 1
    fi
}

if [ -n "${REDIS_URL:-}" ] || redis_listens; then
    exec "$@"
fi

server=$(tests/support/ensure-redis.sh)
mkdir -p .run
data=$(pwd)/.run
echo "starting a private Redis on localhost:6379; its data is in $data" >&2
# Daemonized, so that Ctrl-C, which the terminal sends to all of its foreground, does not end it before the drain.
"$server" --bind 127.0.0.1 --port 6379 --dir "$data" --appendonly yes --save '' --maxmemory-policy noeviction \
    --daemonize yes --pidfile "$data/redis.pid" --logfile "$data/redis.log" >/dev/null

# The program drains when it is signalled; this script waits for it, and only then stops Redis.
"$@" &
child=$!
trap : INT
trap 'kill -TERM "$child"' TERM HUP
status=0
while kill -0 "$child" 2>/dev/null; do
    # A signal ends `wait` but not the program.
    wait "$child" && status=0 || status=$?
done
kill "$(cat "$data/redis.pid")"
exit "$status"
