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
