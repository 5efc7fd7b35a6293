"""Who calls, by the kernel's word."""

import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.api.errors import DENIED, AtlasError
from atlas.node.caller import caller_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes other users")

NEW_USER_NAMESPACE = 0x10000000


def accepted(folder: Path, become: Callable[[], None]) -> tuple[socket.socket, int]:
    """A connection from a child that has become somebody else, and the child's end of life."""
    folder.chmod(0o755)
    path = folder / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen()
    alive_reading, alive_writing = os.pipe()
    why_reading, why_writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(alive_writing)
            connection = socket.socket(socket.AF_UNIX)
            # Opened by descriptor: folders above are closed to others.
            os.chdir(folder)
            become()
            connection.connect("s")
            os.read(alive_reading, 1)
        except OSError as error:
            os.write(why_writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(alive_reading)
    os.close(why_writing)
    with os.fdopen(why_reading) as why:
        ready, _, _ = select.select([listener, why], [], [], 60)
        if listener not in ready:
            os.close(alive_writing)
            listener.close()
            if ready:
                os.waitpid(child, 0)
                pytest.skip(f"this machine does not let a child become another user: {why.read()}")
            pytest.fail("the child has not connected")
    connection, _ = listener.accept()
    listener.close()
    return connection, alive_writing


def identity(uid: int, groups: list[int]) -> Callable[[], None]:
    def become() -> None:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    return become


def test_uid_gid_and_all_groups(tmp_path: Path) -> None:
    # More than fit into the 1,024 bytes that Python's getsockopt reads.
    groups = list(range(5000, 6000))
    connection, alive = accepted(tmp_path, identity(2001, groups))
    with connection:
        caller = caller_of(connection)
    os.close(alive)
    os.wait()
    assert (caller.uid, caller.gid, sorted(caller.groups)) == (2001, 2001, groups)


@pytest.mark.parametrize(("uid", "groups"), [(65534, []), (2001, [65534])])
def test_overflow_ids_are_refused(tmp_path: Path, uid: int, groups: list[int]) -> None:
    connection, alive = accepted(tmp_path, identity(uid, groups))
    with connection, pytest.raises(AtlasError) as caught:
        caller_of(connection)
    os.close(alive)
    os.wait()
    assert caught.value.kind is DENIED


def test_another_user_namespace_is_refused(tmp_path: Path) -> None:
    def become() -> None:
        import ctypes

        identity(2001, [])()
        if ctypes.CDLL(None, use_errno=True).unshare(NEW_USER_NAMESPACE) != 0:
            raise OSError(ctypes.get_errno(), "no user namespace can be made here")

    connection, alive = accepted(tmp_path, become)
    with connection, pytest.raises(AtlasError) as caught:
        caller_of(connection)
    os.close(alive)
    os.wait()
    assert caught.value.kind is DENIED


def test_a_caller_that_has_ended_is_refused(tmp_path: Path) -> None:
    connection, alive = accepted(tmp_path, identity(2001, []))
    os.close(alive)
    os.wait()
    with connection, pytest.raises(AtlasError) as caught:
        caller_of(connection)
    assert caught.value.kind is DENIED
