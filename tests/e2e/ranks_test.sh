#!/usr/bin/env bash
# Two MPI ranks of B images each end where one rank with the same 2B images ends.
source "$(dirname "$0")/processes.sh"

if ! command -v mpirun >/dev/null || ! "$IBOT_BIN/ibot-train" --version >/dev/null; then
    echo "SKIPPED: no mpirun"
    exit 77
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
mpirun -np 2 --oversubscribe "$IBOT_BIN/ibot-train" "${tiny[@]}" --batch_size_per_gpu 8 --data "$data" \
    --loaders 1 -o "$work/two" >"$work/two.log" 2>&1 || {
    grep -q 'no MPI' "$work/two.log" && { echo "SKIPPED: built without MPI"; exit 77; }
    fail "two ranks"
}
train --data "$data" --loaders 1 -o "$work/one" >"$work/one.log" 2>&1 || fail "one rank"
last=$(ls "$work/one/checkpoints" | LC_ALL=C sort | tail -n 1)
"$IBOT_BIN/compare_states" "$work/one/checkpoints/$last/model.safetensors" \
    "$work/two/checkpoints/$last/model.safetensors" 1e-5 || fail "two ranks end elsewhere"

# Stopped and started again, two ranks end with the same bits as in one go.
for steps in 7 0; do
    mpirun -np 2 --oversubscribe "$IBOT_BIN/ibot-train" "${tiny[@]}" --batch_size_per_gpu 8 \
        --data "$data" --loaders 1 -o "$work/parts" --stop_at_step "$steps" \
        --log_digests "$work/digests" --record "$work/recording" >"$work/parts.log" 2>&1 ||
        fail "two ranks in parts"
done
cmp "$work/two/checkpoints/$last/model.safetensors" "$work/parts/checkpoints/$last/model.safetensors" ||
    fail "two ranks in parts end elsewhere"
[ "$(wc -l <"$work/digests.0")" -eq "$(wc -l <"$work/digests.1")" ] || fail "ranks saw other batches"
cmp -s "$work/digests.0" "$work/digests.1" && fail "both ranks saw the same images"

# What both consumed, in parts, is what the data set gives; and one rank with the same 2B images is fed by it.
"$IBOT_BIN/ibot-stream" verify "$work/recording" --data "$data" --threads 2 >"$work/verify.log" 2>&1 ||
    fail "the recording of two ranks"
"$IBOT_BIN/ibot-stream" replay "$work/recording" --connect "ipc://$work/socket" >"$work/replay.log" 2>&1 &
children+=($!)
train --listen "ipc://$work/socket" -o "$work/replayed" >"$work/replayed.log" 2>&1 || fail "replay"
cmp "$work/one/checkpoints/$last/model.safetensors" "$work/replayed/checkpoints/$last/model.safetensors" ||
    fail "one rank fed by a recording of two ends elsewhere"

# Ranks agree on an error that one of them alone meets first, and none is left waiting.
status=0
timeout 60 mpirun -np 2 --oversubscribe "$IBOT_BIN/ibot-train" "${tiny[@]}" --batch_size_per_gpu 8 \
    --data "$data" --loaders 1 -o "$work/wild" --epochs 40 --lr 100 --weight_decay 100 \
    --weight_decay_end 100 --clip_grad 0 --warmup_epochs 0 >"$work/wild.log" 2>&1 || status=$?
[ "$status" -eq 1 ] || fail "exit status $status of a run that is not finite"
grep -q 'not finite' "$work/wild.log" || fail "a loss that is not finite is not named"
grep -q 'ibot-train rank [01]\[.*not finite' "$work/wild.log" || fail "a line does not say whose it is"

# What starts GPU ranks does not make processes find each other on the CPU.
expect_error 2 'start CPU ranks with mpirun' env RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 \
    timeout 60 "$IBOT_BIN/ibot-train" "${tiny[@]}" --data "$data" -o "$work/alone"
# A wrong option of a CPU rank is mpirun's to answer: it tries to tell nobody, which would take 30 s.
expect_error 2 'warmup_epochs' env RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=127.0.0.1 \
    timeout 25 "$IBOT_BIN/ibot-train" "${tiny[@]}" --warmup_epochs 9 --data "$data" -o "$work/alone"
echo "two ranks end where one does, in one go and in parts"
