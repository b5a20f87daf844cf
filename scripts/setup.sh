#!/usr/bin/env bash
# Installs what building, running and testing needs and this machine lacks (Debian 12 or newer,
# Ubuntu 22.04 or newer). Does nothing, and needs no rights, when all is there.
#
#   scripts/setup.sh           everything, for scripts/test.sh
#   scripts/setup.sh build     only what building and running needs, for scripts/run.sh
#   scripts/setup.sh launchers everything, and what the tests of the launchers need: Slurm, systemd
#   scripts/setup.sh arm       everything, and what scripts/check_arm.sh needs: a cross compiler, QEMU
set -euo pipefail

case ${1:-all} in
build | all | launchers | arm) ;;
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    sed -n '5,8p' "$0" >&2
    exit 2
    ;;
esac

if [ "$(. /etc/os-release 2> /dev/null && echo "${ID:-} ${ID_LIKE:-}" | grep -c ubuntu)" != 0 ]; then
    jpeg=libjpeg-turbo8-dev
else
    jpeg=libjpeg62-turbo-dev
fi

packages=(build-essential cmake ninja-build pkg-config ccache zstd
    libzmq3-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler "$jpeg" libvips-dev libpng-dev
    libopenblas-openmp-dev libopenmpi-dev openmpi-bin libjansson-dev libyaml-dev libxxhash-dev
    libzip-dev zlib1g-dev libmicrohttpd-dev libcmocka-dev)
if [ "${1:-all}" != build ]; then
    packages+=(clang llvm clang-format python3-minimal python3-venv iproute2 procps)
fi
if [ "${1:-all}" = launchers ]; then
    packages+=(slurmctld slurmd slurm-client munge systemd)
fi
if [ "${1:-all}" = arm ]; then
    packages+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
fi

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
    echo "setup: this is not Debian or Ubuntu; if the build misses something, install what these" \
        "packages are called here: ${packages[*]}" >&2
    exit 0
fi

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null || true)" = installed ]
}

as_root=()
updated=no
install_packages() {
    echo "setup: installing $*" >&2
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo > /dev/null; then
            echo "setup: run this as root: apt-get install $*" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    local options=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    if [ $updated = no ]; then
        "${as_root[@]}" apt-get "${options[@]}" update -qq || {
            echo "setup: 'apt-get update' failed: is the network there, are the sources right?" >&2
            exit 1
        }
        updated=yes
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get "${options[@]}" install -y -qq --no-install-recommends "$@" > /dev/null || {
        echo "setup: apt-get could not install all of: $*" >&2
        exit 1
    }
}

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    install_packages "${missing[@]}"
fi

# The fuzzing run-time comes with clang on some releases and apart on others.
if [ "${1:-all}" != build ]; then
    probe=$(mktemp -d)
    trap 'rm -rf "$probe"' EXIT
    echo 'int LLVMFuzzerTestOneInput(const char *b, unsigned long n) { return b && !n; }' > "$probe/a.c"
    if ! clang -fsanitize=fuzzer,address "$probe/a.c" -o "$probe/a" 2> /dev/null; then
        install_packages "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
    fi
fi

# Foreign readers of recordings and the schemas of Kubernetes, for one test each, in a folder of their
# own. Without PyPI those tests are skipped; nothing else needs them.
install_python() {
    local venv protobuf
    venv=$(cd "$(dirname "$0")/.." && pwd)/build/python
    if "$venv/bin/python" -c 'import crc32c, google.protobuf, kubernetes_validate, tfrecord, xxhash' 2> /dev/null; then
        return
    fi
    # The release that runs what this machine's protoc makes.
    case $(protoc --version | grep -o '[0-9.]*$') in
    3.[0-9].* | 3.1[0-9].*) protobuf='protobuf==3.20.3' ;;
    3.* | 2[0-5].*) protobuf='protobuf>=4.21,<5' ;;
    2[6-9].*) protobuf='protobuf>=5.26,<6' ;;
    *) protobuf='protobuf>=6' ;;
    esac
    echo "setup: installing Python packages tfrecord, protobuf, xxhash, kubernetes-validate into '$venv'" >&2
    { python3 -m venv --clear "$venv" &&
        "$venv/bin/pip" install -q --disable-pip-version-check --retries 1 --timeout 20 \
            'tfrecord==1.14.6' "$protobuf" xxhash 'kubernetes-validate==1.37.0'; } > /dev/null 2>&1 ||
        echo "setup: they could not be installed; the tests that need them are skipped" >&2
}
if [ "${1:-all}" != build ]; then
    install_python
fi
