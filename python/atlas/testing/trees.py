"""Trees of files for tests and measurements, and the snapshot that two equal trees share."""

import ctypes
import errno
import hashlib
import os
import random
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

_LONG_NAME = b"n" * 255
DEPTH = 30

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
_ACLS = (ACCESS_ACL, DEFAULT_ACL)
_ACL_TAGS = {"u": 1, "user": 2, "g": 4, "group": 8, "mask": 16, "o": 32}

# Names and values of extended attributes, sorted.
Extended = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Entry:
    """What a reader can see of one entry, and must see the same at the origin and in the cache."""

    kind: int
    mode: int
    uid: int
    gid: int
    modified_ns: int
    target: bytes | None
    size: int | None
    digest: str | None
    extended: Extended


@dataclass(frozen=True)
class Untouched:
    """What the cache must never change at the origin, times of access included."""

    mode: int
    uid: int
    gid: int
    size: int
    links: int
    accessed_ns: int
    modified_ns: int
    changed_ns: int
    digest: str | None
    extended: Extended


def _walk(root: bytes) -> list[bytes]:
    """Every path below `root`, relative, folders before what is in them; any depth and name.

    Works from folder to folder by descriptor: absolute paths may be longer than the kernel takes.
    """
    found: list[bytes] = []

    def below(folder: int, prefix: bytes) -> None:
        with os.scandir(folder) as entries:
            names = sorted(
                (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries
            )
        for name, is_folder in names:
            path = prefix + name
            found.append(path)
            if is_folder:
                child = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=folder
                )
                try:
                    below(child, path + b"/")
                finally:
                    os.close(child)

    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    try:
        below(top, b"")
    finally:
        os.close(top)
    return found


def open_below(root: bytes, path: bytes, flags: int) -> int:
    """Open `path` below `root`, one name at a time, so that its length does not matter."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    *folders, last = path.split(b"/")
    try:
        for name in folders:
            child = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = child
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def digest_of(descriptor: int) -> str:
    """SHA-256 of everything from the descriptor's position on."""
    digest = hashlib.sha256()
    while block := os.read(descriptor, 1 << 20):
        digest.update(block)
    return digest.hexdigest()


def extended_of(handle: int) -> Extended:
    """The extended attributes of an open entry that a data set shows. Links have none."""
    if stat.S_ISLNK(os.fstat(handle).st_mode):
        return ()
    path = f"/proc/self/fd/{handle}"
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return ()
    shown = (name for name in names if name.startswith("user.") or name in _ACLS)
    return tuple(sorted((name, os.getxattr(path, name)) for name in shown))


def posix_acl(*entries: tuple[str, int] | tuple[str, int, int]) -> bytes:
    """A POSIX ACL as the kernel takes it, of (kind, rights) and (kind, rights, id).

    Kinds: owner `u`, `user` with an id, owning group `g`, `group` with an id, `mask`, others `o`.
    """
    packed = [struct.pack("<I", 2)]
    for kind, rights, *name in entries:
        packed.append(struct.pack("<HHI", _ACL_TAGS[kind], rights, *(name or [0xFFFFFFFF])))
    return b"".join(packed)


def _look(root: bytes, path: bytes) -> tuple[os.stat_result, bytes | None, str | None, Extended]:
    handle = open_below(root, path, os.O_PATH)
    try:
        status = os.fstat(handle)
        extended = extended_of(handle)
        target = os.readlink(b"", dir_fd=handle) if stat.S_ISLNK(status.st_mode) else None
    finally:
        os.close(handle)
    digest = None
    if stat.S_ISREG(status.st_mode):
        reader = open_below(root, path, os.O_RDONLY | os.O_NOATIME)
        try:
            digest = digest_of(reader)
        finally:
            os.close(reader)
    return status, target, digest, extended


def snapshot(root: str | Path, *, mask_set_id: bool = False) -> dict[bytes, Entry]:
    """Every entry below `root` as a reader sees it.

    `mask_set_id`: leave set-user-id and set-group-id out of the modes, as Atlas does.
    """
    top = os.fsencode(root)
    entries = {}
    for path in _walk(top):
        status, target, digest, extended = _look(top, path)
        mode = stat.S_IMODE(status.st_mode)
        entries[path] = Entry(
            kind=stat.S_IFMT(status.st_mode),
            mode=mode & ~0o6000 if mask_set_id else mode,
            uid=status.st_uid,
            gid=status.st_gid,
            modified_ns=status.st_mtime_ns,
            target=target,
            size=status.st_size if digest is not None else None,
            digest=digest,
            extended=extended,
        )
    return entries


def untouched_snapshot(root: str | Path) -> dict[bytes, Untouched]:
    """Everything at the origin that must stay, the root and every time included.

    Reads files and folders without leaving a time of access; needs to own them or to be root. The
    times of a link's access are taken before its target is read, and the target is not read.
    """
    top = os.fsencode(root)
    handle = os.open(top, os.O_PATH)
    try:
        entries = {b"": _untouched(os.fstat(handle), None, extended_of(handle))}
    finally:
        os.close(handle)
    for path in _walk(top):
        handle = open_below(top, path, os.O_PATH)
        try:
            status = os.fstat(handle)
            extended = extended_of(handle)
        finally:
            os.close(handle)
        digest = None
        if stat.S_ISREG(status.st_mode):
            reader = open_below(top, path, os.O_RDONLY | os.O_NOATIME)
            try:
                digest = digest_of(reader)
            finally:
                os.close(reader)
        entries[path] = _untouched(status, digest, extended)
    return entries


def _untouched(status: os.stat_result, digest: str | None, extended: Extended) -> Untouched:
    return Untouched(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size,
        links=status.st_nlink,
        accessed_ns=status.st_atime_ns,
        modified_ns=status.st_mtime_ns,
        changed_ns=status.st_ctime_ns,
        digest=digest,
        extended=extended,
    )


def differences(expected: dict[bytes, Entry], seen: dict[bytes, Entry]) -> list[str]:
    """What differs, a line each; empty when the trees agree."""
    lines = [f"missing: {path!r}" for path in expected.keys() - seen.keys()]
    lines += [f"too many: {path!r}" for path in seen.keys() - expected.keys()]
    lines += [
        f"{path!r}: expected {expected[path]}, seen {seen[path]}"
        for path in expected.keys() & seen.keys()
        if expected[path] != seen[path]
    ]
    return sorted(lines)


def make_odd_tree(root: Path, *, owners: bool) -> None:
    """A tree with one of everything that a read-only view can get wrong.

    `owners`: give some entries other owners and device nodes, which takes root.
    """
    root.mkdir(parents=True)
    (root / "plain.txt").write_bytes(b"plain\n")
    (root / "empty").write_bytes(b"")
    (root / "page").write_bytes(os.urandom(4096))
    (root / "page-and-one").write_bytes(os.urandom(4097))
    (root / "extent").write_bytes(os.urandom(1 << 20))
    (root / "extents").write_bytes(os.urandom((3 << 20) + 17))
    (root / "sub" / "empty-folder").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(os.urandom(100_000))

    with (root / "sparse").open("wb") as sparse:
        sparse.seek((5 << 20) + 5)
        sparse.write(b"end")
        sparse.truncate(9 << 20)

    (root / "closed").write_bytes(b"mode 0")
    (root / "closed").chmod(0)
    (root / "set-id").write_bytes(b"#!/bin/true\n")
    (root / "set-id").chmod(0o6755)
    (root / "group-folder").mkdir()
    (root / "group-folder").chmod(0o2775)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "before-1970").write_bytes(b"old")
    os.utime(root / "before-1970", ns=(-86_400 * 10**9, -(10**9) * 5 + 123))

    (root / "link").symlink_to("plain.txt")
    (root / "dangling").symlink_to("nowhere")
    (root / "absolute").symlink_to("/etc/hostname")
    (root / "to-folder").symlink_to("sub")
    (root / "climbing").symlink_to("../../outside")
    (root / "sub" / "loop").symlink_to("loop")
    os.link(root / "sub" / "file", root / "second-name")
    os.link(root / "sub" / "file", root / "sub" / "third-name")
    os.mkfifo(root / "fifo")

    top = os.fsencode(root)
    for name in (
        b"new\nline",
        b"invalid-\xff\xfe-utf8",
        b"\x1b[31mred",
        b" spaces ",
        b"-n",
        b"quo'te\"s",
        b"back\\slash",
        "Grüße-日本".encode(),
        _LONG_NAME,
        b"...",
    ):
        with open(top + b"/" + name, "wb") as file:
            file.write(b"in " + name)
    _make_deep(top)
    _set_extended(root)
    if owners:
        os.chown(root / "plain.txt", 1234, 4321)
        os.chown(root / "sub", 2001, 2001)
        os.lchown(root / "dangling", 77, 88)
        os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def _set_extended(root: Path) -> None:
    """Extended attributes and ACLs, where the file system keeps them."""
    named = posix_acl(("u", 6), ("user", 4, 2001), ("g", 0), ("mask", 4), ("o", 0))
    folder = posix_acl(("u", 7), ("g", 0), ("group", 5, 2002), ("mask", 5), ("o", 0))
    for name, attribute, value in (
        ("page", "user.colour", b"green"),
        ("page", "user.empty", b""),
        ("page", ACCESS_ACL, named),
        ("extents", ACCESS_ACL, named),
        ("empty", "user.large", bytes(range(256)) * 8),
        ("fifo", ACCESS_ACL, named),
        ("sticky", "user.of-a-folder", b"\0\xff"),
        ("group-folder", ACCESS_ACL, folder),
        ("group-folder", DEFAULT_ACL, folder),
    ):
        try:
            os.setxattr(root / name, attribute, value)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise


def _make_deep(top: bytes) -> None:
    """30 folders in each other with names of 255 bytes: a path longer than PATH_MAX."""
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY)
    for level in range(DEPTH):
        name = b"%02d" % level + b"d" * 253
        os.mkdir(name, dir_fd=folder)
        child = os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = child
    file = os.open(b"bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=folder)
    os.write(file, b"at the bottom")
    os.close(file)
    os.close(folder)


def make_files(root: Path, count: int, size: int, *, folders: int = 1, seed: int = 1) -> list[str]:
    """`count` files of `size` bytes each, spread over `folders` folders; bytes from `seed`.

    Gives their names below `root`, folder by folder.
    """
    source = random.Random(seed)
    for number in range(folders):
        (root / f"{number:04}").mkdir(parents=True, exist_ok=True)
    names = [f"{number % folders:04}/{number:07}.bin" for number in range(count)]
    for name in names:
        (root / name).write_bytes(source.randbytes(size))
    return sorted(names)


def make_empty_files(root: Path, count: int, per_folder: int) -> None:
    """Fill `root` with `count` empty files: a namespace without the disk space."""
    for start in range(0, count, per_folder):
        folder = root / f"{start // per_folder:05}"
        folder.mkdir(parents=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for index in range(start, min(start + per_folder, count)):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(f"{index:08}", flags, 0o644, dir_fd=descriptor))
        finally:
            os.close(descriptor)


def total_bytes(root: Path) -> int:
    """Read every file below `root` once, which also brings it into the kernel's page cache."""
    size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                size += len(file.read())
    return size


def age(root: Path, seconds: int = 3600) -> None:
    """Set the times of access of everything before those of modification.

    A mount with `relatime` updates a time of access only then, so this is when it would show.
    """
    top = os.fsencode(root)
    for path in [b"", *_walk(top)]:
        handle = open_below(top, path, os.O_PATH) if path else os.open(top, os.O_PATH)
        try:
            modified = os.fstat(handle).st_mtime_ns
            accessed = modified - seconds * 10**9
            _set_times(handle, accessed, modified)
        finally:
            os.close(handle)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_AT_EMPTY_PATH = 0x1000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _set_times(handle: int, accessed_ns: int, modified_ns: int) -> None:
    """utimensat(2) on an O_PATH descriptor, links included, which `os.utime` cannot."""
    times = (_Timespec * 2)(
        _Timespec(*divmod(accessed_ns, 10**9)), _Timespec(*divmod(modified_ns, 10**9))
    )
    if _LIBC.utimensat(handle, b"", ctypes.byref(times), _AT_EMPTY_PATH) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
