#!/usr/bin/env bash
# Everything that is tested: set-up, layout and build, fuzz targets, sanitizers, then all tests. The
# summary of the tests closes the output; the exit status is 0 only when every stage passed.
#
#   scripts/test.sh
#
#   IBOT_FUZZ_SECONDS   per fuzz target; default 5, 0 leaves the stage out
#   IBOT_SANITIZERS     default "asan tsan"; "" leaves the stage out
#   IBOT_EMULATOR_EXTRA_SEED   a seed for the emulated kernels' tests; default: drawn, and printed
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
'') ;;
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    echo "test.sh: got '$1', wanted no arguments; --help tells of the variables" >&2
    exit 2
    ;;
esac

jobs=$(nproc)
fuzz_seconds=${IBOT_FUZZ_SECONDS:-5}
sanitizers=${IBOT_SANITIZERS-asan tsan}
failed=()
if command -v ccache > /dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
# Tests of the emulated kernels have one order of threads that is another one every time.
export IBOT_EMULATOR_EXTRA_SEED=${IBOT_EMULATOR_EXTRA_SEED:-$((5 + RANDOM))}
echo "IBOT_EMULATOR_EXTRA_SEED=$IBOT_EMULATOR_EXTRA_SEED (the same again: set it)"
# Address sanitizers of this age cannot place their shadow under some kernels' randomisation.
fixed_addresses=()
if setarch "$(uname -m)" -R true 2> /dev/null; then
    fixed_addresses=(setarch "$(uname -m)" -R)
fi

stage() {
    echo
    echo "== $1 ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
}

configure_preset() {
    mkdir -p "build-$1"
    cmake --preset "$1" > "build-$1/configure.log" 2>&1 || {
        cat "build-$1/configure.log" >&2
        return 1
    }
}

# build_targets NAME TARGET…
build_targets() {
    cmake --build "build-$1" --target "${@:2}" -- -j "$jobs"
}

# Of the tests that are fast, and of no more than what these need.
run_sanitizer() {
    # Threads: the parts with threads of their own. OpenMP loops are left out, its run-time is not
    # instrumented and would be reported for its own locks.
    local parts=(support cuda_emulator proto ops kernels trainer bench loader stream fuzz) selection=(-L fast)
    if [ "$1" = tsan ]; then
        parts=(proto loader stream)
        selection=(-L fast -R '^(proto|loader|stream)\.')
    fi
    configure_preset "$1" || return 1
    local targets=("${parts[@]/#/tests/}")
    build_targets "$1" "${targets[@]/%//all}" || return 1
    "${fixed_addresses[@]}" ctest --test-dir "build-$1" "${selection[@]}" -j "$jobs" \
        --no-tests=error --output-on-failure
}

# run_fuzzer NAME SECONDS [COMMAND …]: what it finds new stays in the build folder; COMMAND runs it.
run_fuzzer() {
    local name=$1 seconds=$2 found="build-fuzz/found/$1"
    mkdir -p "$found"
    echo "fuzz.$name: $seconds s"
    if ! "${@:3}" env ASAN_OPTIONS=allow_user_segv_handler=0 "build-fuzz/bin/fuzz_$name" \
        -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -verbosity=0 -artifact_prefix="$found-" \
        "$found" "tests/fuzz/corpus/$name" > "$found.log" 2>&1; then
        echo "fuzz.$name failed:"
        cat "$found.log"
        return 1
    fi
}

# Each target (there is one for every corpus) for a while, as many at once as there are cores.
run_fuzzers() {
    local names
    mapfile -t names < <(ls tests/fuzz/corpus)
    configure_preset fuzz || return 1
    build_targets fuzz "${names[@]/#/fuzz_}" || return 1
    export -f run_fuzzer
    xargs -P "$jobs" -I '{}' bash -c 'run_fuzzer "$@"' bash '{}' "$fuzz_seconds" \
        "${fixed_addresses[@]}" < <(printf '%s\n' "${names[@]}")
}

stage "set-up"
./scripts/setup.sh
mkdir -p build
./scripts/setup_torch.sh install > build/setup_torch.log 2>&1 & # beside what follows
torch=$!
stage "format, layout, build"
./scripts/check.sh --no-tests || failed+=(check)
if [ "$fuzz_seconds" != 0 ]; then
    stage "fuzz targets"
    run_fuzzers || failed+=(fuzz)
fi
for sanitizer in $sanitizers; do
    stage "tests under the $sanitizer sanitizer preset"
    run_sanitizer "$sanitizer" || failed+=("$sanitizer")
done
wait "$torch" || cat build/setup_torch.log >&2
stage "all tests"
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED before: ${failed[*]}"
fi
ctest --test-dir build -j "$jobs" --output-on-failure || failed+=(tests)
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}" >&2
    exit 1
fi
