#!/usr/bin/env bash
# accelerator_knn_test.sh IBOT_EVAL: features, neighbours, linear classifiers and clusters on an accelerator,
# or on what stands in for one, are nearly those of the CPU.
source "$(dirname "$0")/processes.sh"
eval=$1

train --data "$data" --loaders 1 --stop_at_step 4 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
knn=(knn --train "$data" --test "$data" --resize_size 32 --crop_size 32 --nb_knn 5 --threads 1
    --checkpoint "$work/run")
needs_device "$eval" "${knn[@]}" --backend cuda
"$IBOT_BIN/ibot-eval" "${knn[@]}" >"$work/knn_cpu.log" 2>&1 || fail "k-NN on the CPU"
"$eval" "${knn[@]}" --backend cuda --precision f32 >"$work/knn_f32.log" 2>&1 || fail "k-NN in f32"
"$eval" "${knn[@]}" --backend cuda >"$work/knn_bf16.log" 2>&1 || fail "k-NN in bf16"
top1() { sed -n 's/.*5-NN classifier result: Top1: \([0-9.]*\).*/\1/p' "$1"; }
[ -n "$(top1 "$work/knn_cpu.log")" ] || fail "k-NN printed no result"
for other in f32 bf16; do
    awk -v a="$(top1 "$work/knn_cpu.log")" -v b="$(top1 "$work/knn_$other.log")" \
        'BEGIN { exit b == "" || a - b > 4 || b - a > 4 }' || fail "k-NN in $other is another"
done
# What was measured for products is kept where --matmul_cache says and nowhere else; --deterministic
# measures nothing, and gives the same bits again.
"$eval" "${knn[@]}" --backend cuda --attention own --matmul_cache "$work/products" \
    >"$work/knn_kept.log" 2>&1 || fail "k-NN with a cache"
if grep -q 'are measured' "$work/knn_bf16.log"; then # a stand-in has nothing to choose from
    grep -q "kept in $work/products" "$work/knn_kept.log" && [ -s "$work/products" ] ||
        fail "--matmul_cache kept nothing"
fi
for i in 1 2; do
    "$eval" "${knn[@]}" --backend cuda --deterministic --matmul_cache "$work/none" \
        --dump_features "$work/features_$i" >"$work/knn_deterministic.log" 2>&1 ||
        fail "deterministic k-NN"
    "$eval" logistic --load_features "$work/features_$i" --max_iterations 3 --lambd 0.01 \
        --backend cuda --deterministic >"$work/logistic_$i.txt" 2>"$work/logistic.log" ||
        fail "logistic regression"
done
[ ! -e "$work/none" ] || fail "--deterministic measured products"
cmp "$work/features_1/test.safetensors" "$work/features_2/test.safetensors" || fail "other features"
cmp "$work"/logistic_[12].txt || fail "another logistic regression"
expect_error 2 'no algorithm that was chosen by measuring' \
    "$eval" logistic --load_features "$work/features_1" --deterministic --matmul_tune on
expect_error 2 'the CPU computes in float32' "$eval" "${knn[@]}" --precision bf16
linear=(linear --train "$data" --test "$data" --resize_size 32 --crop_size 32 --n_last_blocks 2
    --threads 1 --checkpoint "$work/run" --epochs 1 --batch_size_per_gpu 64 --lr 0.3 1)
"$IBOT_BIN/ibot-eval" "${linear[@]}" >"$work/linear_cpu.log" 2>&1 || fail "linear on the CPU"
"$eval" "${linear[@]}" --backend cuda --precision f32 >"$work/linear_f32.log" 2>&1 || fail "linear in f32"
loss() { sed -n 's/^last: .*(loss \([0-9.]*\),.*/\1/p' "$1"; }
[ -n "$(loss "$work/linear_cpu.log")" ] || fail "linear printed no result"
awk -v a="$(loss "$work/linear_cpu.log")" -v b="$(loss "$work/linear_f32.log")" \
    'BEGIN { exit b == "" || a - b > 0.01 || b - a > 0.01 }' || fail "linear in f32 is another"
cluster=(cluster --test "$data" --threads 1 --checkpoint "$work/run")
"$IBOT_BIN/ibot-eval" "${cluster[@]}" >"$work/cluster_cpu.log" 2>&1 || fail "clusters on the CPU"
"$eval" "${cluster[@]}" --backend cuda --precision f32 >"$work/cluster_f32.log" 2>&1 ||
    fail "clusters in f32"
accuracy() { sed -n 's/^NMI: .*, ACC: \([0-9.]*\) (200 images of 10 classes.*/\1/p' "$1"; }
[ -n "$(accuracy "$work/cluster_cpu.log")" ] || fail "cluster printed no result"
awk -v a="$(accuracy "$work/cluster_cpu.log")" -v b="$(accuracy "$work/cluster_f32.log")" \
    'BEGIN { exit b == "" || a - b > 1 || b - a > 1 }' || fail "clusters in f32 are others"
echo "5-NN: CPU $(top1 "$work/knn_cpu.log"), f32 $(top1 "$work/knn_f32.log")," \
    "bf16 $(top1 "$work/knn_bf16.log")"
