"""Where a node keeps its things, and every environment variable that Atlas reads.

A test compares `VARIABLES` with the table in docs/cli.md. Standard library only, and little of it:
the keeper and every start of the command line import this.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atlas.api.errors import INVALID, UNTRUSTED, AtlasError

SYSTEM_RUN: Final = Path("/run/atlas")
_SHARED_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: its name, what it does, and the version that brought it."""

    name: str
    meaning: str
    since: str


HOME: Final = Variable(
    "ATLAS_HOME",
    "A folder for the node's socket, state, logs and default tier folders, so that several nodes"
    " live on one machine. Without it root uses /run/atlas, /var/lib/atlas and /var/log/atlas,"
    " other users their XDG folders, or the system's node where there is one.",
    "0.1.0",
)
RUNTIME: Final = Variable(
    "XDG_RUNTIME_DIR", "A user's own node: socket and mounts under atlas/ in it.", "0.1.0"
)
STATE: Final = Variable(
    "XDG_STATE_HOME", "A user's own node: state and log under atlas/ in it.", "0.1.0"
)
CACHE: Final = Variable(
    "XDG_CACHE_HOME", "A user's own node: SSD and HDD tiers under atlas/ in it.", "0.1.0"
)
CONFIGURATION: Final = Variable(
    "XDG_CONFIG_HOME", "A user's own node: atlas/node.toml in it.", "0.1.0"
)
NO_COLOR: Final = Variable("NO_COLOR", "Any value but an empty one: print without colour.", "0.1.0")

VARIABLES: Final = (HOME, RUNTIME, STATE, CACHE, CONFIGURATION, NO_COLOR)


@dataclass(frozen=True, slots=True)
class Home:
    """All folders and files of one node. Pure names: nothing is created or looked at here.

    `memory_tier` and `live` lie on tmpfs: they must vanish with the machine's memory and survive
    the node. `state` and the tiers must be on local disks.
    """

    run: Path
    state: Path
    log: Path
    tiers: Path
    settings: Path
    shared_memory: Path

    @property
    def socket(self) -> Path:
        """The control API."""
        return self.run / "node.sock"

    @property
    def mounts(self) -> Path:
        """Each data set's own mount is the folder of its name in here."""
        return self.run / "mnt"

    @property
    def start_lock(self) -> Path:
        """Locked by whoever starts a node, so that two commands start one."""
        return self.run / "start.lock"

    @property
    def keeper_lock(self) -> Path:
        """Locked by the keeper as long as it lives."""
        return self.run / "keeper.lock"

    @property
    def node_lock(self) -> Path:
        """Locked by the node process as long as it lives, also after its keeper has died."""
        return self.run / "node.lock"

    @property
    def database(self) -> Path:
        return self.state / "atlas.db"

    @property
    def datasets(self) -> Path:
        """Tables of each data set, in the folder of its id."""
        return self.state / "datasets"

    @property
    def node_log(self) -> Path:
        return self.log / "node.log"

    @property
    def memory_tier(self) -> Path:
        """The default MEM tier."""
        return self.shared_memory / "mem"

    @property
    def live(self) -> Path:
        """The live bitmaps."""
        return self.shared_memory / "live"

    def tier(self, medium: str) -> Path:
        """The node's own tier folder on a medium ("MEM", "SSD" or "HDD")."""
        return self.memory_tier if medium == "MEM" else self.tiers / medium.lower()


def own_home(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Home:
    """The home of the node that this user would start.

    Raises AtlasError (Invalid) where ATLAS_HOME or an XDG variable is no absolute path.
    """
    user = os.geteuid() if uid is None else uid
    base = environment.get(HOME.name)
    if base:
        folder = _absolute(HOME.name, base)
        # Two spellings of one folder must give one tier: the name is made from the real path.
        real = Path(os.path.realpath(folder))
        digest = hashlib.blake2b(os.fsencode(real), digest_size=6).hexdigest()
        return Home(
            run=real / "run",
            state=real / "state",
            log=real / "log",
            tiers=real / "tiers",
            settings=real / "node.toml",
            shared_memory=_SHARED_MEMORY / f"atlas-{user}-{digest}",
        )
    shared_memory = _SHARED_MEMORY / f"atlas-{user}"
    if user == 0:
        return Home(
            run=SYSTEM_RUN,
            state=Path("/var/lib/atlas"),
            log=Path("/var/log/atlas"),
            tiers=Path("/var/lib/atlas/tiers"),
            settings=Path("/etc/atlas/node.toml"),
            shared_memory=shared_memory,
        )
    state = _xdg(environment, STATE, ".local/state")
    runtime = environment.get(RUNTIME.name)
    return Home(
        run=_absolute(RUNTIME.name, runtime) / "atlas" if runtime else state / "run",
        state=state,
        log=state / "log",
        tiers=_xdg(environment, CACHE, ".cache") / "tiers",
        settings=_xdg(environment, CONFIGURATION, ".config") / "node.toml",
        shared_memory=shared_memory,
    )


def client_home(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Home:
    """The home of the node that this user talks to: the system's, where root runs one.

    ATLAS_HOME always wins; the system's socket counts only if root owns it.
    """
    user = os.geteuid() if uid is None else uid
    if user != 0 and not environment.get(HOME.name):
        system = own_home({}, uid=0)
        try:
            status = system.socket.lstat()
        except OSError:
            pass
        else:
            if stat.S_ISSOCK(status.st_mode) and status.st_uid == 0:
                return system
    return own_home(environment, user)


def prepare(home: Home) -> None:
    """Creates the home's folders for a node about to start.

    `run` is open to all users, who reach the socket and the mounts through it; all else is 0700.
    Raises AtlasError (UntrustedNode) for a folder that is a link or belongs to somebody else.
    """
    own_folder(home.run, 0o755)
    own_folder(home.mounts, 0o755)
    for folder in (
        home.state, home.datasets, home.log, home.tiers, home.shared_memory, home.live,
    ):  # fmt: skip
        own_folder(folder, 0o700)


def own_folder(folder: Path, mode: int) -> None:
    """Creates `folder` (and what is above it) or checks that it is this user's own, with `mode`.

    Another user may have made a folder of that name in /dev/shm: a link, or a folder that is not
    ours, is refused with AtlasError (UntrustedNode).
    """
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=mode)
    descriptor = _open_own(folder)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise AtlasError(UNTRUSTED, f"{folder} belongs to uid {status.st_uid}")
        if stat.S_IMODE(status.st_mode) != mode:  # also what the umask took away
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _open_own(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise AtlasError(
            UNTRUSTED, f"{folder} is not a folder of this user", error.strerror
        ) from error


def _absolute(variable: str, value: str) -> Path:
    if not os.path.isabs(value):
        raise AtlasError(INVALID, f"{variable} must be an absolute path")
    return Path(value)


def _xdg(environment: Mapping[str, str], variable: Variable, fallback: str) -> Path:
    value = environment.get(variable.name)
    if value:
        return _absolute(variable.name, value) / "atlas"
    home = environment.get("HOME")
    if not home:
        raise AtlasError(INVALID, f"neither {variable.name} nor HOME is set")
    return _absolute("HOME", home) / fallback / "atlas"
