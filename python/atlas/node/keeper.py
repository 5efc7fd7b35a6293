"""The keeper: parent of the node, holder of its descriptors, and its watchdog.

Run as `python -m atlas.node.keeper LOCK READY_DESCRIPTOR` by whoever starts a node. It does so
little that it does not fail: standard library only, no thread, nothing imported that is not used.

- It holds a copy of every /dev/fuse descriptor (and of the listening socket), so that a node that
  dies leaves its mounts waiting instead of broken; the next node asks for them.
- It starts a new node when one dies, and kills one that does not answer. Silence is counted in
  missed pings, not in time on a clock: a machine that slept, or a keeper that was itself stopped,
  must not kill a healthy node.

Messages are JSON, one per packet of a SOCK_SEQPACKET pair. The node asks and waits for the answer:
  put {key} + descriptor -> done    drop {key} -> done    get {key} -> done + descriptor | absent
  keys -> keys {keys}               ready, failed {error}, stopping, hello, pong: no answer
The keeper sends `ping` on its own account.
"""

import array
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final

from atlas.node.stuck import abort, connection_of, connections_of, waits_for_fuse

TICK_SECONDS: Final = 0.5
SILENT_TICKS: Final = 10
"""Unanswered ticks after which a node is replaced: 5 s of the keeper's own running time."""
STARVED_TICKS: Final = 60
"""The same for a node that computes or loads pages all the while: on a machine without processor or
memory to spare it is late, not stuck."""
START_TICKS: Final = 120
"""Ticks that a node has from its start to its first word."""
STOP_TICKS: Final = 120
"""Ticks that a node has to end after it was asked to."""
STUCK_TICKS: Final = {"": 4, "twin": 8}
"""Ticks after a SIGKILL until a connection that may hold the node is aborted, by the kind of its
key; those without a key are nobody's but the node's."""
MOST_STUCK_TICKS: Final = 16
"""The same for all others: programs have files of them open."""
RESTART_DELAYS_SECONDS: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
SHORT_LIFE_SECONDS: Final = 3.0
"""A node that failed younger than this makes the next one wait longer."""
HOPELESS_DEATHS: Final = 30
"""Deaths in a row, of nodes that were never ready or were so for a moment, after which waiting
readers get errors: what they wait for may be what kills each node."""
NODE_DESCRIPTOR: Final = 3
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
LARGEST_MESSAGE_BYTES: Final = 128 << 10


def log(level: str, message: str) -> None:
    """One line in the node's log, in the form of the node's own lines."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    sys.stderr.write(f"{stamp}.{int(now * 1000) % 1000:03}Z {level} keeper: {message}\n")
    sys.stderr.flush()


class Keeper:
    """One node process at a time and the descriptors that outlive it."""

    def __init__(self, ready_descriptor: int | None) -> None:
        self.ready_descriptor = ready_descriptor
        self.descriptors: dict[str, int] = {}
        self.process = 0
        self.process_descriptor = -1
        self.link: socket.socket | None = None
        self.started_at = 0.0
        self.spoke = False
        self.ping_pending = False
        self.silent_ticks = 0
        self.progress: tuple[str, ...] = ()
        self.killed = False
        """Sent SIGKILL by this keeper."""
        self.killed_ticks = 0
        self.aborted: set[int] = set()
        self.stop_ticks = 0
        self.stopping = False
        self.was_ready = False
        """One of the nodes was ready."""
        self.is_ready = False
        """The present one is."""
        self.short_lives = 0
        self.deaths_without_ready = 0
        self.restarts = -1

    def run(self) -> int:
        """Keeps a node running until it is told to stop. Gives the exit status."""
        wake_reading, wake_writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writing)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self.start_node()
        next_tick = time.monotonic() + TICK_SECONDS
        while True:
            waiting = select.poll()
            waiting.register(wake_reading, select.POLLIN)
            waiting.register(self.process_descriptor, select.POLLIN)
            if self.link is not None:
                waiting.register(self.link, select.POLLIN)
            ready = {
                descriptor
                for descriptor, _ in waiting.poll(max(0, (next_tick - time.monotonic()) * 1000))
            }
            if wake_reading in ready:
                os.read(wake_reading, 64)
                self.ask_to_stop()
            if self.link is not None and self.link.fileno() in ready:
                self.receive(self.link)
            if self.process_descriptor in ready and not self.replace_node():
                return 0 if self.was_ready or self.ready_descriptor is None else 1
            if time.monotonic() >= next_tick:
                self.tick()
                # From now, not from the last: lost time is no missed ping.
                next_tick = time.monotonic() + TICK_SECONDS

    def start_node(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), NODE_DESCRIPTOR)]
            self.process = os.posix_spawn(
                sys.executable,
                # -P: nothing is imported from the working folder.
                [sys.executable, "-P", "-m", "atlas.node", str(NODE_DESCRIPTOR)],
                os.environ,
                file_actions=actions,
                # Until the node can handle them: one that is stopped while it starts must take
                # its mounts away all the same.
                setsigmask=STOP_SIGNALS,
            )
        self.process_descriptor = os.pidfd_open(self.process)
        self.link = ours
        self.started_at = time.monotonic()
        self.spoke = self.ping_pending = self.is_ready = self.killed = False
        self.silent_ticks = self.killed_ticks = 0
        self.aborted = set()
        self.restarts += 1

    def receive(self, link: socket.socket) -> None:
        """Takes one message of the node; a closed pair waits for the node's death."""
        try:
            data, ancillary, _, _ = link.recvmsg(
                LARGEST_MESSAGE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            data, ancillary = b"", []
        descriptor = -1
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i", payload)
                descriptor = received[0]
        if not data:
            link.close()
            self.link = None
            return
        self.spoke = True
        taken = False
        try:
            taken = self.handle(link, json.loads(data), descriptor)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Whatever a node says, the descriptors of its mounts must not end with it.
            log("ERROR", f"a message that is not understood: {error!r}")
        if descriptor >= 0 and not taken:
            os.close(descriptor)

    def handle(self, link: socket.socket, message: dict[str, Any], descriptor: int) -> bool:
        """Gives whether the descriptor is the keeper's now."""
        operation, key = message["op"], str(message.get("key"))
        if operation == "pong":
            self.ping_pending = False
            self.silent_ticks = 0
        elif operation == "put" and descriptor >= 0:
            self.drop(key)
            self.descriptors[key] = descriptor
            self.answer(link, {"op": "done"})
            return True
        elif operation == "get":
            if key in self.descriptors:
                self.answer(link, {"op": "done"}, self.descriptors[key])
            else:
                self.answer(link, {"op": "absent"})
        elif operation == "drop":
            self.drop(key)
            self.answer(link, {"op": "done"})
        elif operation == "keys":
            self.answer(link, {"op": "keys", "keys": list(self.descriptors)})
        elif operation == "hello":
            self.answer(link, {"op": "welcome", "pid": os.getpid(), "restarts": self.restarts})
        elif operation == "ready":
            self.was_ready = self.is_ready = True
            self.deaths_without_ready = 0
            self.report({"ready": True})
        elif operation == "failed":
            self.report({"error": message["error"]})
        elif operation == "stopping":
            self.stopping = True
        else:
            log("ERROR", f"a message that is not known: {operation!r}")
        return False

    def answer(self, link: socket.socket, message: dict[str, Any], descriptor: int = -1) -> None:
        """Sends without waiting: a node that does not read must not stop its watchdog."""
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            if descriptor >= 0
            else []
        )
        try:
            link.sendmsg([json.dumps(message).encode()], rights)
        except OSError as error:
            # It is dead or stopped: the process descriptor or the missed pings will tell.
            log("INFO", f"the node does not take a message: {error.strerror}")

    def drop(self, key: str) -> None:
        if key in self.descriptors:
            os.close(self.descriptors.pop(key))

    def report(self, result: dict[str, Any]) -> None:
        """Tells whoever waits for the start; only the first result counts."""
        if self.ready_descriptor is not None:
            try:
                os.write(self.ready_descriptor, json.dumps(result).encode() + b"\n")
            except BrokenPipeError:
                log("INFO", "nobody waits for the start any more")
            os.close(self.ready_descriptor)
            self.ready_descriptor = None

    def ask_to_stop(self) -> None:
        """SIGTERM: the node unmounts and ends, and so does the keeper after it."""
        self.stopping = True
        self.kill(signal.SIGTERM)

    def kill(self, number: int) -> None:
        # A process that has ended is about to be noticed by the loop.
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process_descriptor, number)

    def tick(self) -> None:
        """Counts what the node has not answered, and asks again."""
        if self.stopping:
            self.stop_ticks += 1
            if self.stop_ticks >= STOP_TICKS and not self.killed:
                log("ERROR", "the node does not stop: killing it")
                self.kill(signal.SIGKILL)
                self.killed = True
        if not self.spoke or self.link is None:
            limit = START_TICKS
            self.silent_ticks += 1
        else:
            limit = SILENT_TICKS
            if self.ping_pending:
                self.silent_ticks += 1
            else:
                self.ping_pending = True
                self.answer(self.link, {"op": "ping"})
        before, self.progress = self.progress, progress_of(self.process)
        if limit == SILENT_TICKS and self.progress != before:
            limit = STARVED_TICKS
        if self.silent_ticks >= limit and not self.killed:
            log("WARNING", f"the node (pid {self.process}) does not answer: replacing it")
            self.kill(signal.SIGKILL)
            self.killed = True
        elif self.killed:
            self.killed_ticks += 1
            self.free_stuck()

    def free_stuck(self) -> None:
        """Ends connections that keep a killed node from ending, the least needed first: those that
        no reader has, those behind lazy fronts, and at last the live ones."""
        if not waits_for_fuse(self.process):
            return  # on a disk, say: that is none of their business
        # Once each: the number of one that has ended may be somebody else's.
        stuck = connections_of(self.process) - self.aborted
        kept = {connection_of(held): key for key, held in self.descriptors.items()}
        due = []
        for connection in sorted(stuck):
            kind = kept.get(connection, "").partition(":")[0]
            if self.killed_ticks >= STUCK_TICKS.get(kind, MOST_STUCK_TICKS):
                due.append(connection)
        if due:
            self.aborted |= set(due)
            log("ERROR", f"the node does not die: aborting FUSE connections {abort(due)}")

    def replace_node(self) -> bool:
        """After a death: the next node, or False when the keeper has nothing left to do."""
        _, status = os.waitpid(self.process, 0)
        os.close(self.process_descriptor)
        # What the node said last (a failure, that it stops) may still lie in the socket, whose
        # end `receive` takes as the end of the link.
        while (link := self.link) is not None:
            self.receive(link)
        code = os.waitstatus_to_exitcode(status)
        ended = f"signal {-code}" if code < 0 else f"status {code}"
        # A node ends with 0 only when it was asked to; that it said so may have been lost, where
        # this keeper was stopped meanwhile.
        if code == 0 or (self.stopping and (code >= 0 or self.killed)):
            log("INFO", f"the node has stopped ({ended})")
            return False
        if not self.was_ready and code >= 0:
            # The first start failed by the node's own decision: it will not go better again.
            log("ERROR", f"the node did not start ({ended})")
            self.close_ready()
            return False
        self.deaths_without_ready += 1
        if not self.was_ready and self.deaths_without_ready >= len(RESTART_DELAYS_SECONDS):
            log("ERROR", f"the node did not start ({ended})")
            self.close_ready()
            return False
        # A ready node that somebody killed has no fault that waiting would mend.
        failed = not self.is_ready or code != -signal.SIGKILL
        lived = time.monotonic() - self.started_at
        self.short_lives = self.short_lives + 1 if failed and lived < SHORT_LIFE_SECONDS else 0
        if HOPELESS_DEATHS in (self.deaths_without_ready, self.short_lives):
            log("ERROR", "no node starts any more: readers that wait for one get errors")
            for key in list(self.descriptors):
                self.drop(key)
        delay = RESTART_DELAYS_SECONDS[min(self.short_lives, len(RESTART_DELAYS_SECONDS) - 1)]
        log("WARNING", f"the node ended ({ended}); starting the next one in {delay:g} s")
        time.sleep(delay)
        self.start_node()
        if self.stopping:
            # The last one died before it had taken its mounts away.
            self.kill(signal.SIGTERM)
        return True

    def close_ready(self) -> None:
        if self.ready_descriptor is not None:
            os.close(self.ready_descriptor)
            self.ready_descriptor = None


def progress_of(process: int) -> tuple[str, ...]:
    """What grows while a process runs: page faults that had to wait for a disk, and time on a
    processor. The same twice: it stood still."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            # After the name, which may hold anything, come the fields from the third on (proc(5)).
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ()
    return fields[9], fields[11], fields[12]


def lock(path: str) -> int | None:
    """The lock that makes this the only keeper of its home, or None where one lives already."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, b"%d\n" % os.getpid())
    return descriptor


def main(arguments: list[str]) -> int:
    lock_path, ready_descriptor = arguments[0], int(arguments[1])
    os.set_inheritable(ready_descriptor, False)
    # What the caller had open besides (locks, pipes that somebody reads to their end) is not to be
    # held for as long as the node lives.
    os.closerange(ready_descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    # The parent waits for this first process; the keeper proper is init's child, nobody's zombie.
    if os.fork() != 0:
        return 0
    os.chdir("/")
    keeper = Keeper(ready_descriptor)
    held = lock(lock_path)
    if held is None:
        keeper.report(
            {
                "error": {
                    "code": "ATL2008",
                    "reason": "Temporary",
                    "exitCode": 5,
                    "message": "a keeper of this node is still running",
                    "cause": "it does not answer; one that is ending has gone in a moment",
                    "try": "atlasctl node stop",
                }
            }
        )
        return 1
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
