#!/usr/bin/env bash
# The whole path on two cores in minutes: installs what is missing, builds, trains a small ViT on the
# images in this repository (5,000 of CIFAR-10) with two loader processes and one trainer over
# ZeroMQ, and compares weighted k-NN of the teacher with that of its own random initialisation.
# Stopped at any moment, the same command goes on where it was.
#
#   scripts/run.sh [--fresh] [OPTIONS OF ibot-train]
#
#   --fresh    start again from nothing: the run folder is deleted first
#
# For example: scripts/run.sh --fresh --epochs 10
set -euo pipefail
cd "$(dirname "$0")/.."

run=runs/cifar10_small
data=build/data/cifar10_subset
archive=tests/data/cifar10_subset.tar.zst

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
fi
if [ "${1:-}" = --fresh ]; then
    shift
    rm -rf "$run"
fi

echo "== set-up and build" >&2
./scripts/setup.sh build
if command -v ccache > /dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
mkdir -p build
if ! { cmake --preset release &&
    cmake --build build --target ibot-index ibot-loader ibot-train ibot-eval -- -j "$(nproc)"; } \
    > build/run.log 2>&1; then
    cat build/run.log >&2
    exit 1
fi
PATH=$PWD/build/bin:$PATH

# Unpacked beside and renamed, so that half a data set is never taken for a whole one.
if [ ! -d "$data" ] || [ "$archive" -nt "$data" ]; then
    rm -rf "$data" "$data.new"
    mkdir -p "$data.new"
    zstd -q -dc "$archive" | tar -x -C "$data.new"
    touch "$data.new"
    mv "$data.new" "$data"
fi

echo "== training: $run" >&2
ibot-train --recipe cifar10_small --data "$data/train" --loaders 2 --output_dir "$run" "$@"

echo "== evaluation" >&2
# knn_top1 CHECKPOINT: weighted 20-NN accuracy of the teacher's [CLS] tokens, in percent
knn_top1() {
    IBOT_LOG_LEVEL=warning ibot-eval knn --checkpoint "$1" --train "$data/train" \
        --test "$data/test" --loaders 2 --resize_size 32 --crop_size 32 --nb_knn 20 |
        sed -n 's/^20-NN classifier result: Top1: \([0-9]*\.[0-9]\).*/\1/p'
}
random=$(knn_top1 "$run/checkpoints/step_00000000")
teacher=$(knn_top1 "$run")
if [ -z "$random" ] || [ -z "$teacher" ]; then
    echo "run: ibot-eval printed no result for 20 neighbours" >&2
    exit 1
fi

cat >&2 << END
== in $run:
   run.yaml            every option of the run
   log.txt             one JSON object per epoch
   losses.svg          its curves
   contact_sheet.png   crops as the network saw them, masked patches drawn in
   tf_logs/            for TensorBoard
   checkpoints/        the newest ones, and step 0: the random initialisation
END
echo "k-NN top-1, random initialisation: $random %"
echo "k-NN top-1, teacher: $teacher %"
