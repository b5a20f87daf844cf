#!/usr/bin/env bash
# scripts/keep_running.sh and scripts/launch_local.sh: what is started, what it ends with, and that
# nothing is left behind.
source "$(dirname "$0")/processes.sh"

scripts=$(cd "$(dirname "$0")/../../scripts" && pwd)
launch() { IBOT_BIN=$IBOT_BIN "$scripts/launch_local.sh" "$@"; }

# ---- keep_running

for status in 0 2 3; do
    got=0
    timeout 60 "$scripts/keep_running.sh" bash -c "exit $status" || got=$?
    [ $got = $status ] || fail "keep_running ends with $got, wanted $status"
done
# killed once, then done
timeout 60 "$scripts/keep_running.sh" bash -c \
    "[ -e '$work/tried' ] || { touch '$work/tried'; kill -KILL \$\$; }" 2> "$work/again.log" || fail "not again"
grep -q 'ended with 137; it is started again' "$work/again.log" || fail "no word of the restart"
# asked to end: hands it on, and reports what the command ended with
"$scripts/keep_running.sh" bash -c "trap 'exit 5' TERM; touch '$work/up'; while :; do sleep 0.05; done" &
child=$!
children+=("$child")
deadline=$((SECONDS + 60))
until [ -e "$work/up" ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "keep_running starts nothing"
    sleep 0.02
done
kill -TERM $child
got=0
wait $child || got=$?
[ $got = 5 ] || fail "keep_running that was asked to end: $got, wanted 5"

# ---- launch_local

expect_error 2 'unknown option' launch --dta x
expect_error 2 'launch_local.sh' launch
expect_error 2 'launch_local.sh' launch --data "$data" --loaders two
expect_error 2 'did you mean' launch --data "$data" -- --teacher_tmp 1

train --data "$data" --loaders 1 -o "$work/alone" > "$work/alone.log" 2>&1 || fail "alone"
launch --data "$data" --loaders 3 --threads 1 -- "${tiny[@]}" -o "$work/fleet" > "$work/fleet.log" 2>&1 ||
    fail "a fleet on one machine"
[ "$(state_of "$work/fleet")" = "$(state_of "$work/alone")" ] || fail "the fleet ends elsewhere"
for name in 'loader 1' 'loader 2' 'loader 3' trainer; do
    grep -q "^\[$name\] " "$work/fleet.log" || fail "no line of $name"
done
if grep -vq '^\[' "$work/fleet.log"; then
    fail "a line without a name"
fi

# left_of PID: processes of its session but itself, and those that only nobody has counted yet
left_of() { ps -o pid=,stat= --sid "$1" | grep -v "^ *$1 \| Z" || true; }

# nothing_is_left WHEN: of the launcher's session; what was killed takes its time to be gone
nothing_is_left() {
    local deadline=$((SECONDS + 60))
    until [ -z "$(left_of "$launcher")" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "left behind after $1: $(ps -o pid=,args= --sid "$launcher")"
        sleep 0.05
    done
}

for signal in INT TERM USR1; do
    setsid env IBOT_BIN="$IBOT_BIN" "$scripts/launch_local.sh" --data "$data" --threads 1 -- \
        "${tiny[@]}" --epochs 4000 -o "$work/stopped" > "$work/stopped_$signal.log" 2>&1 &
    launcher=$!
    children+=("$launcher")
    wait_for "$work/stopped_$signal.log" 'steps in each'
    if [ $signal = TERM ]; then # a trainer that somebody stops for a while has not ended
        pid=$(ps -o pid=,args= --sid $launcher | sed -n 's/^ *\([0-9]*\) ibot-train .*/\1/p' | head -n 1)
        kill -STOP "$pid"
        sleep 0.3
        kill -CONT "$pid"
    fi
    if [ $signal = INT ]; then # a loader that is killed comes back
        kill -KILL "$(ps -o pid=,comm= --sid $launcher | sed -n 's/^ *\([0-9]*\) ibot-loader/\1/p' | head -n 1)"
        wait_for "$work/stopped_$signal.log" 'is started again'
    fi
    # bash ignores INT in background processes of scripts, and so do their traps
    kill -"${signal/INT/TERM}" $launcher
    got=0
    wait $launcher || got=$?
    [ $got = 75 ] || fail "exit status $got after $signal, wanted 75"
    nothing_is_left "$signal"
done
grep -q 'going on from' "$work/stopped_USR1.log" || fail "it did not go on"

# the launcher itself killed: nothing is left either
setsid env IBOT_BIN="$IBOT_BIN" "$scripts/launch_local.sh" --data "$data" --threads 1 -- "${tiny[@]}" \
    --epochs 4000 -o "$work/killed" > "$work/killed.log" 2>&1 &
launcher=$!
wait_for "$work/killed.log" 'steps in each'
kill -KILL $launcher
wait $launcher 2> /dev/null || true
nothing_is_left KILL

if command -v mpirun > /dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
    if launch --data "$data" --ranks 2 -- "${tiny[@]}" --batch_size_per_gpu 8 -o "$work/two" \
        > "$work/two.log" 2>&1; then
        last=$(ls "$work/two/checkpoints" | LC_ALL=C sort | tail -n 1)
        "$IBOT_BIN/compare_states" "$work/alone/checkpoints/$last/model.safetensors" \
            "$work/two/checkpoints/$last/model.safetensors" 1e-5 || fail "two ranks end elsewhere"
    else
        grep -q 'no MPI' "$work/two.log" || fail "two ranks"
    fi
fi
echo "launchers start, hand signals on, and leave nothing behind"
