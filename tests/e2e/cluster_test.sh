#!/usr/bin/env bash
# cluster_test.sh: unsupervised classification of a checkpoint, of both networks in it, and of files
# that have a head or none.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 1 --stop_at_step 12 -o "$work/run" >"$work/train.log" 2>&1 ||
    fail "training"
cluster=("$IBOT_BIN/ibot-eval" cluster --test "$data" --threads 1 --json)
"${cluster[@]}" --checkpoint "$work/run" >"$work/teacher.txt" 2>"$work/teacher.log" || fail "teacher"
"${cluster[@]}" --checkpoint "$work/run" --checkpoint_key student >"$work/student.txt" \
    2>"$work/student.log" || fail "student"
cmp -s "$work/teacher.txt" "$work/student.txt" && fail "the same clusters for another network"
python3 - "$work/teacher.txt" "$work/student.txt" <<'PYTHON' || fail "results"
import json
import sys

for path in sys.argv[1:]:
    r = json.loads(open(path).read())
    assert r["images"] == 200 and r["classes"] == 10 and r["prototypes"] == 64, r
    assert 1 <= r["clusters"] <= 64 and 0 <= r["nmi"] <= 1 and 0 <= r["fmi"] <= 1, r
    assert 10 <= r["acc"] <= 100, r  # any one cluster has a class of 20 images of its own
PYTHON

# the whole run as a file of the original gives the same; the backbone alone has no clusters
"$IBOT_BIN/ibot-convert" "$work/run" "$work/whole.pth" --to official >"$work/convert.log" 2>&1 ||
    fail "conversion"
"${cluster[@]}" --checkpoint "$work/whole.pth" --num_heads 2 --crop_size 32 >"$work/whole.txt" \
    2>"$work/whole.log" || fail "a checkpoint of the original"
cmp "$work/teacher.txt" "$work/whole.txt" || fail "other clusters from a file of the original"
"$IBOT_BIN/ibot-convert" "$work/run" "$work/with_head.pth" --with_head >"$work/convert.log" 2>&1 ||
    fail "conversion"
"${cluster[@]}" --checkpoint "$work/with_head.pth" --num_heads 2 --crop_size 32 \
    >"$work/with_head.txt" 2>"$work/with_head.log" || fail "a backbone with its head"
cmp "$work/teacher.txt" "$work/with_head.txt" || fail "other clusters from a backbone with its head"
"$IBOT_BIN/ibot-convert" "$work/run" "$work/backbone.pth" >"$work/convert.log" 2>&1 ||
    fail "conversion"
expect_error 1 'no projection head' "${cluster[@]}" --checkpoint "$work/backbone.pth" --num_heads 2
expect_error 2 'give --checkpoint and --test' "$IBOT_BIN/ibot-eval" cluster --test "$data"
cat "$work/teacher.txt"
