#!/usr/bin/env bash
# The loaders' arithmetic on 64-bit ARM, on a machine that is none: builds with a cross compiler and runs
# the tests in QEMU. Every byte must be that of other machines. Not a part of test.sh: it wants a network
# (for Debian's arm64 libraries, which are unpacked and not installed) and takes about ten minutes.
#
#   scripts/setup.sh arm; scripts/check_arm.sh [FOLDER]
#
#   FOLDER   where it builds, 0.5 GB; default: build-arm64
set -euo pipefail

case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
-*)
    echo "check_arm: unknown option '$1'; wanted a folder to build in, or nothing" >&2
    exit 2
    ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$root/build-arm64}")
libraries=(libc6-dev libjpeg62-turbo-dev libxxhash-dev libzmq3-dev libprotobuf-c-dev libjansson-dev
    libyaml-dev libmicrohttpd-dev libzip-dev zlib1g-dev libcmocka-dev)
tests='^(loader\.(archive|golden_image_ops|index|order|pixel_kernels|pool|turns|view)|proto\.(cpus|hash|memory|queue|rng|status|tfrecord)$|proto\.wire\.(data_spec|key|message|recording))'

for program in aarch64-linux-gnu-gcc qemu-aarch64 apt-get dpkg-deb cmake ninja; do
    command -v $program > /dev/null || {
        echo "check_arm: '$program' is missing; run scripts/setup.sh arm" >&2
        exit 1
    }
done

# A list of packages of its own, so that this machine's stays as it is.
unpack_libraries() {
    local apt="$folder/apt"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$folder/sysroot"
    : > "$apt/status"
    local options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists="$apt/lists"
        -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o Debug::NoLocking=1)
    apt-get "${options[@]}" update -qq
    apt-get "${options[@]}" install --download-only -y -qq --no-install-recommends "${libraries[@]}" > /dev/null
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$folder/sysroot"
    done
    touch "$folder/sysroot/complete"
}
[ -e "$folder/sysroot/complete" ] || unpack_libraries

cat > "$folder/toolchain.cmake" << EOF
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L "$folder/sysroot")
set(CMAKE_FIND_ROOT_PATH "$folder/sysroot" /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
EOF
cmake -S "$root" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_TOOLCHAIN_FILE="$folder/toolchain.cmake" -DIBOT_SYSROOT="$folder/sysroot" \
    -DIBOT_PARTIAL=ON -DIBOT_MPI=OFF -DIBOT_CUDA=OFF
targets=()
for name in $(ctest --test-dir "$folder/build" -N -R "$tests" | sed -n 's/^ *Test *#[0-9]*: //p'); do
    case $name in
    loader.golden_image_ops) targets+=(golden_image_ops) ;;
    *) targets+=("test_${name//./_}") ;;
    esac
done
cmake --build "$folder/build" --target ibot-loader "${targets[@]}"
ctest --test-dir "$folder/build" -R "$tests" --output-on-failure
