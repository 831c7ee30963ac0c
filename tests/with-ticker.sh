#!/bin/sh
# Runs a command and prints a line each minute, so that a long step is not taken for a hung one.
set -u
(
    minutes=0
    # Not on our standard output: a pipe would stay open for the rest of the minute after the command ended.
    while sleep 60 >/dev/null 2>&1; do
        minutes=$((minutes + 1))
        echo "... $minutes min"
    done
) &
ticker=$!
"$@"
status=$?
kill "$ticker" 2>/dev/null
exit "$status"
