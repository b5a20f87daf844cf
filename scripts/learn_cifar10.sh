#!/usr/bin/env bash
# A learning run on CIFAR-10, and what the teacher has learned after every few epochs: weighted 20-NN
# and linear accuracy of its features, as lines of JSON and as a picture. Stopped at any moment, or by
# its budget, the same command goes on where it was.
#
#   scripts/learn_cifar10.sh [OPTIONS] [-- OPTIONS OF ibot-train]
#
#   --data DIR         CIFAR-10 as JPEG files: DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, or an
#                      archive of that (.tar, .tar.xz, .tar.zst, …)
#   --small            two minutes on a CPU: a smaller network (recipe cifar10_small) on the 6,000
#                      images in this repository (--data chooses others), 20 epochs
#   --bin DIR          programs of a build that is there, such as that of gpu_check.sh --keep-build
#                      on a machine without a network; without, they are built here
#   --backend NAME     cpu (default) or cuda
#   --epochs N         length of the schedule; default: 200, or 20 with --small
#   --every N          epochs between two evaluations; default: a tenth of the epochs, or a fifth
#   --minutes N        train no longer than this in this call; 0 (default): to the end
#   --loaders N        loader processes; default: one per core, less two, 1 to 12
#   --torch PYTHON     afterwards train the same network by scripts/learn_cifar10_torch.py with this
#                      Python, on the same batches, from the same weights: the run is recorded for
#                      that, 11 KB for each image and epoch
#   --output_dir DIR   default: runs/learn_cifar10, or runs/learn_cifar10_small
#   --fresh            start again from nothing: the folder is deleted first
#
# In the folder: learn.jsonl (a line for each evaluation, and for each time of training), learn.svg and
# learn.png, run/ (as ibot-train leaves it), torch/ (the same of the other side). Exit status: 0 when
# the run is at its end, 75 when it goes on with the same command, others as of the programs.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

data='' small=no bin='' backend=cpu epochs='' every='' minutes=0 loaders='' torch='' out='' fresh=no
say() { echo "learn: $*" >&2; }
stop() {
    say "$1"
    exit "${2:-1}"
}
value() { [ $# -ge 2 ] || stop "$1 wants a value; --help lists the options" 2; }
whole() { [[ $2 =~ ^[0-9]+$ ]] || stop "$1 '$2': wanted a whole number" 2; }
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --small) small=yes ;;
    --fresh) fresh=yes ;;
    --data | --bin | --backend | --epochs | --every | --minutes | --loaders | --torch | --output_dir)
        value "$@"
        case $1 in --epochs | --every | --minutes | --loaders) whole "$1" "$2" ;; esac
        case $1 in
        --output_dir) out=$2 ;;
        *) printf -v "${1#--}" %s "$2" ;;
        esac
        shift
        ;;
    --)
        shift
        break
        ;;
    *) stop "unknown option '$1'; --help lists them" 2 ;;
    esac
    shift
done
more=("$@")

if [ $small = yes ]; then
    recipe=cifar10_small
    data=${data:-$root/tests/data/cifar10_subset.tar.zst}
    out=${out:-runs/learn_cifar10_small}
    epochs=${epochs:-20}
else
    recipe=cifar10_vit
    [ -n "$data" ] || stop "no images: give --data DIR, or --small" 2
    out=${out:-runs/learn_cifar10}
    epochs=${epochs:-200}
fi
[ "$epochs" -ge 1 ] || stop "--epochs 0: nothing to train" 2
parts=$([ $small = yes ] && echo 5 || echo 10)
every=${every:-$(((epochs + parts - 1) / parts))}
[ "$every" -ge 1 ] || stop "--every 0: wanted 1 at least" 2
if [ -z "$loaders" ]; then
    loaders=$(($(nproc) - 2))
    loaders=$((loaders < 1 ? 1 : loaders > 12 ? 12 : loaders))
fi
[ -z "$torch" ] || "$torch" -c 'import torch' 2> /dev/null || stop "--torch '$torch' has no PyTorch" 2
if [ $fresh = yes ] && [ -n "$(ls -A "$out" 2> /dev/null)" ]; then
    [ -e "$out/learn.jsonl" ] || [ -e "$out/index_train.log" ] || [ -e "$out/build.log" ] ||
        stop "--fresh would delete '$out', which no learning run has made" 2
    rm -rf "$out"
fi
mkdir -p "$out"
log=$out/learn.jsonl

# ---------------------------------------------------------------------------------- programs

if [ -z "$bin" ]; then
    say "building"
    "$root/scripts/setup.sh" build
    bin=$root/build/bin
    if ! { cmake -S "$root" --preset release &&
        cmake --build "$root/build" --target ibot-index ibot-loader ibot-train ibot-eval ibot-convert \
            -- -j "$(nproc)"; } > "$out/build.log" 2>&1; then
        tail -n 40 "$out/build.log" >&2
        exit 1
    fi
fi
bin=$(cd "$bin" && pwd)
for program in ibot-index ibot-loader ibot-train ibot-eval ibot-convert; do
    "$bin/$program" --version > /dev/null || stop "'$bin/$program' does not run"
done

# ---------------------------------------------------------------------------------- data

# Unpacked beside and renamed, so that half a data set is never taken for a whole one.
if [ -f "$data" ]; then
    if [ ! -d "$out/data" ]; then
        rm -rf "$out/data.new"
        mkdir -p "$out/data.new"
        if [[ $data == *.zst ]]; then
            command -v zstd > /dev/null || stop "no zstd for '$data': give the folder, or a plain .tar"
            zstd -q -dc "$data" | tar -x -C "$out/data.new"
        else
            tar -xf "$data" -C "$out/data.new"
        fi
        mv "$out/data.new" "$out/data"
    fi
    data=$out/data
fi
classes() { (cd "$1" && find . -mindepth 1 -maxdepth 1 -type d | LC_ALL=C sort); }
for split in train test; do
    [ -d "$data/$split" ] || stop "--data '$data' has no folder '$split': wanted train/CLASS/*.jpg and test/CLASS/*.jpg" 2
    [ "$(classes "$data/$split" | wc -l)" -eq 10 ] || stop "'$data/$split' has $(classes "$data/$split" | wc -l) class folders, wanted 10" 2
    # what makes the index is what loaders open; a folder that can't be written has it in the cache
    "$bin/ibot-index" "$data/$split" > "$out/index_$split.log" 2>&1 || {
        tail -n 5 "$out/index_$split.log" >&2
        stop "'$data/$split' can't be indexed"
    }
done
[ "$(classes "$data/train")" = "$(classes "$data/test")" ] || stop "train and test have other classes" 2
say "$(find "$data/train" -name '*.jpg' | wc -l) images to learn from, $(find "$data/test" -name '*.jpg' | wc -l) to tell"

# ---------------------------------------------------------------------------------- training

# Warm-ups that are longer than a short schedule are shortened with it.
shorter() { echo $((epochs / 5 < $1 ? epochs / 5 : $1)); }
warm_up=(--warmup_epochs "$(shorter "$([ $small = yes ] && echo 5 || echo 10)")")
[ $small = yes ] || warm_up+=(--warmup_teacher_temp_epochs "$(shorter 30)")

train=("$bin/ibot-train" --recipe "$recipe" --data "$data/train" --loaders "$loaders"
    --backend "$backend" --epochs "$epochs" "${warm_up[@]}" --saveckp_freq "$every"
    --keep_checkpoints 1 --output_dir "$out/run")
[ -z "$torch" ] || train+=(--record "$out/recording")
train+=("${more[@]}")

now() { date +%s.%N; }
steps_per_epoch() { sed -n 's/.*"steps_per_epoch": \([0-9]*\).*/\1/p' "$out/run/checkpoints/step_00000000/state.json"; }
# leg RUN BEGIN: notes a time of training that ends now
leg() { echo "{\"leg\": \"$1\", \"begin\": $2, \"end\": $(now)}" >> "$log"; }

status=0
budget=()
[ "$minutes" = 0 ] || budget=(timeout --preserve-status --signal=TERM "${minutes}m")
last=$(ls "$out/run/checkpoints" 2> /dev/null | tail -n 1 || true)
per_epoch=$([ -n "$last" ] && steps_per_epoch || echo 0)
if [ -z "$last" ] || [ $((10#${last#step_})) -lt $((per_epoch * epochs)) ]; then
    say "training: $out/run, $loaders loaders"
    begin=$(now)
    "${budget[@]}" "${train[@]}" || status=$?
    leg ibot "$begin"
    [ $status = 0 ] || [ $status = 75 ] || stop "training ended with status $status" $status
fi

# ---------------------------------------------------------------------------------- the other side

if [ -n "$torch" ] && [ $status = 0 ]; then
    mkdir -p "$out/torch"
    [ -f "$out/torch/start.pth" ] ||
        "$bin/ibot-convert" "$out/run/checkpoints/step_00000000" "$out/torch/start.pth" --to official
    say "training by PyTorch: $out/torch"
    begin=$(now)
    device=$([ "$backend" = cuda ] && echo cuda || echo cpu)
    "${budget[@]}" "$torch" "$root/scripts/learn_cifar10_torch.py" --recording "$out/recording" \
        --start "$out/torch/start.pth" --run "$out/run/run.yaml" --every "$every" \
        --device "$device" --output_dir "$out/torch" || status=$?
    leg torch "$begin"
    [ $status = 0 ] || [ $status = 75 ] || stop "PyTorch ended with status $status" $status
fi

# ---------------------------------------------------------------------------------- evaluation

# minutes_until RUN FILE: of training, until the file was written
minutes_until() {
    sed -n "s/.*\"leg\": \"$1\", \"begin\": \([0-9.]*\), \"end\": \([0-9.]*\).*/\1 \2/p" "$log" |
        awk -v at="$(stat -c %.Y "$2")" '
            at > $1 { sum += (at < $2 ? at : $2) - $1 }
            END { printf "%.3f", sum / 60 }'
}
# evaluate RUN EPOCH WEIGHTS FILE: of a checkpoint whose time is that of FILE
evaluate() {
    local knn linear
    if grep -q "\"run\": \"$1\", \"epoch\": $2," "$log"; then
        return
    fi
    knn=$("$bin/ibot-eval" knn --checkpoint "$3" --num_heads "$heads" --train "$data/train" \
        --test "$data/test" --resize_size 32 --crop_size 32 --nb_knn 20 --batch_size_per_gpu 250 \
        --loaders "$loaders" --backend "$backend" --dump_features "$out/features" --json \
        2> "$out/eval.log" | sed -n 's/.*"top1": \([0-9.]*\).*/\1/p') || true
    [ -n "$knn" ] || { tail -n 5 "$out/eval.log" >&2; stop "k-NN of '$3' failed"; }
    linear=$("$bin/ibot-eval" logistic --load_features "$out/features" --lambd "$lambda" \
        --json 2> "$out/eval.log" | sed -n 's/.*"top1": \([0-9.]*\).*/\1/p') || true
    [ -n "$linear" ] || { tail -n 5 "$out/eval.log" >&2; stop "the linear classifier of '$3' failed"; }
    echo "{\"run\": \"$1\", \"epoch\": $2, \"minutes\": $(minutes_until "$1" "$4"), \"knn_top1\": $knn, \"linear_top1\": $linear}" >> "$log"
    say "$1, epoch $2: k-NN $knn %, linear $linear %"
}

lambda=1e-5
heads=$(sed -n 's/^num_heads: *\([0-9]*\).*/\1/p' "$out/run/run.yaml")
[ "${heads:-0}" != 0 ] || heads=3 # vit_test's
per_epoch=$(steps_per_epoch)
for checkpoint in "$out"/run/checkpoints/step_*; do
    step=$((10#${checkpoint##*step_}))
    epoch=$((step / per_epoch))
    # the newest one of a run that goes on is not there for good
    if [ $((step % per_epoch)) = 0 ] && { [ $((epoch % every)) = 0 ] || [ $epoch = "$epochs" ]; }; then
        evaluate ibot $epoch "$checkpoint" "$checkpoint/state.json"
    fi
done
for weights in "$out"/torch/epoch_*.pth; do
    [ ! -f "$weights" ] || evaluate torch $((10#$(basename "${weights##*epoch_}" .pth))) "$weights" "$weights"
done
rm -rf "$out/features"

"$bin/ibot-eval" curve --log "$log" --out "$out/learn.png" ||
    "$bin/ibot-eval" curve --log "$log" --out "$out/learn.svg" # a libvips without SVG
grep '"run"' "$log" >&2
say "$out/learn.jsonl, $out/learn.svg, $out/learn.png"
[ $status = 0 ] || say "out of its $minutes minutes: the same command goes on"
exit $status
