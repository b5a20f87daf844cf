#!/bin/bash
# column_test.sh BUILD_FOLDER [STUB_FOLDER CUDA_FOLDER]: programs start without the CUDA libraries, and
# load the CUDA kernels when they are asked for, from the build and from an installation. With a stub
# of NVIDIA's driver and the folder of the CUDA libraries, of a build that has the kernels.
set -euo pipefail

build=$1
stub=${2:-}
cuda=${3:-}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "column_test: $*" >&2
    exit 1
}

# expect_error TEXT command…: exit status 1, and TEXT in what it says
expect_error() {
    local text=$1 status=0
    shift
    "$@" > "$folder/said" 2>&1 || status=$?
    [ "$status" = 1 ] || fail "exit status $status, wanted 1: $* ($(cat "$folder/said"))"
    grep -qF -- "$text" "$folder/said" || fail "'$text' is not in: $(cat "$folder/said")"
}

mkdir "$folder/images"
cp "${IBOT_TEST_DATA}"/images/*.png "$folder/images/" 2> /dev/null || true
cmake --install "$build" --prefix "$folder/installed" > /dev/null

for programs in "$build/bin" "$folder/installed/bin"; do
    for program in ibot-train ibot-eval ibot-convert; do
        ! readelf -d "$programs/$program" | grep -E 'NEEDED.*lib(cu|nccl|nv)' ||
            fail "$programs/$program is linked with CUDA libraries"
    done
    train=("$programs/ibot-train" --recipe vit_small_16 --data "$folder/images" --output_dir
        "$folder/run" --backend cuda)
    if [ -z "$stub" ]; then
        expect_error "the CUDA kernels are not here" "${train[@]}"
        continue
    fi
    [ -e /dev/nvidiactl ] ||
        expect_error "driver" "${train[@]}"
    # the stub counts no device: what says so is the CUDA runtime, which is in the kernels' file
    expect_error "is the driver loaded" env LD_LIBRARY_PATH="$stub" "${train[@]}"
    mkdir -p "$folder/empty"
    if unshare --mount true 2> /dev/null; then # a machine without the toolkit
        # shellcheck disable=SC2016 # the inner shell expands
        hidden=(unshare --mount bash -c 'mount --bind "$1" "$2" && shift 2 && "$@"' bash
            "$folder/empty" "$cuda")
        expect_error "It belongs to " "${hidden[@]}" env LD_LIBRARY_PATH="$stub" "${train[@]}"
        expect_error "LD_LIBRARY_PATH" "${hidden[@]}" env LD_LIBRARY_PATH="$stub" "${train[@]}"
        "${hidden[@]}" "$programs/ibot-train" --help > /dev/null ||
            fail "ibot-train does not start without the CUDA libraries"
        "${hidden[@]}" "$programs/ibot-train" --recipe vit_small_16 --data "$folder/images" \
            --output_dir "$folder/run" --check > /dev/null ||
            fail "ibot-train does not check a run without the CUDA libraries"
    else
        echo "column_test: no mount namespace to be had: nothing said about a machine without CUDA"
    fi
done
