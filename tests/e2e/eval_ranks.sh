# Sourced by the tests of evaluations on several ranks, with their arguments: IBOT_EVAL, then cpu (under
# mpirun), or cuda and RUN_RANKS. Sets `program` and `hardware` (options), and makes a run to evaluate.
source "$(dirname "${BASH_SOURCE[0]}")/processes.sh"
program=$1 backend=$2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 IBOT_EMULATOR_DEVICES=3
unset IBOT_LOG_LEVEL # what other ranks than the first one log is part of the tests
if [ "$backend" = cpu ]; then
    command -v mpirun >/dev/null || { echo "SKIPPED: no mpirun"; exit 77; }
    launcher=(mpirun --oversubscribe -np) hardware=(--threads 1)
else
    launcher=("$3") hardware=(--threads 1 --backend cuda --precision f32 --deterministic)
fi

# Each rank leaves the number of its process in $work/rank.N, and has the variables that are for it.
cat >"$work/rank.sh" <<'END'
rank=${OMPI_COMM_WORLD_RANK:-$RANK}
echo $$ >"${0%.sh}.$rank"
while [ "$1" != -- ]; do
    [ "${1%%:*}" != "$rank" ] || export "${1#*:}"
    shift
done
shift
exec "$@"
END

# ranks N [RANK:NAME=VALUE…] -- OPTIONS OF ibot-eval…
ranks() {
    local n=$1
    shift
    local own=()
    while [ "$1" != -- ]; do
        own+=("$1")
        shift
    done
    shift
    rm -f "$work"/rank.[0-9]*
    timeout -k 5 200 "${launcher[@]}" "$n" bash "$work/rank.sh" "${own[@]}" -- "$program" "$@" "${hardware[@]}"
}

# near A B SHARE: two numbers are within that share
near() {
    awk -v a="$1" -v b="$2" -v share="$3" 'BEGIN { exit !(a != "" && b != "" && (a - b)^2 <= (share * a)^2) }'
}

# A rank that dies takes the others along: dies NAME OPTIONS…, once $work/NAME.dir/log.txt has a line.
dies() {
    local name=$1 status=0
    shift
    ranks 2 -- "$@" -o "$work/$name.dir" >"$work/$name.log" 2>&1 &
    local launched=$!
    wait_for "$work/$name.dir/log.txt" '"epoch"'
    kill -KILL "$(cat "$work/rank.1")"
    wait "$launched" || status=$?
    [ "$status" -ne 0 ] && [ "$status" -ne 124 ] || fail "$name: status $status when a rank was killed"
    local deadline=$((SECONDS + 30)) # what is left of them takes a moment, a loader one more
    while pgrep -f "$work/$name.dir" >/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$name: the other rank lives"
        sleep 0.1
    done
    if [ "$backend" = cpu ]; then
        grep -q 'rank 1 .*exited on signal 9' "$work/$name.log" || fail "$name: mpirun names no rank"
    else
        grep -q 'error: rank 1 (.*) \(has ended without a word\|has not been heard of\)' "$work/$name.log" ||
            fail "$name: the lost rank is not named"
    fi
}

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 || fail "training"
