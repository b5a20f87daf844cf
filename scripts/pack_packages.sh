#!/usr/bin/env bash
# Packs the libraries that the build needs, headers and run-time, into one archive for a machine to
# which nothing can be installed: a borrowed GPU without a network. Needs apt-get and a network; root
# is not needed, and nothing is installed here.
#
#   scripts/pack_packages.sh FILE.tar.xz [--list]
#
#   FILE.tar.xz    for scripts/gpu_check.sh --packages FILE.tar.xz, or by hand:
#                  mkdir packages && tar -xJf FILE.tar.xz -C packages
#                  cmake … -DIBOT_PARTIAL=ON -DIBOT_SYSROOT=$PWD/packages
#   --list         what each package costs, and write nothing
#
# Not in it: libvips, which would bring 50 MiB (so no PNG, WebP, TIFF, contact sheets there); the C
# library, the compilers' run-time libraries and CUDA, which are the other machine's. Binaries need a
# C library that is as new as this machine's, or newer: pack on a release no newer than the machine
# that they are for (Debian 12's C library is older than Ubuntu 24.04's, and newer than 22.04's).
set -euo pipefail

out=
list=no
for word; do
    case $word in
    -h | --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --list) list=yes ;;
    -*)
        sed -n '6,12p' "$0" >&2
        exit 2
        ;;
    *) out=$word ;;
    esac
done
if [ $list = no ] && [[ $out != *.tar.xz ]]; then
    echo "pack_packages: got '$out', wanted the name of an archive, FILE.tar.xz" >&2
    exit 2
fi
for program in apt-get apt-cache dpkg-deb tar xz; do
    command -v $program > /dev/null || {
        echo "pack_packages: '$program' is missing; this runs on Debian or Ubuntu" >&2
        exit 1
    }
done

if [ "$(. /etc/os-release 2> /dev/null && echo "${ID:-} ${ID_LIKE:-}" | grep -c ubuntu)" != 0 ]; then
    jpeg=libjpeg-turbo8-dev
else
    jpeg=libjpeg62-turbo-dev
fi
wanted=(libzmq3-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler "$jpeg"
    libopenblas-openmp-dev libjansson-dev libyaml-dev libxxhash-dev libzip-dev zlib1g-dev
    libmicrohttpd-dev libcmocka-dev zstd)
# What any machine with a compiler has, and what only static linking would want.
left_out='^(libc6|libc6-dev|libc-dev|libc-bin|libc-dev-bin|linux-libc-dev|libcrypt1|libcrypt-dev|libgcc-s1'
left_out+='|gcc-[0-9]+-base|libstdc\+\+6|libgomp1|libnsl.*|libtirpc.*|rpcsvc-proto|dpkg|tar|perl.*|debconf.*'
left_out+='|libopenblas-dev|libgnutls28-dev|libgnutlsxx.*|libgnutls-.*|libp11-kit-dev|libtasn1-6-dev'
left_out+='|nettle-dev|libidn2-dev|libsodium-dev|libpgm-dev|libnorm-dev|libkrb5-dev|krb5-multidev'
left_out+='|libbsd-dev|libmd-dev|libgssrpc.*|libkadm.*|libkdb.*|comerr-dev|libunbound.*|libevent.*'
left_out+='|libgmp.*-dev|libgmpxx.*|libunistring-dev|libhogweed-dev|libssl-dev|libzstd-dev|liblzma-dev'
left_out+='|libbz2-dev|libprotobuf-dev|libprotobuf-lite.*|install-info|bzip2.*|zipcmp|zipmerge|ziptool)$'

# package, and then what it depends on, first alternatives only; one call for each level
closure() {
    local level=("$@") next package
    declare -A seen=()
    while [ ${#level[@]} -gt 0 ]; do
        next=()
        for package in "${level[@]}"; do
            seen[$package]=1
        done
        while read -r package; do
            if [ -z "${seen[$package]:-}" ] && ! [[ $package =~ $left_out ]]; then
                seen[$package]=1
                next+=("$package")
            fi
        done < <(apt-cache show --no-all-versions "${level[@]}" |
            sed -nE 's/^(Pre-)?Depends: //p' | tr ',' '\n' | sed -E 's/\|.*//; s/^ +//; s/[ (:].*//' |
            grep -v '^$' | sort -u)
        level=("${next[@]}")
    done
    # without names that are only provided by others
    apt-cache show --no-all-versions "${!seen[@]}" 2> /dev/null | sed -n 's/^Package: //p' | sort -u
}

mapfile -t packages < <(closure "${wanted[@]}")
for package in "${wanted[@]}"; do
    [[ " ${packages[*]} " == *" $package "* ]] || {
        echo "pack_packages: apt knows no package '$package'; apt-get update helps where its lists are empty" >&2
        exit 1
    }
done
if [ $list = yes ]; then
    apt-cache show --no-all-versions "${packages[@]}" |
        awk '/^Package: /{p=$2} /^Version: /{v=$2} /^Size: /{printf "%8.2f MiB  %s %s\n", $2/1048576, p, v; s+=$2}
            END {printf "%8.2f MiB  in all, before headers and libraries are picked out\n", s/1048576}' | sort -rn
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir "$work/debs" "$work/root"
echo "pack_packages: fetching ${#packages[@]} packages" >&2
(cd "$work/debs" && apt-get -o APT::Sandbox::User=root download -qq "${packages[@]}")
for file in "$work"/debs/*.deb; do
    before=$(du -sk "$work/root" | cut -f1)
    dpkg-deb -x "$file" "$work/root"
    after=$(du -sk "$work/root" | cut -f1)
    printf '%7d KiB packed %8d KiB unpacked  %s\n' $(($(stat -c %s "$file") / 1024)) \
        $((after - before)) "$(basename "$file")" >&2
done

# Headers, shared libraries, protoc and zstd (for the images of tests) alone.
cd "$work/root"
rm -rf usr/share etc var usr/lib/python* usr/lib/*/pkgconfig usr/lib/*/cmake
find . -name '*.a' -delete
find . -name '*.la' -delete
find usr/bin -mindepth 1 ! -name protoc ! -name protoc-c ! -name protoc-gen-c \
    ! -name zstd -delete 2> /dev/null || true
# Links that name a place on this machine, or nothing.
find . -type l | while read -r link; do
    target=$(readlink "$link")
    case $target in
    /etc/alternatives/*) rm "$link" ;;
    /*) ln -sfn "$(realpath -m --relative-to="$(dirname "$link")" ".$target")" "$link" ;;
    esac
done
find . -xtype l -delete
find . -type d -empty -delete
{
    echo "$(. /etc/os-release && echo "$PRETTY_NAME"), C library $(ldd --version | sed -n '1s/.* //p')"
    for file in "$work"/debs/*.deb; do
        dpkg-deb -W --showformat='${Package} ${Version}\n' "$file"
    done
} > packages.txt
cd - > /dev/null
tar --sort=name --owner=0 --group=0 --numeric-owner -cf - -C "$work/root" . | xz -6 -T 0 > "$out"
echo "pack_packages: '$out', $(($(stat -c %s "$out") / 1024)) KiB ($(du -sm "$work/root" | cut -f1) MiB unpacked)" >&2
