#!/usr/bin/env bash
# Configurations without libraries: an error that names them all, and with IBOT_PARTIAL the targets that
# do without. What is installed here is hidden from CMake.
source "$(dirname "$0")/processes.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)
no_pkg_config=(-DCMAKE_DISABLE_FIND_PACKAGE_PkgConfig=ON -DIBOT_CUDA=OFF -DIBOT_MPI=OFF)
no_headers=("-DCMAKE_IGNORE_PATH=/usr/include;/usr/include/$(uname -m)-linux-gnu;/usr/local/include")

configure() { cmake -S "$root" -B "$work/$1" "${@:2}" "${no_pkg_config[@]}" >"$work/$1.log" 2>&1; }
targets() { cmake --build "$work/$1" --target help >"$work/$1.targets" 2>&1; }
has() { grep -qE "(^|[ /])$2(:|$)" "$work/$1.targets"; }

configure refused "${no_headers[@]}" && fail "a build without libraries was configured"
for library in libzmq libprotobuf-c libxxhash jansson libmicrohttpd yaml-0.1 vips libzip zlib libjpeg cmocka; do
    grep -q "$library" "$work/refused.log" || fail "the error does not name $library"
done
grep -q 'IBOT_PARTIAL=ON' "$work/refused.log" || fail "the error does not say how to go on"

configure nothing -DIBOT_PARTIAL=ON "${no_headers[@]}" || fail "nothing but a compiler"
grep -q 'left out: all programs' "$work/nothing.log" || fail "what is left out is not said"
targets nothing
for target in ibot_gpu_check step_bench ops_bench test_ops_linear test_trainer_vit stand_in_cmocka; do
    has nothing $target || fail "nothing but a compiler: no $target"
done
has nothing ibot-train && fail "nothing but a compiler: ibot-train"

# libvips is found by pkg-config alone
configure no_vips -DIBOT_PARTIAL=ON || fail "all but libvips"
grep -q 'missing vips$' "$work/no_vips.log" || fail "more than libvips is missing"
targets no_vips
for target in ibot-train ibot-loader ibot-stream golden_training; do
    has no_vips $target || fail "all but libvips: no $target"
done

# what takes libraries' places compiles
cmake --build "$work/nothing" --target stand_in_cmocka >"$work/compile.log" 2>&1 || fail "cmocka's stand-in"
cmake --build "$work/no_vips" --target ibot_canvas_png >"$work/compile.log" 2>&1 || fail "no pictures"
