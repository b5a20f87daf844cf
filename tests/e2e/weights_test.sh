#!/usr/bin/env bash
# Weights in and out: a run goes on through a checkpoint of the original with the same bits, and a
# backbone is the same network whatever file it comes in.
source "$(dirname "$0")/processes.sh"

convert=("$IBOT_BIN/ibot-convert")
official=$IBOT_TEST_DATA/golden/official_checkpoint.pth
run=(train --data "$data" --loaders 1)

# the last epoch made after a detour through the original's format: not a bit differs
"${run[@]}" -o "$work/whole" >"$work/whole.log" 2>&1 || fail "training"
"${run[@]}" -o "$work/part" --stop_at_step 24 >"$work/part.log" 2>&1 || fail "the first part"
"${convert[@]}" "$work/part" "$work/checkpoint.pth" --to official || fail "--to official"
"${run[@]}" -o "$work/rest" --load_from "$work/checkpoint.pth" >"$work/rest.log" 2>&1 || fail "--load_from"
grep -q 'going on from .*epoch 2, step 24' "$work/rest.log" || fail "it did not go on with epoch 2"
grep -q 'trained with other options' "$work/rest.log" && fail "options are said to differ"
[ "$(state_of "$work/whole")" = "$(state_of "$work/rest")" ] || fail "another state after the detour"

# with batch norm in heads of their own, another optimizer, a Swin
for more in '--norm_in_head bn --shared_head off --shared_head_teacher off' '--optimizer lars --norm_last_layer off' \
    '--arch swin_test --patch_size 4 --depth 0 --num_heads 0'; do
    read -ra words <<<"$more"
    small=("${run[@]}" "${words[@]}" --epochs 2)
    rm -rf "$work"/{a,b,c}
    "${small[@]}" -o "$work/a" >"$work/a.log" 2>&1 || fail "training with $more"
    "${small[@]}" -o "$work/b" --stop_at_step 12 >"$work/b.log" 2>&1 || fail "the first part with $more"
    "${convert[@]}" "$work/b" "$work/small.pth" --to official || fail "--to official with $more"
    "${small[@]}" -o "$work/c" --load_from "$work/small.pth" >"$work/c.log" 2>&1 || fail "--load_from with $more"
    [ "$(state_of "$work/a")" = "$(state_of "$work/c")" ] || fail "another state with $more"
done

# the same with a batch that makes other epochs: told, and the optimizer counts on from its number
"${run[@]}" -o "$work/other" --load_from "$work/checkpoint.pth" --batch_size_per_gpu 20 \
    >"$work/other.log" 2>&1 || fail "--load_from with another batch"
grep -q 'batch_size_per_gpu 20 (there 16)' "$work/other.log" || fail "the batch is not told"
grep -q 'took 24 steps in 2 epochs, which have 20 here' "$work/other.log" || fail "steps are not told"
grep -q '"optimizer_lag": -4' "$work"/other/checkpoints/step_00000030/state.json || fail "no lag"
"${convert[@]}" "$work/other" "$work/other.pth" --to official
"${run[@]}" -o "$work/more" --load_from "$work/other.pth" --batch_size_per_gpu 20 --epochs 4 \
    >"$work/more.log" 2>&1 || fail "going on once more"
grep -q 'took 34 steps in 3 epochs' "$work/more.log" || fail "the optimizer's own count is lost"

# a checkpoint that the original wrote goes on here
golden=(train --data "$data" --loaders 1 --embed_dim 48 --depth 3 --num_heads 3 --out_dim 96
    --head_hidden_dim 64 --bottleneck_dim 32 --norm_last_layer off --epochs 4)
"${golden[@]}" -o "$work/golden" --load_from "$official" >"$work/golden.log" 2>&1 || fail "the original's"
grep -q 'epoch 3, step 36, 205 tensors' "$work/golden.log" || fail "not all of the original's state"
[ "$(wc -l <"$work/golden/log.txt")" -eq 1 ] || fail "more than the fourth epoch was made"

# one backbone in five files: the same neighbours
knn=("$IBOT_BIN/ibot-eval" knn --train "$data" --test "$data" --nb_knn 1 5 20 --threads 1)
"${knn[@]}" --checkpoint "$work/whole" >"$work/wanted" 2>"$work/knn.log" || fail "k-NN of the run"
"${convert[@]}" "$work/whole" "$work/backbone.pth"
"${convert[@]}" "$work/whole" "$work/backbone.safetensors"
"${convert[@]}" "$work/backbone.safetensors" "$work/timm.pth" --to timm
"${convert[@]}" "$work/whole" "$work/head.pth" --with_head
"${convert[@]}" "$work/whole" "$work/full.pth" --to official
for file in backbone.pth backbone.safetensors timm.pth head.pth full.pth; do
    "${knn[@]}" --checkpoint "$work/$file" --num_heads 2 >"$work/got" 2>"$work/knn.log" || fail "k-NN of $file"
    cmp "$work/wanted" "$work/got" || fail "$file is another network"
    grep -q '30 tensors loaded, 0 missing, 0 unexpected' "$work/knn.log" || fail "no counts for $file"
    "${convert[@]}" diff "$work/$file" "$work/backbone.pth" >"$work/diff.log" || true
    grep -q '^30 tensors are the same' "$work/diff.log" || fail "$file differs"
done
"${knn[@]}" --checkpoint "$work/whole" --checkpoint_key student >"$work/got" 2>"$work/knn.log" || fail "student"
cmp -s "$work/wanted" "$work/got" && fail "the student is no other network than the teacher"
"${knn[@]}" --checkpoint "$work/backbone.pth" --num_heads 2 --crop_size 48 >"$work/got" 2>&1 || fail "another size"

# what is in a file, and its digest, whatever the container
"${convert[@]}" inspect "$official" >"$work/inspect.log" || fail "inspect"
grep -q "'student' (53 tensors), 'teacher' (52 tensors)" "$work/inspect.log" || fail "no keys"
grep -q "^args: {'arch': 'vit_tiny_test', 'patch_size': 8" "$work/inspect.log" || fail "no arguments"
grep -q 'module.head.last_layer2.weight_v .*F32  \[96, 32\]' "$work/inspect.log" || fail "no shapes"
digest() { "${convert[@]}" inspect "$1" | sed -n 's/^digest //p'; }
golden=$IBOT_TEST_DATA/golden/official_checkpoint_backbone
[ "$(digest "$golden.pth")" = "$(digest "${golden}_legacy.pth")" ] || fail "digests differ"
"${convert[@]}" "$official" "$work/extracted.pth" || fail "extraction"
"${convert[@]}" diff "$work/extracted.pth" "$golden.pth" >"$work/diff.log" || fail "another backbone"
expect_error 1 'values: ' "${convert[@]}" diff --key student "$official" "$golden.pth"

# a new run begins with a backbone, at another size of crops too
"${run[@]}" -o "$work/init" --init_from "$work/backbone.pth" --epochs 1 --global_crop_size 48 \
    >"$work/init.log" 2>&1 || fail "--init_from"
grep -q '30 tensors loaded, .*1 interpolated' "$work/init.log" || fail "positions were not interpolated"
"${run[@]}" -o "$work/init2" --init_from "$work/backbone.pth" --epochs 1 >"$work/init.log" 2>&1 || fail "--init_from"
"${convert[@]}" "$work/init2/checkpoints/step_00000000" "$work/begun.pth"
"${convert[@]}" diff "$work/begun.pth" "$work/backbone.pth" >"$work/diff.log" || fail "step 0 is another backbone"

# wrong keys, wrong files, wrong networks
expect_error 1 "its keys are: 'student' (53 tensors)" "${knn[@]}" --checkpoint "$official" --checkpoint_key tutor
expect_error 1 'it is flat' "${knn[@]}" --checkpoint "$golden.pth" --checkpoint_key teacher
expect_error 2 'give --num_heads' "${knn[@]}" --checkpoint "$official"
expect_error 3 'is a ViT of width 384' "${knn[@]}" --checkpoint "$official" --arch vit_small
expect_error 1 'No such file' "${knn[@]}" --checkpoint "$work/nothing.pth"
expect_error 1 'no file of weights' "${knn[@]}" --checkpoint "$data/cat/$(ls "$data/cat" | head -n 1)"
head -c 200000 "$official" >"$work/cut.pth"
expect_error 1 'cut short' "${knn[@]}" --checkpoint "$work/cut.pth"
head -c 200000 "${golden}_legacy.pth" >"$work/cut.pth"
expect_error 1 'cut short' "${knn[@]}" --checkpoint "$work/cut.pth"
expect_error 1 "posix.system', which is refused" "${knn[@]}" --checkpoint "$IBOT_TEST_DATA/weights/opaque.pth"
expect_error 3 'neither a ViT nor a Swin' "${knn[@]}" --checkpoint "$IBOT_TEST_DATA/weights/kinds.pth"
expect_error 2 'wanted .safetensors, or .pth' "${convert[@]}" "$official" "$work/x.bin"
expect_error 2 'of ours' "${convert[@]}" "$official" "$work/x.pth" --to official
expect_error 2 'is no whole checkpoint' "${run[@]}" -o "$work/no" --load_from "$golden.pth"
expect_error 3 'another architecture' "${run[@]}" -o "$work/no" --load_from "$official"
expect_error 2 'give one of the two' "${run[@]}" -o "$work/no" --load_from a --init_from b
rm "$work/error.log" # what is expected is no news
echo "weights go out and come back: bits, neighbours and errors are right"
