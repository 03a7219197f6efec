#!/usr/bin/env python3
"""Files of every kind on a mounted file system, and what the kernel shows of them.

  kernel_tree.py populate DIR [small]   makes the files; as root, as it makes devices and sets owners
  kernel_tree.py disturb DIR            changes, removes and makes files, transaction by transaction
  kernel_tree.py manifest DIR           a line of JSON for each file, on stdout, and one for all contents
"""

import errno
import hashlib
import json
import os
import random
import stat
import struct
import sys

HUGE = 1 << 30

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char-device",
    stat.S_IFBLK: "block-device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def write(path, data=b""):
    with open(path, "wb") as file:
        file.write(data)


def noise(seed, length):
    return random.Random(seed).randbytes(length)


def attribute(path, name, value):
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as e:
        # ext2 and small blocks have less room; what the kernel refuses is not part of the fixture.
        if e.errno not in (errno.ENOSPC, errno.E2BIG, errno.EOPNOTSUPP, errno.ERANGE):
            raise


def acl(entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def populate(top, small):
    os.chdir(top)
    # So that what is only reserved later does not lie on zeros.
    room = os.statvfs(".")
    write("noise", noise(0, min(room.f_bavail * room.f_frsize * 3 // 4, 16 << 20)))
    settle("noise")
    os.unlink("noise")
    settle(".")
    # Sizes around what fits into an inode, a block, a page.
    os.mkdir("sizes")
    for size in [0, 1, 59, 60, 61, 100, 160, 511, 512, 1023, 1024, 1025, 4095, 4096, 4097, 65536, 300_001]:
        write(f"sizes/{size}", noise(size, size))
    # Directories from one that fits into an inode to one with an index of two levels.
    for count in [1, 3, 10, 60, 400] + ([] if small else [5000]):
        os.mkdir(f"names-{count}")
        for i in range(count):
            name = f"names-{count}/{'x' * (i % 40)}{i:05}"
            if i % 3:
                os.link(f"names-{count}/00000", name)
            else:
                write(name, str(i).encode() if i % 2 else b"")
    # One that was larger: blocks of its middle are gone, and so are its last ones.
    os.mkdir("names-left")
    for i in range(900):
        write(f"names-left/{'y' * (i % 40)}{i:05}", b"")
    for i in [*range(200, 500), *range(700, 900)]:
        os.unlink(f"names-left/{'y' * (i % 40)}{i:05}")
    # Holes: at the start, in the middle, at the end, over whole indirect blocks, past 4 GiB.
    os.mkdir("holes")
    for name, islands, size in [
        ("all", [], 3_000_000),
        ("start", [1_000_000], 1_000_010),
        ("middle", [0, 50_000, 700_000], 700_100),
        ("end", [0], 2_000_000),
        ("indirect", [0, 12 << 10, 268 << 10, (268 << 10) + (256 << 10) * 3, 70 << 20], 71 << 20),
        ("wide", [0, 5 << 30], (5 << 30) + 77),
    ]:
        with open(f"holes/{name}", "wb") as file:
            for island in islands:
                file.seek(island)
                file.write(b"island %d" % island)
            file.truncate(size)
    # As many extents as need a tree of two levels: every second block.
    with open("holes/comb", "wb") as file:
        for i in range(300 if small else 3000):
            file.seek(i * 8192)
            file.write(noise(i, 1000))
    with open("holes/reserved", "wb") as file:
        write("holes/reserved", b"begin")
        try:
            os.posix_fallocate(file.fileno(), 100_000, 200_000)
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise
    # Links: short, as long as fits, longer than an inode, as long as may be, to nothing, to themselves.
    os.mkdir("links")
    for length in [1, 59, 60, 61, 200, 431, 1000, 1023]:
        os.symlink("t" * length, f"links/{length}")
    os.symlink("../sizes/4096", "links/good")
    os.symlink("loop", "links/loop")
    os.symlink("/sizes", "links/absolute")
    os.symlink(b"\xff\n\x01", "links/odd")
    os.symlink("../../../../../etc/passwd", "links/out")
    write("links/one", b"one file")
    for i in range(20):
        os.link("links/one", f"links/hard{i}")
    # Names.
    os.mkdir("odd")
    for name in [b"-rf", b" ", b"new\nline", b"\x01\x1b[2J", b"\xff\xfe", b"n" * 255, "grüße".encode(), b"...", b"back\\slash", b"'quote\"", b"*"]:
        write(b"odd/" + name, name)
    write(b"odd/.hidden", b"")
    # Kinds, modes, owners, times.
    os.mkdir("kinds")
    os.mkfifo("kinds/fifo")
    os.mknod("kinds/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("kinds/wide", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mknod("kinds/socket", stat.S_IFSOCK | 0o600)
    os.mkdir("modes")
    for mode in [0o000, 0o644, 0o755, 0o4755, 0o2711, 0o6777, 0o1777]:
        write(f"modes/{mode:04o}", b"")
        os.chmod(f"modes/{mode:04o}", mode)
    for i, (uid, gid) in enumerate([(1000, 1000), (65534, 65534), (70_000, 80_000), (4_000_000_000, 1)]):
        write(f"modes/owner{i}", b"")
        os.chown(f"modes/owner{i}", uid, gid)
    os.mkdir("times")
    for i, nanoseconds in enumerate([0, 1_700_000_000_123_456_789, -1, -2_000_000_000_000_000_000, 3_000_000_000_500_000_000]):
        write(f"times/{i}", b"")
        os.utime(f"times/{i}", ns=(nanoseconds, nanoseconds))
    # Attributes: some in the inode, some past it, ACLs, capabilities.
    os.mkdir("attributes")
    for i, values in enumerate([[0], [3, 5], [100, 100], [900], [3000], [10] * 40, [20_000]]):
        path = f"attributes/{i}"
        write(path, b"x" * i)
        for j, length in enumerate(values):
            attribute(path, f"user.name{j}", noise(i * 100 + j, length))
    write("attributes/capable", b"")
    attribute("attributes/capable", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    attribute("attributes/capable", "trusted.overlay.opaque", b"y")
    write("attributes/listed", b"")
    everyone = 0xFFFF_FFFF
    entries = [(1, 6, everyone), (2, 4, 1000), (4, 4, everyone), (8, 5, 2000), (16, 7, everyone), (32, 0, everyone)]
    attribute("attributes/listed", "system.posix_acl_access", acl(entries))
    attribute("attributes", "system.posix_acl_default", acl(entries))
    attribute("links/loop", "trusted.link", b"of a link")
    # Deep, and a directory as on a disk one looks into.
    os.makedirs("deep/" + "/".join(str(i) for i in range(30)))
    os.makedirs("etc/ssl/private")
    write("etc/fstab", b"LABEL=root / auto defaults 0 1\n")
    write("etc/ssl/private/key.pem", b"-----BEGIN\n")


def settle(top):
    fd = os.open(top, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def disturb(top):
    os.chdir(top)
    rng = random.Random(7)
    os.mkdir("churn")
    for round in range(12):
        dir = f"churn/{round}"
        os.mkdir(dir)
        for i in range(120):
            write(f"{dir}/{'y' * (i % 60)}{i}", noise(i, rng.randrange(6000)))
            if i % 7 == 0:
                attribute(f"{dir}/{'y' * (i % 60)}{i}", "user.note", noise(i, rng.randrange(200)))
            if i % 11 == 0:
                os.symlink("z" * rng.randrange(1, 300), f"{dir}/link{i}")
        # What was a directory's block becomes a file's: it must not be replayed over that.
        if round >= 2:
            old = f"churn/{round - 2}"
            for name in os.listdir(old):
                if rng.randrange(4):
                    os.unlink(f"{old}/{name}")
            moved = f"churn/moved{round}"
            os.rename(old, moved)
        with open("churn/grows", "ab") as file:
            file.write(noise(round, 50_000))
            os.fsync(file.fileno())
        with open("churn/grows", "r+b") as file:
            file.truncate(30_000 * (round + 1))
        for name in ["sizes/4097", "links/hard3"]:
            with open(name, "r+b") as file:
                file.seek(5)
                file.write(b"round %d" % round)
        os.chmod("modes/0644", 0o600 + round)
        settle(".")
    for name in os.listdir("churn/5") if os.path.isdir("churn/5") else []:
        os.unlink(f"churn/5/{name}")
    settle(".")
    # Directories that are in the journal and are no more, under contents that are not in it.
    os.mkdir("gone")
    for i in range(400):
        write(f"gone/{'g' * 50}{i}")
    settle("gone")
    for name in os.listdir("gone"):
        os.unlink(f"gone/{name}")
    os.rmdir("gone")
    settle(".")
    room = os.statvfs(".")
    if room.f_bavail * room.f_frsize < 64 << 20:
        write("fills", noise(9, room.f_bavail * room.f_frsize * 9 // 10))
        settle("fills")


def shown(path, relative):
    info = os.lstat(path)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    entry = {
        "path": relative.hex(),
        "type": kind,
        "mode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "links": info.st_nlink,
        "inode": info.st_ino,
        "accessed": str(info.st_atime_ns),
        "modified": str(info.st_mtime_ns),
        "changed": str(info.st_ctime_ns),
    }
    if kind == "file":
        entry["size"] = info.st_size
        entry["data"] = data(path, info.st_size)
        with open(path, "rb", buffering=0) as file:
            # Of a huge one only its end: it is there for what is past 4 GiB.
            file.seek(max(0, info.st_size - 4096) if info.st_size > HUGE else 0)
            entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    if kind == "symlink":
        entry |= {"size": info.st_size, "target": os.fsencode(os.readlink(path)).hex()}
    if kind.endswith("device"):
        entry["device"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    # Where XFS keeps its ACLs, which it shows under their own names as well.
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.SGI_ACL")]
    entry["xattrs"] = {
        os.fsencode(name).hex(): os.getxattr(path, name, follow_symlinks=False).hex() for name in sorted(names)
    }
    return entry


def data(path, size):
    """Bytes that are no hole."""
    fd = os.open(path, os.O_RDONLY)
    at = total = 0
    try:
        while at < size:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            total += at - start
    except OSError as e:
        if e.errno != errno.ENXIO:
            raise
    os.close(fd)
    return total


def manifest(top):
    """All files, then what `cat` of all those that are not huge gives, in that order, and what `df` shows."""
    contents = hashlib.sha256()

    def walk(path, relative):
        entry = shown(path, relative or b"/")
        print(json.dumps(entry))
        if entry["type"] == "file" and entry["size"] <= HUGE:
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    contents.update(piece)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            for name in sorted(os.listdir(path)):
                walk(path + b"/" + name, relative + b"/" + name)

    walk(os.fsencode(top), b"")
    room = os.statvfs(top)
    size, free = room.f_blocks * room.f_frsize, room.f_bfree * room.f_frsize
    print(json.dumps({"contents": contents.hexdigest(), "size": size, "free": free}))


match sys.argv[1:]:
    case ["populate", top, *small]:
        populate(top, bool(small))
    case ["disturb", top]:
        disturb(top)
    case ["manifest", top]:
        manifest(top)
    case _:
        sys.exit(__doc__)
