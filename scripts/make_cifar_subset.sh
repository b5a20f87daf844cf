#!/usr/bin/env bash
# Packs a small, balanced part of an image data set, the same bytes every time:
#
#   scripts/make_cifar_subset.sh SOURCE OUT.tar.zst [TRAIN_PER_CLASS [TEST_PER_CLASS]]
#
# SOURCE is a folder, or a .tar.zst of one, laid out train/CLASS/*.jpg and test/CLASS/*.jpg. Files are
# taken evenly spaced in byte order of their names. tests/data/cifar10_subset.tar.zst was made from
# CIFAR-10 with the defaults (500 and 100 per class).
set -euo pipefail
export LC_ALL=C

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
fi
if [ $# -lt 2 ] || [ $# -gt 4 ]; then
    sed -n '2,4p' "$0" >&2
    exit 2
fi
source=$1 out=$2 n_train=${3:-500} n_test=${4:-100}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ -d "$source" ]; then
    root=$source
elif [ -f "$source" ]; then
    root=$scratch/source
    mkdir "$root"
    zstd -q -dc "$source" | tar -x -C "$root"
else
    echo "make_cifar_subset: '$source' is neither a folder nor an archive" >&2
    exit 1
fi

# pick SPLIT COUNT: one path per line
pick() {
    local class files
    for class in "$root/$1"/*/; do
        class=$(basename "$class")
        files=$(cd "$root" && find "$1/$class" -type f -name '*.jpg' | sort)
        echo "$files" | awk -v wanted="$2" -v name="$1/$class" '
            { line[NR - 1] = $0 }
            END {
                if (NR < wanted) {
                    print "make_cifar_subset: " name " has " NR " files, wanted " wanted > "/dev/stderr"
                    exit 1
                }
                for (i = 0; i < wanted; i++)
                    print line[int(i * NR / wanted)]
            }'
    done
}
pick train "$n_train" > "$scratch/list"
pick test "$n_test" >> "$scratch/list"

tar -c -C "$root" --format=ustar --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=a=r,u+w \
    --no-recursion --files-from="$scratch/list" | zstd -q --ultra -22 --long=27 -f -o "$out"
echo "$(wc -l < "$scratch/list") files, $(stat -c %s "$out") bytes: $out"
