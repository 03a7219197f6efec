#!/usr/bin/env bash
# fixtures.sh: small sparse disk images with known contents, for tests. Needs no root.
#
#   fixtures.sh ext4|xfs|xfs-v4|btrfs OUT MANIFEST   a file system alone
#   fixtures.sh gpt OUT MANIFEST                GPT: p1 ext4, p2 xfs
#   fixtures.sh mbr63 OUT MANIFEST              MBR: p1 ext4 that starts at sector 63, so at no multiple of 4 KiB
#   fixtures.sh logical OUT MANIFEST            MBR: p1 ext4, p5 xfs inside an extended partition
#   fixtures.sh kernel KIND OUT MANIFEST        files of every kind on a file system that the kernel wrote; needs root
#   fixtures.sh tree DIR [FILES [SEED]]         only the files (300, seed 1)
#   fixtures.sh manifest DIR                    the SHA-256 of all files below DIR, on stdout
#
# A manifest is what `sha256sum -c` reads. On a disk with partitions its paths begin with p1/, p2/ and so on.
# The same arguments give the same files.
#
# KIND is ext2, ext3, ext4, ext4-1k, ext4-clusters[-meta], xfs or xfs-large, and -full after it for directories with thousands of names, or -dirty
# for a copy that was taken while it was mounted and written to; ext4-data-dirty has contents in its journal as well.
# That manifest is the kernel's view of the image, with the journal replayed: `kernel_tree.py --help` tells its form.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(realpath "$0")")/lib.sh"

MIB=1048576

# Tools write to stdout what nobody asked for.
quiet() {
    local said
    said=$("$@" 2>&1) || die "$* failed: $said"
}

tree() {
    local dir=$1 files=${2:-300} seed=${3:-1}
    mkdir -p "$dir"
    # awk writes them all: a process or two per file would take most of the time.
    awk -v dir="$dir" -v files="$files" -v seed="$seed" 'BEGIN {
        srand(seed)
        for (i = 0; i < files; i++) {
            if (i % 50 == 0) {
                sub_dir = sprintf("%s/dir%03d", dir, i / 50)
                system("mkdir -p \"" sub_dir "\"")
            }
            file = sprintf("%s/file%05d", sub_dir, i)
            lines = int(rand() * rand() * 1000) + 1
            for (line = 0; line < lines; line++)
                print seed, i, line, rand() > file
            close(file)
        }
    }'
    mkdir -p "$dir/special/a/b/c/d/empty"
    : >"$dir/special/empty"
    printf x >"$dir/special/one-byte"
    printf 'umlauts in the name\n' >"$dir/special/grüße.txt"
    ln -s ../dir000/file00000 "$dir/special/link"
    ln -s /nowhere "$dir/special/dangling"
    head -c $((5 * MIB + 123)) < <(seq "${seed}00000000" "${seed}99999999") >"$dir/special/large"
    truncate -s $((4 * MIB)) "$dir/special/sparse"
    printf 'an island' | dd of="$dir/special/sparse" bs=1 seek=$((2 * MIB + 4096)) conv=notrunc status=none
    find "$dir" -exec touch -hd @1700000000 {} +
}

manifest() { (cd "$1" && find . -type f -printf '%P\0' | sort -z | xargs -0r sha256sum --); }

# What mkfs.xfs -p copies from. It has no word for holes: the sparse file becomes one of zeros.
protofile() {
    local dir=$1 at name mode
    for at in "$dir"/*; do
        # An empty directory leaves its pattern.
        [[ -e $at || -L $at ]] || continue
        name=${at##*/} mode=$(stat -c %03a "$at")
        if [[ -L $at ]]; then
            printf '%s l--777 0 0 %s\n' "$name" "$(readlink "$at")"
        elif [[ -d $at ]]; then
            printf '%s d--%s 0 0\n' "$name" "$mode"
            protofile "$at"
            printf '$\n'
        else
            printf '%s ---%s 0 0 %s\n' "$name" "$mode" "$at"
        fi
    done
}

# file_system KIND DIR OUT
file_system() {
    local kind=$1 dir=$2 out=$3
    rm -f "$out"
    case $kind in
    ext4)
        truncate -s 48M "$out"
        quiet mkfs.ext4 -q -L fixture -U 00000000-0000-4000-8000-000000000001 \
            -E hash_seed=00000000-0000-4000-8000-000000000002,root_owner=0:0 -d "$dir" "$out"
        ;;
    xfs | xfs-v4)
        local version=1
        [[ $kind != xfs-v4 ]] || version=0,finobt=0
        # mkfs.xfs makes nothing smaller.
        truncate -s 300M "$out"
        {
            printf '/\n0 0\nd--755 0 0\n'
            protofile "$dir"
            printf '$\n$\n'
        } >"$work/proto"
        quiet mkfs.xfs -q -L fixture -m "crc=$version,uuid=00000000-0000-4000-8000-000000000003" -p "$work/proto" "$out"
        ;;
    btrfs)
        truncate -s 128M "$out"
        quiet mkfs.btrfs -q -L fixture -U 00000000-0000-4000-8000-000000000004 --rootdir "$dir" "$out"
        ;;
    esac
}

# place PART SECTOR DISK leaves out zeros: mkfs.xfs allocates its whole log.
place() { dd if="$1" of="$3" bs=1M oflag=seek_bytes seek=$(($2 * 512)) conv=notrunc,sparse status=none; }

# disk OUT MANIFEST SIZE SCRIPT NUMBER:KIND:SECTOR... where SCRIPT is for sfdisk
disk() {
    local out=$1 manifest=$2 size=$3 script=$4 number kind sector
    shift 4
    rm -f "$out"
    truncate -s "$size" "$out"
    printf '%s\n' "$script" >"$work/table"
    quiet sfdisk -q --no-reread --no-tell-kernel "$out" <"$work/table"
    for part; do
        IFS=: read -r number kind sector <<<"$part"
        # Each partition has contents of its own.
        tree "$work/tree/p$number" 300 "$number"
        file_system "$kind" "$work/tree/p$number" "$work/part"
        place "$work/part" "$sector" "$out"
    done
    manifest "$work/tree" >"$manifest"
}

# make_kernel KIND IMAGE leaves an empty file system there.
make_kernel() {
    local kind=$1 image=$2
    case $kind in
    # Small blocks, for deep maps and indexes; the old size of inodes, which leaves no room in them.
    ext2) truncate -s 40M "$image" && quiet mkfs.ext2 -q -F -b 1024 -I 128 "$image" ;;
    ext3) truncate -s 40M "$image" && quiet mkfs.ext3 -q -F -b 1024 -J size=4 "$image" ;;
    # Without checksums of metadata, and with all that is new.
    # Which begin at block 0, where blocks of 1 KiB else begin at 1.
    ext4-clusters) truncate -s 128M "$image" && quiet mkfs.ext4 -q -F -b 1024 -C 16384 -O bigalloc "$image" ;;
    ext4-clusters-meta)
        truncate -s 128M "$image"
        quiet mkfs.ext4 -q -F -b 1024 -C 16384 -O bigalloc,meta_bg,^resize_inode "$image"
        ;;
    ext4-1k) truncate -s 40M "$image" && quiet mkfs.ext4 -q -F -b 1024 -J size=4 -O ^metadata_csum,^64bit "$image" ;;
    ext4 | ext4-data) truncate -s 96M "$image" && quiet mkfs.ext4 -q -F -O inline_data,ea_inode,metadata_csum,64bit "$image" ;;
    # Directories whose blocks take two of the file system's.
    xfs) truncate -s 300M "$image" && quiet mkfs.xfs -q -b size=1024 -n size=4096 "$image" ;;
    # Most of its inodes have numbers of more than 32 bits.
    xfs-large) truncate -s 8T "$image" && quiet mkfs.xfs -q -l size=64m "$image" ;;
    *) die "no such kind: '$kind'; see --help" ;;
    esac
}

kernel() {
    local kind=$1 out=$2 manifest=$3 files=small dirty='' options=loop top=$work/mnt image=$work/image
    local tree
    tree=$(dirname "$(realpath "$0")")/kernel_tree.py
    ((EUID == 0)) || die "only root can mount"
    case $kind in
    *-full) kind=${kind%-full} files='' ;;
    *-dirty) kind=${kind%-dirty} dirty=1 ;;
    esac
    [[ $kind != ext4-data ]] || options+=,data=journal
    make_kernel "$kind" "$image"
    mkdir "$top"
    trap 'release_loops "$work"; rm -rf "$work"' EXIT
    mount -o "$options" "$image" "$top"
    python3 "$tree" populate "$top" ${files:+"$files"}
    if [[ $dirty ]]; then
        umount "$top"
        mount -o "$options" "$image" "$top"
        python3 "$tree" disturb "$top"
        # What is mounted, as a snapshot of a disk in use has it.
        rm -f "$out"
        cp --sparse=always "$image" "$out"
        umount "$top"
        # The kernel replays a copy.
        cp --sparse=always "$out" "$image"
    else
        umount "$top"
        rm -f "$out"
        cp --sparse=always "$image" "$out"
    fi
    # Without a change of the times of access.
    mount -o loop,noatime "$image" "$top"
    python3 "$tree" manifest "$top" >"$manifest"
    umount "$top"
}

command=${1-}
case $command in
-h | --help) usage && exit ;;
tree)
    (($# >= 2 && $# <= 4)) || die "see --help"
    tree "${@:2}"
    exit
    ;;
manifest)
    (($# == 2)) || die "see --help"
    manifest "$2"
    exit
    ;;
kernel) (($# == 4)) || die "see --help" ;;
ext4 | xfs | xfs-v4 | btrfs | gpt | mbr63 | logical) (($# == 3)) || die "see --help" ;;
*) die "no such fixture: '$command'; see --help" ;;
esac

umask 022
out=$2 manifest=$3
work=$(scratch ebsfs-fixture)
trap 'rm -rf "$work"' EXIT
case $command in
kernel)
    kernel "$2" "$3" "$4"
    ;;
gpt)
    # 48 MiB of ext4 behind 1 MiB, 300 MiB of xfs behind those, and room for the second table.
    disk "$out" "$manifest" 350M 'label: gpt
label-id: 00000000-0000-4000-8000-000000000005
start=2048, size=98304, type=linux, uuid=00000000-0000-4000-8000-000000000006, name=first
start=100352, size=614400, type=linux, uuid=00000000-0000-4000-8000-000000000007, name=second' \
        1:ext4:2048 2:xfs:100352
    ;;
mbr63)
    disk "$out" "$manifest" 49M 'label: dos
label-id: 0x00000008
start=63, size=98304, type=83, bootable' 1:ext4:63
    ;;
logical)
    disk "$out" "$manifest" 352M 'label: dos
label-id: 0x00000009
1: start=2048, size=98304, type=83
2: start=100352, size=618496, type=5
5: start=102400, size=614400, type=83' 1:ext4:2048 5:xfs:102400
    ;;
*)
    tree "$work/tree"
    file_system "$command" "$work/tree" "$work/part"
    rm -f "$out"
    truncate -r "$work/part" "$out"
    place "$work/part" 0 "$out"
    manifest "$work/tree" >"$manifest"
    ;;
esac
