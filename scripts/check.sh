#!/usr/bin/env bash
# The habit before a commit, under a minute when little has changed: format, layout, every header
# alone, build, recipes, the fast tests that are not long.
#
#   scripts/check.sh               all of it
#   scripts/check.sh --no-tests    all but the tests
set -euo pipefail
cd "$(dirname "$0")/.."

run_tests=yes
case ${1:-} in
'') ;;
--no-tests) run_tests=no ;;
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    sed -n '5,6p' "$0" >&2
    exit 2
    ;;
esac

jobs=$(nproc)
if command -v ccache > /dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

failed=()

sources() {
    { git ls-files -co --exclude-standard -- "$@" 2> /dev/null ||
        find . -path './build*' -prune -o -path ./runs -prune -o -name '*.[ch]' -print; } |
        while read -r path; do [ ! -f "$path" ] || echo "$path"; done
}

# Releases of clang-format differ in details; the tree is formatted with 14, which Debian 12 has.
format_version=$(clang-format --version 2> /dev/null | grep -o '[0-9]*\.' | head -n 1 | tr -d . || true)
if [ "$format_version" = 14 ]; then
    if sources '*.c' '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -P "$jobs" -I SOURCE sh -c \
        'clang-format --dry-run -Werror SOURCE 2> /dev/null ||
            { echo "format: SOURCE is not in order; run: clang-format -i SOURCE" >&2; exit 1; }'; then
        echo "format: in order"
    else
        failed+=(format)
    fi
else
    echo "format: not checked (this is clang-format ${format_version:-none}, not 14)"
fi

python3 scripts/check_layout.py || failed+=(layout)

mkdir -p build
cmake --preset release -DIBOT_WERROR=ON > build/configure.log 2>&1 || {
    cat build/configure.log >&2
    exit 1
}
cmake --build build -- -j "$jobs"

# Each header parses alone; those that a .cu may include, as C++ too (the emulator's own, only so).
flags=(-D_GNU_SOURCE -I. -Ibuild -Wall -Wextra -Werror -fsyntax-only)
for package in vips jansson libzmq libprotobuf-c; do
    read -ra more <<< "$(pkg-config --cflags "$package" | sed 's/-I/-isystem /g')"
    flags+=("${more[@]}")
done
for folder in tests/cuda_emulator/include "${CUDA_PATH:-/usr/local/cuda}/include"; do
    [ ! -d "$folder" ] || flags+=(-isystem "$folder")
done
if sources '*.h' | grep -vE '^tests/(data/|cuda_emulator/[^/]*$)' |
    xargs -P "$jobs" -I HEADER cc -std=gnu11 "${flags[@]}" -x c HEADER &&
    sources 'ops/*.h' 'kernels/*.h' 'proto/base/*.h' 'tests/cuda_emulator/*.h' |
    xargs -P "$jobs" -I HEADER c++ -std=c++17 "${flags[@]}" -x c++ HEADER; then
    echo "headers: each parses alone"
else
    failed+=(headers)
fi

if [ -x build/bin/ibot-train ]; then
    for recipe in trainer/recipes/*.yaml; do
        build/bin/ibot-train --recipe "$(basename "$recipe" .yaml)" --data . --check > /dev/null ||
            failed+=("$recipe")
    done
    for recipe in trainer/recipes/finetune/*.yaml; do
        build/bin/ibot-eval finetune --recipe "$(basename "$recipe" .yaml)" --checkpoint . --train . --test . \
            --check > /dev/null || failed+=("$recipe")
    done
    for recipe in trainer/recipes/segment/*.yaml; do
        build/bin/ibot-eval segment --recipe "$(basename "$recipe" .yaml)" --checkpoint . --data_path . --check \
            > /dev/null || failed+=("$recipe")
    done
    echo "recipes: all tried"
fi

if [ $run_tests = yes ]; then
    ctest --test-dir build -L fast -LE long -j "$jobs" --output-on-failure || failed+=(tests)
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "check: failed: ${failed[*]}" >&2
    exit 1
fi
