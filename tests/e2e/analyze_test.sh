#!/usr/bin/env bash
# ibot-analyze: each command on a tiny run, what it writes, and what it refuses.
source "$(dirname "$0")/processes.sh"

analyze=(timeout 120 "$IBOT_BIN/ibot-analyze")
train --data "$data" --loaders 1 --epochs 1 -o "$work/run" >"$work/run.log" 2>&1 || fail "training"
train --data "$data" --loaders 1 --epochs 1 --arch swin_test --patch_size 4 --depth 0 --num_heads 0 \
    --stop_at_step 1 -o "$work/swin" >"$work/swin.log" 2>&1 || fail "training a Swin"

# width HEIGHT of a PNG, from its header
size_of() { od -An -tu1 -j16 -N8 "$1" | awk '{print $3 * 256 + $4, $7 * 256 + $8}'; }
all_png() {
    for file in "$@"; do
        [ "$(head -c 4 "$file" | od -An -c | tr -d ' ')" = '211PNG' ] || fail "$file is no PNG"
    done
}

# ------------------------------------------------------------------------------------ attention
attention=("${analyze[@]}" attention --checkpoint "$work/run")
one=$(ls "$data"/cat/*.jpg | head -n 1)

# files, a folder, a data set: so many pictures, of the same layout
"${attention[@]}" "$one" "$data/dog" --image_size 64 --show_pics 3 -o "$work/maps/deep" \
    >"$work/attention.log" 2>&1 || fail "attention"
[ "$(ls "$work/maps/deep")" = "$(printf 'idx%s_attn.png\n' 0 14 7)" ] || fail "other files: $(ls "$work/maps/deep")"
grep -q "idx0_attn.png  $one" "$work/attention.log" || fail "the image is not named"
all_png "$work"/maps/deep/*.png

# single maps, at their size; positions that are interpolated, or are not
"${attention[@]}" "$one" --image_size 32 --maps --heads 1 -o "$work/single" >"$work/single.log" 2>&1 || fail "--maps"
for name in image color mean head0 head1 mask0 mask1; do
    [ "$(size_of "$work/single/idx0_$name.png")" = '32 32' ] || fail "$name has another size"
done

# rows of the attention: each head's and its [CLS] part are 1 in all, its mask holds the share
"${attention[@]}" "$data" --image_size 40 --fit crop --show_pics 5 --threshold 0.5 --json -o "$work/json" \
    >"$work/json.out" 2>"$work/json.log" || fail "--json"
python3 - "$work/json.out" <<'END' || fail "numbers"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert [line["index"] for line in lines] == [0, 40, 80, 120, 160]
for line in lines:
    assert line["grid"] == 5 and len(line["heads"]) == 2 and line["path"].endswith(".jpg")
    for head in line["heads"]:
        a, keep = head["attention"], head["mask"]
        assert len(a) == len(keep) == 25
        assert abs(sum(a) + head["cls"] - 1) < 1e-5
        kept = sum(x for x, k in zip(a, keep) if k)
        assert kept >= 0.5 * sum(a) - 1e-6
        assert kept - min(x for x, k in zip(a, keep) if k) <= 0.5 * sum(a) + 1e-6
END
# the student is another network; its pictures too
"${attention[@]}" "$one" --image_size 40 --checkpoint_key student --json -o "$work/json" >"$work/student.out" 2>&1 || fail "student"
"${attention[@]}" "$one" --image_size 40 --json -o "$work/json" >"$work/teacher.out" 2>"$work/json.log" || fail "teacher"
cmp -s "$work/student.out" "$work/teacher.out" && fail "student and teacher look alike"

# frames of a video: all of them, in order, however many at a time
mkdir "$work/frames"
i=0
for file in "$data"/ship/*.jpg; do
    cp "$file" "$work/frames/$(printf '%05d' "$i").jpg"
    i=$((i + 1))
done
"${attention[@]}" "$work/frames" --frames --image_size 64 --show_pics 2 --batch_size 7 -o "$work/video" \
    >"$work/video.log" 2>&1 || fail "--frames"
for part in frames/frame attention/attn color/color; do
    [ "$(ls "$work/video/$part"-*.png | wc -l)" = 20 ] || fail "not all frames in $part"
    [ "$(size_of "$work/video/$part-0019.png")" = '64 64' ] || fail "a frame of another size"
done
"${attention[@]}" "$work/frames/00013.jpg" --frames --image_size 64 -o "$work/again" >"$work/video.log" 2>&1 || fail "one frame"
cmp "$work/video/attention/attn-0013.png" "$work/again/attention/attn-0000.png" || fail "a frame depends on its batch"

expect_error 2 'give --checkpoint' "${analyze[@]}" attention "$one"
expect_error 2 'PATH' "${analyze[@]}" attention --checkpoint "$work/run"
expect_error 2 'multiple of 8 px' "${attention[@]}" "$one" --image_size 36 -o "$work/no"
expect_error 2 'wanted whole numbers from 0 to 1' "${attention[@]}" "$one" --image_size 32 --heads 2 -o "$work/no"
expect_error 1 'no \[CLS\] token' "${analyze[@]}" attention --checkpoint "$work/swin" --image_size 64 "$one" -o "$work/no"
mkdir "$work/empty"
expect_error 2 'has no images' "${attention[@]}" "$work/empty" -o "$work/no"
expect_error 1 'nowhere.jpg' "${attention[@]}" "$work/nowhere.jpg" -o "$work/no"
expect_error 1 'nowhere' "${attention[@]}" "$work/nowhere" -o "$work/no"
echo 'not an image' >"$work/broken.jpg"
expect_error 1 'broken.jpg' "${attention[@]}" "$one" "$work/broken.jpg" --image_size 32 -o "$work/odd"
: >"$work/file"
expect_error 1 "folder '$work/file" "${attention[@]}" "$one" --image_size 32 -o "$work/file/out"
expect_error 2 'give one of the two' "${attention[@]}" "$one" --frames --maps -o "$work/no"
[ ! -e "$work/no" ] || fail "a folder was made before the error"

# ------------------------------------------------------------------------------------ correspondence
pairs=("${analyze[@]}" correspondence --checkpoint "$work/run")
"${pairs[@]}" "$data/cat" "$data/dog" --image_size 64 --show_nums 2 --topk 5 --json -o "$work/pairs" \
    >"$work/pairs.out" 2>"$work/pairs.log" || fail "correspondence"
[ "$(ls "$work/pairs")" = "$(printf 'instance_corresp%s.png\n' 0 1)" ] || fail "other files: $(ls "$work/pairs")"
all_png "$work"/pairs/*.png
python3 - "$work/pairs.out" <<'END' || fail "numbers"
import json, sys
*pairs, whole = [json.loads(line) for line in open(sys.argv[1])]
assert len(pairs) == 40 and whole["pairs"] == 40 and whole["radius"] == 0
assert whole["overlapping"] == sum(p["overlapping"] for p in pairs) > 500
assert whole["correct"] == sum(p["correct"] for p in pairs)
assert abs(whole["accuracy"] - 100 * whole["correct"] / whole["overlapping"]) < 1e-6
assert sum("file" in p for p in pairs) == 2
for p in pairs:
    assert p["paths"][0] == p["paths"][1] and p["grid"] == 8 and len(p["matches"]) <= 5
    assert all(0 <= m["from"] < 64 and 0 <= m["to"] < 64 for m in p["matches"])
    assert p["correct"] <= p["overlapping"] <= 64
END
# the same views again, others by another seed; all is right within the whole picture
"${pairs[@]}" "$data/cat" "$data/dog" --image_size 64 --show_nums 2 --topk 5 --json -o "$work/pairs" \
    2>"$work/pairs.log" | cmp - "$work/pairs.out" || fail "other views of the same seed"
"${pairs[@]}" "$data/cat" --image_size 64 --show_nums 0 --seed 1 -o "$work/pairs" >"$work/seed1" 2>"$work/pairs.log" || fail "seed 1"
"${pairs[@]}" "$data/cat" --image_size 64 --show_nums 0 -o "$work/pairs" >"$work/seed0" 2>"$work/pairs.log" || fail "seed 0"
cmp -s "$work/seed0" "$work/seed1" && fail "the seed has no effect"
"${pairs[@]}" "$data/cat" --image_size 64 --show_nums 0 --eval_radius 7 -o "$work/pairs" >"$work/wide" 2>"$work/pairs.log" || fail "a radius"
grep -q '^matching accuracy: 100.00 % of ' "$work/wide" || fail "not all is right: $(cat "$work/wide")"

# classes: pairs within each; files: the given ones; a Swin, with the attention of a ViT of other patches
"${pairs[@]}" "$data" --sample_type class --image_size 32 --show_nums 1 --json -o "$work/class" \
    >"$work/class.out" 2>"$work/class.log" || fail "classes"
python3 - "$work/class.out" <<'END' || fail "pairs of classes"
import json, os, sys
pairs = [json.loads(line) for line in open(sys.argv[1])]
assert len(pairs) == 100
for p in pairs:
    a, b = p["paths"]
    assert a != b and os.path.dirname(a) == os.path.dirname(b)
    assert len(p["matches"]) == 12 and "correct" not in p["matches"][0]
END
"${analyze[@]}" correspondence --checkpoint "$work/swin" --attention_checkpoint "$work/run" --sample_type class \
    --image_size 64 "$one" "$data/dog/$(ls "$data/dog" | head -n 1)" -o "$work/swin_pair" >"$work/pairs.log" 2>&1 || fail "a Swin"
all_png "$work/swin_pair/class_corresp0.png"
expect_error 1 'give --attention_checkpoint' "${analyze[@]}" correspondence --checkpoint "$work/swin" --image_size 64 "$one" -o "$work/no"
expect_error 2 'no class has two images' "${pairs[@]}" --sample_type class --image_size 32 "$one" -o "$work/no"
expect_error 2 'multiple of 8 px' "${pairs[@]}" --image_size 30 "$one" -o "$work/no"
expect_error 2 'has no images' "${pairs[@]}" "$work/empty" -o "$work/no"
expect_error 2 'give --checkpoint' "${analyze[@]}" correspondence "$one"
[ ! -e "$work/no" ] || fail "a folder was made before the error"

# ------------------------------------------------------------------------------------ patterns
patterns=("${analyze[@]}" patterns --checkpoint "$work/run")
"${patterns[@]}" "$data" --image_size 32 --show_pics 3 --topk 9 --patch_window 3 --json -o "$work/patterns" \
    --memory "$work/memory.safetensors" >"$work/patterns.out" 2>"$work/patterns.log" || fail "patterns"
grep -q '3200 tokens of 200 images in [0-9]* of 64 clusters' "$work/patterns.log" || fail "other counts"
python3 - "$work/patterns.out" "$work/patterns" "$work/memory.safetensors" <<'END' || fail "numbers"
import json, os, struct, sys
clusters = [json.loads(line) for line in open(sys.argv[1])]
assert [c["rank"] for c in clusters] == list(range(len(clusters))) and 1 <= len(clusters) <= 3
assert sorted(os.listdir(sys.argv[2])) == sorted(os.path.basename(c["file"]) for c in clusters if "file" in c)
raw = open(sys.argv[3], "rb").read()
n, = struct.unpack("<Q", raw[:8])
header = json.loads(raw[8:8 + n])
def read(name, letter):
    a, b = header[name]["data_offsets"]
    return struct.unpack(f"<{(b - a) // 4}{letter}", raw[8 + n + a:8 + n + b])
index, value, sizes = read("memory_bank.index", "i"), read("memory_bank.value", "f"), read("num_per_cluster", "i")
assert header["memory_bank.index"]["shape"] == [200, 16] and len(sizes) == 64
assert sum(sizes) == 3200 and all(sizes[k] == index.count(k) for k in range(64))
assert [c["tokens"] for c in clusters] == sorted(sizes, reverse=True)[:len(clusters)]
for c in clusters:
    shown, last = c["shown"], 2
    assert sizes[c["cluster"]] == c["tokens"] and len(shown) <= 9
    assert len({t["index"] for t in shown}) == len(shown)
    for t in shown:
        at = t["index"] * 16 + t["row"] * 4 + t["column"]
        assert index[at] == c["cluster"] and abs(value[at] - t["value"]) < 1e-6 and t["value"] <= last
        last = t["value"]
        mine = [value[i] for i in range(t["index"] * 16, t["index"] * 16 + 16) if index[i] == c["cluster"]]
        assert value[at] == max(mine)
END
all_png "$work"/patterns/*.png
# whatever the batch; [CLS] tokens; a head that was kept with its backbone; a Swin
"${patterns[@]}" "$data" --image_size 32 --show_pics 3 --topk 9 --patch_window 3 --json -o "$work/patterns" --batch_size 7 \
    2>"$work/patterns.log" | python3 -c '
import json, sys
a, b = ([json.loads(line) for line in file] for file in (open(sys.argv[1]), sys.stdin))
assert [c["cluster"] for c in a] == [c["cluster"] for c in b]' "$work/patterns.out" || fail "the batch counts"
"$IBOT_BIN/ibot-convert" "$work/run" "$work/head.pth" --with_head 2>"$work/convert.log" || fail "--with_head"
for weights in "$work/run" "$work/head.pth"; do
    "${analyze[@]}" patterns --checkpoint "$weights" --num_heads 2 --type cls "$data" --image_size 32 --show_pics 2 --topk 4 \
        -o "$work/cls" >"$work/cls.$(basename "$weights")" 2>"$work/patterns.log" || fail "patterns of $weights"
done
cmp "$work/cls.run" "$work/cls.head.pth" || fail "another head"
grep -q 'ccls_crank0_cid[0-9]*_top4.png' "$work/cls.run" || fail "no picture of [CLS] tokens"
"${analyze[@]}" patterns --checkpoint "$work/swin" "$data/cat" --image_size 32 --show_pics 1 -o "$work/swin_patterns" \
    >"$work/patterns.log" 2>&1 || fail "patterns of a Swin"

# heads of other kinds
for kind in 'ln --act_in_head relu' 'ln --shared_head off --shared_head_teacher off'; do
    read -ra words <<<"$kind"
    rm -rf "$work/other"
    train --data "$data" --loaders 1 --norm_in_head "${words[@]}" --stop_at_step 1 -o "$work/other" \
        >"$work/other.log" 2>&1 || fail "training with --norm_in_head $kind"
    "${analyze[@]}" patterns --checkpoint "$work/other" --image_size 32 --show_pics 1 --topk 4 "$data/cat" \
        -o "$work/other/pictures" >"$work/patterns.log" 2>&1 || fail "patterns of a head with $kind"
done

"$IBOT_BIN/ibot-convert" "$work/run" "$work/backbone.pth" 2>"$work/convert.log" || fail "a backbone"
expect_error 1 'no projection head' "${analyze[@]}" patterns --checkpoint "$work/backbone.pth" --num_heads 2 --image_size 32 "$data" -o "$work/no"
train --data "$data" --loaders 1 --norm_in_head bn --shared_head off --shared_head_teacher off --stop_at_step 1 \
    -o "$work/bn" >"$work/bn.log" 2>&1 || fail "training with batch norm"
"${analyze[@]}" patterns --checkpoint "$work/bn" --image_size 32 --show_pics 1 "$data/cat" -o "$work/bn_patterns" \
    >"$work/patterns.log" 2>&1 || fail "patterns of a head with batch norm"
expect_error 2 'an odd number' "${patterns[@]}" --patch_window 4 "$data" -o "$work/no"
expect_error 2 'multiple of 8 px' "${patterns[@]}" --image_size 30 "$data" -o "$work/no"
expect_error 2 'smaller than the crop' "${patterns[@]}" --image_size 32 --resize_size 31 "$data" -o "$work/no"
expect_error 2 'has no images' "${patterns[@]}" "$work/empty" -o "$work/no"
expect_error 1 'broken.jpg' "${patterns[@]}" "$one" "$work/broken.jpg" --image_size 32 -o "$work/odd"
[ ! -e "$work/no" ] || fail "a folder was made before the error"

rm "$work/error.log" # what is expected is no news
echo "pictures, numbers and errors of every analysis are right"
