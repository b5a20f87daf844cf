#!/usr/bin/env bash
# The stream is the same, byte for byte, from 1, 2 and 5 loaders, and when loaders are killed.
source "$(dirname "$0")/processes.sh"

for n in 1 2 5; do
    train --data "$data" --loaders "$n" -o "$work/run$n" --log_digests "$work/digests$n" \
        >"$work/train$n.log" 2>&1 || fail "training with $n loaders"
done
[ "$(wc -l <"$work/digests1")" -eq 36 ] || fail "not 36 batches"
cmp "$work/digests1" "$work/digests2" || fail "1 and 2 loaders differ"
cmp "$work/digests1" "$work/digests5" || fail "1 and 5 loaders differ"

# Loaders of their own, killed and replaced while training goes on; one starts before the trainer.
port_log=$work/killed.log
train_exec --epochs 3 --listen tcp://127.0.0.1:0 -o "$work/killed" --log_digests "$work/digests_killed" \
    >"$port_log" 2>&1 &
trainer=$!
children+=("$trainer")
wait_for "$port_log" 'listening on tcp'
endpoint=$(grep -o 'tcp://[0-9.:]*' "$port_log" | head -n 1)
for round in 1 2 3 4 5 6; do
    "$IBOT_BIN/ibot-loader" --data "$data" --connect "$endpoint" --threads 1 \
        >"$work/loader$round.log" 2>&1 &
    loader=$!
    children+=("$loader")
    # let it make some batches, then kill it in the middle of its work
    wait_for "$work/loader$round.log" 'images in'
    sleep "0.0$((round * 9 + 20))"
    if [ "$round" -lt 6 ]; then
        kill -9 "$loader" 2>/dev/null || true
    fi
done
wait "$trainer" || fail "training with killed loaders"
cmp "$work/digests1" "$work/digests_killed" || fail "the stream of killed loaders differs"
[ "$(state_of "$work/run1")" = "$(state_of "$work/killed")" ] || fail "the weights differ"
echo "streams of 1, 2, 5 and killed loaders are equal"
