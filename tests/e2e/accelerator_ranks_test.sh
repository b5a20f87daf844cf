#!/usr/bin/env bash
# accelerator_ranks_test.sh IBOT_TRAIN RUN_RANKS: two ranks with an accelerator each, or what stands in for
# them. Ranks of B images end where one with the same 2B images ends; the same bits call by call, in
# parts, and after a stop that one rank alone was asked for.
source "$(dirname "$0")/processes.sh"
program=$1 run_ranks=$2
export IBOT_EMULATOR_DEVICES=2 OMP_NUM_THREADS=1 XDG_CACHE_HOME=$work/cache

for class in "$data"/*; do
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n '3,$p' | xargs -r rm
done
small=("${tiny[@]}" --data "$data" --loaders 1 --epochs 2 --freeze_last_layer 0 --keep_checkpoints 9
    --backend cuda --precision f32)
# each rank leaves the number of its process in $work/rank.N
two() {
    local log=$work/$1.log
    shift
    timeout 200 "$run_ranks" 2 bash -c 'echo $$ >"$0.$RANK"; exec "$@"' "$work/rank" \
        "$program" "${small[@]}" --batch_size_per_gpu 2 "$@" >"$log" 2>&1
}
losses() { sed -n 's/.*"train_loss": \([0-9.]*\).*/\1/p' "$1/log.txt"; }
# within LIMIT of each other, epoch by epoch
expect_near() {
    paste <(losses "$1") <(losses "$2") | awk -v limit="$3" '
        NF != 2 || ($1 - $2) / $1 > limit || ($2 - $1) / $1 > limit { bad = 1 }
        { n++; print }
        END { exit bad || n != 2 }' >"$work/near.log" || fail "losses of $1 and $2 differ"
}
# the same bits; means of an epoch are added in another order where it was interrupted
same() {
    [ "$(state_of "$work/two")" = "$(state_of "$work/$1")" ] || fail "$2 end elsewhere"
    expect_near "$work/two" "$work/$1" 1e-12
}

two two -o "$work/two" || fail "two ranks"
"$program" "${small[@]}" --batch_size_per_gpu 4 -o "$work/one" >"$work/one.log" 2>&1 || fail "one rank"
last=$(ls "$work/one/checkpoints" | LC_ALL=C sort | tail -n 1)
"$IBOT_BIN/compare_states" "$work/one/checkpoints/$last/model.safetensors" \
    "$work/two/checkpoints/$last/model.safetensors" 1e-5 || fail "two ranks end elsewhere than one"
expect_near "$work/one" "$work/two" 1e-6

two plain -o "$work/plain" --cuda_graph off || fail "two ranks, call by call"
same plain "steps that are not recorded"

two apart -o "$work/apart" --weight_gradient_branch on || fail "two ranks, weights apart"
same apart "weights on a branch of their own"

two parts -o "$work/parts" --stop_at_step 3 || fail "two ranks, the first part"
two parts -o "$work/parts" || fail "two ranks, the second part"
same parts "two parts"

# one rank is asked to stop; at whatever step it is, both save and end with 75
for try in 1 2 3 4 5 6 7 8 9; do # until the signal comes before the end
    rm -rf "$work"/rank.? "$work/stopped" "$work/stopped.log"
    status=0
    two stopped -o "$work/stopped" &
    wait_for "$work/stopped.log" 'steps in each of'
    kill -TERM "$(cat "$work/rank.1")" 2>/dev/null || true
    wait $! || status=$?
    [ "$status" -eq 0 ] || break
    echo "try $try: the run was over before the signal"
done
[ "$status" -eq 75 ] || fail "exit status $status after SIGTERM to one rank"
two stopped -o "$work/stopped" || fail "two ranks after a stop"
same stopped "ranks that were stopped"
# what one rank alone meets is known to both
status=0
two wild -o "$work/wild" --epochs 40 --lr 100 --weight_decay 100 --weight_decay_end 100 --clip_grad 0 \
    --warmup_epochs 0 || status=$?
[ "$status" -eq 1 ] || fail "exit status $status of a run that is not finite"
[ "$(grep -c 'ended with status 1$' "$work/wild.log")" -eq 2 ] || fail "not both ranks ended with 1"
grep -q 'not finite' "$work/wild.log" || fail "a loss that is not finite is not named"
echo "two ranks end where one does, recorded or not, in one go and in parts"
