#!/usr/bin/env bash
# Runs a command and starts it again when it dies: a loader has no state, so nothing is lost. It is not
# started again when it ends with 0 (done, or asked to), with 2 or 3 (it would fail again), or when this
# script is asked to end, which it hands on.
#
#   scripts/keep_running.sh COMMAND [ARGUMENT…]
set -u

case ${1:---help} in
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    [ $# -gt 0 ] || exit 2
    exit 0
    ;;
esac

child=0
asked=no
interrupted=no

hand_on() {
    asked=yes
    interrupted=yes
    if [ $child != 0 ]; then
        kill -TERM $child 2> /dev/null
    fi
}
trap hand_on TERM INT USR1 HUP

pause=1
while :; do
    begin=$SECONDS
    "$@" &
    child=$!
    [ $asked = no ] || kill -TERM $child 2> /dev/null
    while :; do # a signal ends a wait, with a status of its own
        interrupted=no
        wait $child
        status=$?
        [ $interrupted = yes ] || break
    done
    child=0
    case $asked:$status in
    yes:* | *:0 | *:2 | *:3) exit "$status" ;;
    esac
    [ $((SECONDS - begin)) -lt 60 ] || pause=1
    echo "keep_running: $(basename "$1") ended with $status; it is started again in $pause s" >&2
    sleep $pause &
    wait $!
    kill $! 2> /dev/null
    [ $asked = no ] || exit 0
    [ $pause -ge 32 ] || pause=$((2 * pause))
done
