#!/usr/bin/env bash
# A trainer that is killed at any moment and started again ends with the same bits.
source "$(dirname "$0")/processes.sh"

train --data "$data" --loaders 2 -o "$work/whole" >"$work/whole.log" 2>&1 || fail "whole run"
wanted=$(state_of "$work/whole")

# kill -9 at moments that differ from round to round, saves included
for round in $(seq 40); do
    train_exec --data "$data" --loaders 2 -o "$work/killed" --checkpoint_every_steps 2 \
        >"$work/killed.log" 2>&1 &
    trainer=$!
    children+=("$trainer")
    sleep "0.$((RANDOM % 60 + 20))"
    if [ "$round" -lt 40 ] && kill -9 "$trainer" 2>/dev/null; then
        wait "$trainer" 2>/dev/null || true
        [ -f "$work/killed/log.txt" ] && [ "$(wc -l <"$work/killed/log.txt")" -ge 3 ] && break
        continue
    fi
    wait "$trainer" || fail "resumed run"
    break
done
train --data "$data" --loaders 2 -o "$work/killed" --checkpoint_every_steps 2 >"$work/killed.log" 2>&1 ||
    fail "last resumption"
[ "$(state_of "$work/killed")" = "$wanted" ] || fail "the state differs after kill -9"

# SIGTERM: checkpoint, exit status 75, and on
train_exec --data "$data" --loaders 1 -o "$work/stopped" >"$work/stopped.log" 2>&1 &
trainer=$!
children+=("$trainer")
wait_for "$work/stopped.log" 'steps in each'
kill -TERM "$trainer"
status=0
wait "$trainer" || status=$?
[ "$status" -eq 75 ] || [ "$status" -eq 0 ] || fail "exit status $status after SIGTERM"
train --data "$data" --loaders 1 -o "$work/stopped" >>"$work/stopped.log" 2>&1 || fail "after SIGTERM"
[ "$(state_of "$work/stopped")" = "$wanted" ] || fail "the state differs after SIGTERM"
cut -d, -f1-10 "$work/whole/log.txt" >"$work/log1"
cut -d, -f1-10 "$work/stopped/log.txt" >"$work/log2"
cmp "$work/log1" "$work/log2" || fail "the log lines differ after SIGTERM"

# a damaged newest checkpoint is passed over, and named
last=$(ls -d "$work"/killed/checkpoints/step_* | LC_ALL=C sort | tail -n 1)
printf 'x' | dd of="$last/model.safetensors" bs=1 seek=5000 conv=notrunc 2>/dev/null
train --data "$data" --loaders 1 -o "$work/killed" >"$work/damaged.log" 2>&1 || fail "damaged checkpoint"
grep -q 'passed over.*damaged' "$work/damaged.log" || fail "the damaged checkpoint is not named"
[ "$(state_of "$work/killed")" = "$wanted" ] || fail "the state differs after damage"
echo "killed, stopped and damaged runs end with the same bits"
