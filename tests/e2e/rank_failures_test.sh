#!/usr/bin/env bash
# rank_failures_test.sh IBOT_TRAIN_EMULATED RUN_RANKS: one of two ranks fails before they have met, does not
# come, is killed, is stopped, has a device that hangs, or a network that does. Both end in bounded time, and
# say which rank it was. The scenes wait for their deadlines side by side.
source "$(dirname "$0")/processes.sh"
program=$1 run_ranks=$2
export IBOT_EMULATOR_DEVICES=2 OMP_NUM_THREADS=1 IBOT_RANK_DEADLINE=30 XDG_CACHE_HOME=$work/cache

for class in "$data"/*; do
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n '2,$p' | xargs -r rm
done
declare -A scene
lost='rank 1 (.*) \(has ended without a word\|has not been heard of\|is late\)'

# begin NAME VARIABLES…: two ranks that would train for ever
begin() {
    local name=$1
    shift
    timeout -k 5 600 "$run_ranks" 2 "$@" -- bash -c 'echo $$ >"$0.$RANK"; exec "$@"' "$work/$name" \
        "$program" "${tiny[@]}" --data "$data" --loaders 1 --batch_size_per_gpu 2 --epochs 5000 \
        --checkpoint_every_steps 3 --backend cuda --precision f32 --matmul_tune off \
        -o "$work/$name.run" >"$work/$name.log" 2>&1 &
    scene[$name]=$!
}
# waits until steps were made
trains() {
    local deadline=$((SECONDS + 200))
    until [ -e "$work/$1.run/checkpoints/step_00000003" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$1: no step 3"
        sleep 0.05
    done
}
# end NAME STATUS-OF-RANK-0 STATUS-OF-RANK-1 TEXT
end() {
    local name=$1 status
    wait "${scene[$name]}" || true
    for rank in 0 1; do
        status=$([ $rank = 0 ] && echo "$2" || echo "$3")
        grep -q "rank $rank ended with status $status\$" "$work/$name.log" ||
            fail "$name: rank $rank did not end with status $status"
    done
    grep -q "$4" "$work/$name.log" || fail "$name: no '$4'"
}

# before they have met; without being told, the other would wait for ten minutes
begin option 1:IBOT_LR=fast
begin device 1:IBOT_EMULATOR_DEVICES=1
mkdir "$work/folder.run"
exec 9>"$work/folder.run/.lock"
flock 9
begin folder
begin address 1:IBOT_RANKS_AT=127.0.0.1:9 0:IBOT_RANK_JOIN_DEADLINE=20 1:IBOT_RANK_JOIN_DEADLINE=20
end option 1 2 'error: rank 1 (.*) ended: --lr fast'
end device 1 1 'error: rank 1 (.*) ended: CUDA device 1'
end folder 1 1 'error: rank 0 (.*) ended: another ibot-train works in'
wait_for "$work/address.log" 'info: rank 0 waits at port .*: rank 1 has not come'
end address 1 1 'error: rank 0 waits at port .*: rank 1 has not come; 2[0-9] s have passed'
grep -q 'error: rank 1 waits for rank 0, which does not answer at 127.0.0.1:9: ' "$work/address.log" ||
    fail "the wrong address is not named"

begin hangs 1:IBOT_EMULATOR_KERNEL_HANGS=1500
begin network 1:IBOT_EMULATOR_NCCL_HANGS=10
begin error 1:IBOT_EMULATOR_NCCL_FAILS=10
begin start 1:IBOT_EMULATOR_NCCL_INIT_HANGS=1

begin killed
trains killed
kill -KILL "$(cat "$work/killed.1")"

begin stopped
trains stopped
kill -STOP "$(cat "$work/stopped.1")"

# gone, or late: whatever comes first
end killed 1 137 "$lost"
wait_for "$work/stopped.log" "$lost"
kill -CONT "$(cat "$work/stopped.1")" # it finds that it is alone
end stopped 1 1 "$lost"
end hangs 1 1 'rank 1 (.*) is late' # its device, or its host that waits for it
end network 1 1 'no rank has moved for .* their devices have begun 10 collectives'
end error 1 1 'rank 1.*NCCL.*remote process exited'
end start 1 1 'joins the communicator\|initialisation: still in progress'

# nobody is left: no rank, no loader
left() {
    local file
    for file in /proc/[0-9]*/cmdline; do
        text=$({ tr '\0' ' ' <"$file"; } 2>/dev/null) || continue # it has ended meanwhile
        [[ $text != *"$work"* ]] || return 0
    done
    return 1
}
deadline=$((SECONDS + 30))
while left; do
    [ "$SECONDS" -lt "$deadline" ] || fail "processes are left: $text"
    sleep 0.1
done
grep -o "error: .*" "$work"/*.log | sed "s|.*/||"
echo "a rank that is killed, stopped or stuck is named, and all end"
