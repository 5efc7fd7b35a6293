"""Unix sockets at long paths, and who is behind one."""

import os
import socket
import threading
from pathlib import Path

import pytest

from atlas.api.transport import SocketAddress, connect, peer_of


def test_a_path_of_any_length_can_be_bound_and_connected(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    path = folder / "node.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        with SocketAddress(path) as name:
            listener.bind(name)
        listener.listen()
        with connect(path, 1.0) as connection:
            assert peer_of(connection) == (os.getpid(), os.geteuid(), os.getegid())


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with connect(path, 1.0):
            with pytest.raises(TimeoutError):
                connect(path, 0.05)
            taking = threading.Timer(0.2, lambda: listener.accept()[0].close())
            taking.start()
            connect(path, 60.0).close()
            taking.join()
