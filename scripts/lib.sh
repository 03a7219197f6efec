# Sourced by the other scripts: messages, missing tools, root, time limits, and what to do about stuck mounts.
# shellcheck shell=bash

# Sorting and the clock must not depend on the user's language, and mkfs and its kin live in sbin.
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

# The comment at the head of the script that runs.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

# Prints a command as one would type it.
show() {
    local word
    printf '$'
    for word; do
        # %q alone would quote commas too.
        if [[ $word =~ ^[[:alnum:]_./:=,@%+-]+$ ]]; then printf ' %s' "$word"; else printf ' %q' "$word"; fi
    done
    printf '\n'
}

# sudo replaces PATH, and with it the commands that were found on ours.
as_root() {
    if ((EUID == 0)); then "$@"; else sudo env "PATH=$PATH" "$@"; fi
}

# need COMMAND:PACKAGE... installs the Debian packages of those commands that are not there.
need() {
    local pair packages=()
    for pair; do
        command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
    done
    ((${#packages[@]})) || return 0
    install_packages "${packages[@]}"
}

# install_packages PACKAGE... installs Debian packages.
install_packages() {
    local list="$*"
    command -v apt-get >/dev/null || die "missing: $list (names of Debian packages; without apt-get, install them by hand)"
    ((EUID == 0)) || command -v sudo >/dev/null ||
        die "missing: $list; without sudo, run as root: apt-get install $list"
    say "installing $list"
    as_root apt-get -qq -o DPkg::Lock::Timeout=120 update ||
        say "the package lists could not be refreshed; trying those that are here"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@" >&2 ||
        die "could not install $list"
}

need_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-${HOME-}/.cargo}/bin
    cargo --version >/dev/null || die "no working cargo; get Rust at https://rustup.rs"
}

# The peer of tests and benches, below target. It depends on the SDK of all of EC2: a quarter of an hour to build.
need_coldsnap() {
    local version=0.12.0
    [[ -x target/peers/bin/coldsnap ]] && return
    need_cargo
    say "installing coldsnap $version below target/peers"
    cargo install --quiet --locked --root target/peers --version $version coldsnap
}

# need_fsx DIR installs fsx, which the tests of writable mounts use, below DIR, unless it is there in this version.
need_fsx() {
    local dir=$1 version=0.3.2
    [[ $("$dir/bin/fsx" --version 2>/dev/null) == "fsx $version" ]] && return
    need_cargo
    say "installing fsx $version into $dir"
    cargo install --quiet --locked --root "$dir" --version $version fsx
}

# aws_clients DIR makes DIR a Python environment with the aws CLI and boto3, unless it is one of these versions.
aws_clients() {
    local dir=$1 wanted=(awscli==1.46.2 boto3==1.44.5)
    [[ $(cat "$dir/made-of" 2>/dev/null) != "${wanted[*]}" ]] || return 0
    need python3:python3
    # Debian's Python comes without what makes environments.
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    say "installing ${wanted[*]} into $dir"
    rm -rf "$dir"
    python3 -m venv "$dir" || die "cannot make a Python environment in $dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}" >&2 ||
        die "could not install ${wanted[*]}"
    echo "${wanted[*]}" >"$dir/made-of"
}

need_fuse() {
    [[ -c /dev/fuse ]] || as_root modprobe fuse || true
    [[ -c /dev/fuse ]] || die "this kernel offers no FUSE (there is no /dev/fuse)"
}

# limit SECONDS COMMAND... In the foreground, so that ctrl-c still reaches the command.
limit() { timeout --foreground -s KILL "$@"; }

# scratch NAME [MIB] makes a directory of our own, where there is room. Not in /tmp, which may be memory.
scratch() {
    local in=${TMPDIR:-/var/tmp} free
    free=$(df --output=avail -m "$in" | tail -n 1)
    ((free >= ${2:-0})) || die "$in has $free MiB free, and $2 are needed; set TMPDIR to a roomier place"
    in=$(realpath "$(mktemp -d "$in/$1.XXXXXX")")
    # An ordinary user, as some tests are one for a while, must get through.
    chmod 711 "$in"
    echo "$in"
}

# Mounts at or below DIR, last first, one "KIND MINOR PATH" a line; KIND is fuse or other. Only the kernel's
# table is read, here and below: a stat of a mount whose daemon hangs would hang as well.
mounts_below() {
    local minor kind path
    awk '{
        for (i = 7; $i != "-"; i++);
        split($3, n, ":")
        mounts[NR] = n[2] " " ($(i + 1) ~ /^fuse(\.|$)/ ? "fuse" : "other") " " $5
    }
    END { for (i = NR; i; i--) print mounts[i] }' /proc/self/mountinfo |
        while read -r minor kind path; do
            path=$(printf '%b' "$path")
            [[ $path == "$1" || $path == "$1"/* ]] && printf '%s %s %s\n' "$kind" "$minor" "$path"
        done || true
}

# Loop devices over files below DIR, one "DEVICE FILE" a line.
loops_below() {
    local at file
    for at in /sys/block/loop*/loop/backing_file; do
        # A device may go while we look.
        file=$(cat "$at" 2>/dev/null) || continue
        at=${at#/sys/block/}
        [[ $file == "$1"/* ]] && printf '/dev/%s %s\n' "${at%%/*}" "$file"
    done
    return 0
}

# Processes called ebsfs that name DIR, one "PID ARGUMENTS" a line.
daemons_below() {
    local at
    for at in /proc/[0-9]*; do
        [[ $(cat "$at/comm" 2>/dev/null) == ebsfs ]] || continue
        tr '\0' ' ' <"$at/cmdline" 2>/dev/null | sed "s:^:${at#/proc/} :" | grep -F -- "$1" || true
    done
}

# Ends all requests to FUSE mounts below DIR with an error, and with them whoever waits unkillably for an answer.
abort_fuse() {
    local kind minor path at=/sys/fs/fuse/connections
    while read -r kind minor path; do
        [[ $kind == fuse ]] || continue
        [[ -e $at/$minor ]] || as_root mount -t fusectl fusectl $at
        say "aborting the FUSE connection of $path"
        echo 1 | as_root tee $at/"$minor"/abort >/dev/null
    done < <(mounts_below "$1")
}

# watchdog SECONDS DIR, to be started with &: SIGKILL does not end a process that waits for a FUSE answer.
# It sleeps in `read`, so that killing it leaves no child.
watchdog() {
    local never
    # A caller that cleans up ignores TERM; this is to end by it.
    trap - TERM
    exec {never}<> <(:)
    read -rt "$1" -u "$never" || true
    say "time is up after $1 s"
    abort_fuse "$2"
}

# Unmounts file systems below DIR other than FUSE, and detaches loop devices over files there.
release_loops() {
    local kind path device
    while read -r kind _ path; do
        [[ $kind == other ]] || continue
        as_root timeout -s KILL 20 umount "$path" || as_root umount -l "$path" || true
    done < <(mounts_below "$1")
    while read -r device _; do
        as_root timeout -s KILL 20 losetup -d "$device" || true
    done < <(loops_below "$1")
}

# Unmounts FUSE mounts below DIR, by force if need be.
release_fuse() {
    local kind path
    while read -r kind _ path; do
        [[ $kind == fuse ]] || continue
        as_root timeout -s KILL 20 umount "$path" || {
            abort_fuse "$path"
            as_root umount -l "$path" || true
        }
    done < <(mounts_below "$1")
}

# Waits for daemons that name DIR, and ends those that do not go by themselves.
release_daemons() {
    local i pid arguments
    for ((i = 0; i < 50; i++)); do
        [[ $(daemons_below "$1") ]] || return 0
        sleep 0.1
    done
    while read -r pid arguments; do
        say "still running, killed: $arguments"
        as_root kill -KILL "$pid" || true
    done < <(daemons_below "$1")
}
