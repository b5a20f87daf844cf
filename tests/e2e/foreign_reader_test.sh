#!/usr/bin/env bash
# A recording reads as TFRecord of protobuf messages with tools that know nothing of this project.
# scripts/setup.sh installs them into a folder of their own; without them the test is skipped.
python=${IBOT_PYTHON:-}
if ! "$python" -c 'import crc32c, google.protobuf, tfrecord, xxhash' 2>/dev/null; then
    echo "skipped: no Python with tfrecord, protobuf and xxhash at '$python'; scripts/setup.sh installs it"
    exit 77
fi
source "$(dirname "$0")/processes.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)

protoc --python_out="$work" -I "$root" "$root/proto/stream.proto"
for kind in full ids; do
    train --data "$data" --loaders 1 -o "$work/$kind" --record "$work/recording_$kind" \
        --record_kind "$kind" >"$work/$kind.log" 2>&1 || fail "training"
    "$IBOT_BIN/ibot-stream" inspect "$work/recording_$kind" --json --parameters \
        >"$work/$kind.jsonl" 2>"$work/inspect.log" || fail "inspecting"
    "$python" "$root/tests/e2e/foreign_reader.py" "$work" \
        "$work/recording_$kind/rank00000-step000000000000.tfrecord" "$work/$kind.jsonl" ||
        fail "reading a recording of kind $kind"
done
