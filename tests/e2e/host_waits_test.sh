#!/usr/bin/env bash
# host_waits_test.sh IBOT_TRAIN: no step makes the accelerator stand still. Of two runs that differ by
# twenty steps within an epoch the longer one does not wait for all that it has queued twenty times
# oftener; each step waits for events of earlier ones, a few. Opening and closing a run may do so once
# more or less: a batch that came early is still on its way then, or not.
source "$(dirname "$0")/processes.sh"
program=$1

# waits_of STEPS OPTIONS…: "waits drains" of a run of so many steps
waits_of() {
    local steps=$1
    shift
    IBOT_QUEUED_REPORT=$work/report "$program" "${tiny[@]}" --data "$data" --loaders 1 --backend cuda \
        --batch_size_per_gpu 2 --freeze_last_layer 0 --stop_at_step "$steps" -o "$work/run_$steps" "$@" \
        >"$work/run.log" 2>&1 || fail "a run of $steps steps: $*"
    sed 's/ waits, \([0-9]*\) drains/ \1/' "$work/report"
    rm -rf "$work/run_$steps" "$work/report"
}

for options in "" "--cuda_graph off" "--accumulation_steps 2" "--photometric loader --recompute blocks"; do
    # shellcheck disable=SC2086 # words of their own
    read -r waits drains <<<"$(waits_of 20 $options)"
    # shellcheck disable=SC2086
    read -r more_waits more_drains <<<"$(waits_of 40 $options)"
    echo "20 steps more ($options): $((more_waits - waits)) waits for events, $((more_drains - drains)) for everything"
    [ $((more_drains - drains)) -lt 10 ] || fail "steps wait for all that is queued: $drains, then $more_drains"
    [ $((more_waits - waits)) -gt 0 ] && [ $((more_waits - waits)) -le 140 ] ||
        fail "20 steps more, $((more_waits - waits)) waits more"
done
