#!/usr/bin/env bash
# with_seeds.sh N PROGRAM [ARGUMENT…]: the program with the emulated kernels under N orders of threads,
# blocks and streams. The last seed is IBOT_EMULATOR_EXTRA_SEED's, which scripts/test.sh draws;
# IBOT_EMULATOR_SEED=S is that order alone, to see a failure again.
set -u
n=$1
shift
seeds=${IBOT_EMULATOR_SEED:-$(seq 1 $((n - 1))) ${IBOT_EMULATOR_EXTRA_SEED:-$n}}
for seed in $seeds; do
    echo "IBOT_EMULATOR_SEED=$seed"
    IBOT_EMULATOR_SEED=$seed "$@"
    status=$?
    if [ $status -ne 0 ]; then
        echo "with IBOT_EMULATOR_SEED=$seed: exit status $status" >&2
        exit $status
    fi
done
