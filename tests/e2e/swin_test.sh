#!/usr/bin/env bash
# A Swin Transformer from images to neighbours: it trains by its recipe, goes on where it stopped
# with the same bits, and ibot-eval takes its checkpoints.
source "$(dirname "$0")/processes.sh"

swin=(--recipe cifar10_swin --data "$data" --loaders 1 --batch_size_per_gpu 20 --epochs 4
    --warmup_epochs 1 --embed_dim 32 --out_dim 64 --threads 1 --seed 3)
run() { "$IBOT_BIN/ibot-train" "${swin[@]}" "$@"; }

run -o "$work/whole" >"$work/whole.log" 2>&1 || fail "training"
run -o "$work/parts" --stop_at_step 13 >"$work/parts.log" 2>&1 || fail "the first part"
run -o "$work/parts" >>"$work/parts.log" 2>&1 || fail "the second part"
[ "$(state_of "$work/whole")" = "$(state_of "$work/parts")" ] || fail "two parts end elsewhere"

# every epoch's loss below the one before, and masked patches among its terms
losses=$(sed -n 's/.*"train_loss": \([0-9.]*\).*/\1/p' "$work/whole/log.txt")
[ "$(wc -l <<<"$losses")" -eq 4 ] || fail "log.txt has other lines than 4 epochs"
[ "$losses" = "$(sort -rn <<<"$losses")" ] || fail "the loss does not fall: $losses"
grep -q '"train_patch": 0\.0,' "$work/whole/log.txt" && fail "no patch was masked"

# tables and merging layers carry the original's names, and the window is the recipe's
grep -aq 'backbone.layers.0.blocks.1.attn.relative_position_bias_table' \
    "$work/whole/checkpoints/step_00000040/model.safetensors" || fail "no table by its name"
knn=("$IBOT_BIN/ibot-eval" knn --train "$data" --test "$data" --resize_size 32 --crop_size 32
    --nb_knn 5 --threads 1)
"${knn[@]}" --checkpoint "$work/whole" >"$work/knn.log" 2>&1 || fail "k-NN"
grep -q '5-NN classifier result: Top1' "$work/knn.log" || fail "k-NN printed no result"
"${knn[@]}" --checkpoint "$work/whole" --resize_size 40 --crop_size 40 >"$work/knn.log" 2>&1 ||
    fail "k-NN on images of another size"

# the window is part of what a run is; the patch is not for choosing
expect_error 3 'window_size' run -o "$work/whole" --window_size 2
expect_error 2 'mask cell' run -o "$work/other" --patch_size 16
expect_error 2 'multiple of 8' run -o "$work/other" --global_crop_size 36
echo "a Swin trains (losses" $losses"), resumes and is evaluated"
