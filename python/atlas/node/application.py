"""All parts of a node put together, and its orderly end."""

import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Final

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.models import Metadata, Node, NodeStatus
from atlas.api.version import VERSION
from atlas.node.caller import Caller
from atlas.node.capabilities import Capabilities
from atlas.node.database import Database
from atlas.node.datasets import Datasets, in_use
from atlas.node.descriptors import DescriptorStore
from atlas.node.events import Events
from atlas.node.front_maker import FrontMaker
from atlas.node.front_places import FrontPlaces
from atlas.node.fronts import Fronts
from atlas.node.lifecycle import Lifecycle
from atlas.node.loads import Loads
from atlas.node.mounting import Mounting
from atlas.node.native import Engine, System
from atlas.node.recovery import Recovery
from atlas.node.registry import Registry
from atlas.node.settings import Settings
from atlas.node.tiers import Tiers
from atlas.node.usage import Usage
from atlas.node.user_mounts import UserMounts
from atlas.node.views import Views

logger = logging.getLogger("atlas.node")

SWAP_SECONDS: Final = 5.0
"""How long a stop waits for whatever works on a data set."""
RESTORE_SECONDS: Final = 3.0
"""How long a start waits for its data sets; what takes longer is Pending meanwhile."""


class Application:
    """The node without its HTTP server. Construct, `start`, use the services, `shut_down`."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        system: System,
        engine: Engine,
        keeper: DescriptorStore,
    ) -> None:
        self._home = home
        self._system = system
        self._engine = engine
        self._keeper = keeper
        self._started = time.monotonic()
        self._stopping = threading.Lock()
        self._stopped = False
        boot = boot_id()
        self.database = Database(home.database, boot)
        # Superblocks and mounts of another boot are gone, and their names mean others now.
        self.database.remove_fronts_of_other_boots(boot)
        self._registry = registry = Registry()
        self._capabilities = Capabilities(system, home.state)
        self._mounting = Mounting(system, home)
        self.events = Events(self.database, engine)
        views = Views(self.database, engine, registry, self._mounting)
        usage = Usage(self.database, self._mounting)
        self._tiers = Tiers(home, settings, system, self.database, views.used_bytes)
        self.fronts = Fronts(
            home,
            system,
            engine,
            self.database,
            registry,
            self._mounting,
            FrontMaker(system, engine, keeper, self._mounting),
            FrontPlaces(self.database, registry, self._mounting, self.events, self._capabilities),
            self.events,
            self._capabilities,
            settings,
            boot,
        )
        self._lifecycle = Lifecycle(
            home,
            settings,
            system,
            engine,
            self.database,
            self._mounting,
            self._capabilities,
            self.fronts,
            self._tiers,
            self.events,
        )
        self.datasets = Datasets(
            home,
            system,
            engine,
            self.database,
            registry,
            self._mounting,
            self._tiers,
            self._lifecycle,
            self.fronts,
            views,
            usage,
            self.events,
        )
        self.mounts = UserMounts(
            self.database,
            registry,
            self._mounting,
            self._lifecycle,
            self.datasets,
            views,
            self.events,
        )
        self.loads = Loads(self.database, engine, registry, self.datasets, views, self.events)
        self._recovery = Recovery(
            self.database,
            keeper,
            registry,
            self._mounting,
            self._lifecycle,
            self.fronts,
            self.loads,
            self.events,
        )

    def start(self) -> None:
        """Serves what an earlier node served; returns when all is well, or after a while."""
        self.loads.start_watching()
        self._recovery.restore(RESTORE_SECONDS)

    def node(self) -> Node:
        """The node's own object. What the machine can do is tried at the first call."""
        return Node(
            metadata=Metadata(name=os.uname().nodename),
            status=NodeStatus(
                pid=os.getpid(),
                version=VERSION,
                uptime_seconds=round(time.monotonic() - self._started, 3),
                socket=str(self._home.socket),
                keeper=self._keeper.status(),
                capabilities=self._capabilities.all(),
                tiers=self._tiers.status(),
                limits=self._tiers.limits(),
                datasets=len(self.database.datasets()),
                uid=os.geteuid(),
                log=str(self._home.node_log),
                state=str(self._home.state),
            ),
        )

    def stop(self, caller: Caller, force: bool) -> None:
        """Takes all mounts away and stops serving; data sets, bytes and loads are kept. Without a
        data set nothing stays in memory.

        Raises AtlasError: Denied for anybody but root and the node's own user, InUse where a
        mount is in use and `force` is not given; all goes on then.
        """
        if caller.uid not in (0, os.geteuid()):
            raise AtlasError(errors.DENIED, "only root may stop this node")
        if not force:
            for row in self.database.datasets():
                holders = self.datasets.holders(caller, row)
                if holders:
                    raise in_use(row.name, holders, "atlasctl node stop --force")
                if row.phase == "releasing" and not self._lifecycle.has_ended(row):
                    raise AtlasError(
                        errors.IN_USE,
                        f"data set {row.name} is deleted, but still in use",
                        "programs have files of it open",
                        hint="atlasctl node stop --force",
                        unchanged="the node goes on",
                    )
                self.datasets.refuse_hidden_users(row, "atlasctl node stop --force")
        self.shut_down()

    def shut_down(self) -> None:
        """The end of `stop`, also for a signal: whoever uses a mount loses it. Once only."""
        with self._stopping:
            if self._stopped:
                return
            self._stopped = True
        self.loads.stop_watching()
        self._recovery.stop()
        self.events.drain()
        for row in self.database.datasets():
            try:
                # A swap that is under way must not attach what was just taken away; one that hangs
                # must not hold up the stop.
                with self._registry.try_hold(row.name, SWAP_SECONDS):
                    self._lifecycle.shut(row, keep_mounts=False)
            except Exception:
                # The others must be unmounted all the same.
                logger.exception("data set %s cannot be stopped", row.name)
        left = self.database.datasets()
        self.database.close()
        if not left:
            # The empty MEM tier and the folder of live bitmaps: the next node makes them anew.
            shutil.rmtree(self._home.shared_memory, ignore_errors=True)


def boot_id() -> str:
    """Names the machine's present run. Source: proc_sys_kernel(5)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
