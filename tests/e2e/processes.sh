# Shared by the end-to-end tests: a small data set, a tiny recipe, helpers. Sourced with IBOT_BIN (the
# programs) and IBOT_TEST_DATA set, as ctest does.
set -euo pipefail
export LC_ALL=C

work=$(mktemp -d /tmp/ibot-e2e-XXXXXX)
children=()
export XDG_CACHE_HOME=$work/cache # what accelerators keep

cleanup() {
    for child in "${children[@]}"; do
        kill -9 "$child" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

fail() {
    echo "FAIL: $*" >&2
    for log in "$work"/*.log; do
        [ -f "$log" ] && { echo "--- $log"; tail -n 20 "$log"; } >&2
    done
    exit 1
}

# 20 images of each of 10 classes.
data=$work/data
mkdir -p "$data"
tar --zstd -xf "$IBOT_TEST_DATA/cifar10_subset.tar.zst" -C "$work"
for class in "$work"/train/*; do
    mkdir -p "$data/$(basename "$class")"
    find "$class" -name '*.jpg' | LC_ALL=C sort | sed -n 1,20p | xargs cp -t "$data/$(basename "$class")"
done

tiny=(--arch vit_test --embed_dim 32 --depth 2 --num_heads 2 --patch_size 8 --out_dim 64
    --head_hidden_dim 32 --bottleneck_dim 16 --norm_last_layer on --drop_path 0.2
    --global_crop_size 32 --local_crop_size 16 --local_crops_number 2
    --global_crops_scale 0.4 1 --local_crops_scale 0.1 0.4
    --batch_size_per_gpu 16 --epochs 3 --warmup_epochs 1 --warmup_teacher_temp_epochs 0
    --slice_size 4 --threads 1)

train() { "$IBOT_BIN/ibot-train" "${tiny[@]}" "$@"; }
# For the background: the process itself, so that signals reach it.
train_exec() { exec "$IBOT_BIN/ibot-train" "${tiny[@]}" "$@"; }

# Hash of all state at a run's last checkpoint.
state_of() {
    local last
    last=$(ls -d "$1"/checkpoints/step_* | LC_ALL=C sort | tail -n 1)
    sha256sum <"$last/model.safetensors"
    grep '"step"' "$last/state.json"
}

# Ends as skipped where the program has no accelerator: needs_device COMMAND…, which is to fail for
# no other reason than that.
needs_device() {
    "$@" >"$work/device.log" 2>&1 || {
        grep -E 'no CUDA device is to be had|CUDA kernels are not here' "$work/device.log" || return 0
        echo "SKIPPED: no GPU"
        exit 77
    }
}

# Waits until a file has a line that matches, for at most three minutes.
wait_for() {
    local deadline=$((SECONDS + 180))
    until grep -q "$2" "$1" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "'$2' not in $1"
        sleep 0.02
    done
}

# expect_error STATUS TEXT COMMAND…: the command ends with that status and says the text.
expect_error() {
    local wanted=$1 text=$2 got=0
    shift 2
    "$@" >"$work/error.log" 2>&1 </dev/null || got=$?
    [ "$got" -eq "$wanted" ] || fail "exit status $got, wanted $wanted: $*"
    grep -q -- "$text" "$work/error.log" || fail "no '$text' in the message of: $*"
}
