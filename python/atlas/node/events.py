"""What happened to data sets: the engine's events and the node's own, kept bounded."""

import logging
import threading
import time
from typing import Final, Literal

from atlas.api.errors import AtlasError
from atlas.api.units import printable
from atlas.node.database import Database
from atlas.node.native import Engine

logger = logging.getLogger("atlas.node.events")

_LONGEST_MESSAGE: Final = 1000


class Events:
    """Writes events where `atlasctl cache events` reads them."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine
        self._draining = threading.Lock()

    def record(
        self, dataset: str, kind: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """An event of the data set with the id `dataset`, now."""
        text = printable(message)[:_LONGEST_MESSAGE]
        logger.info("data set %s: %s: %s", dataset, reason, text)
        self._keep([(dataset, time.time(), kind, reason, text)])

    def drain(self) -> None:
        """Keeps what the engine has to tell since the last call."""
        with self._draining:
            events = self._engine.events()
            if events:
                self._keep(
                    [
                        (
                            event["dataset"],
                            event["time"],
                            event["type"],
                            event["reason"],
                            event["message"][:_LONGEST_MESSAGE],
                        )
                        for event in events
                    ]
                )

    def _keep(self, events: list[tuple[str, float, str, str, str]]) -> None:
        try:
            self._database.add_events(events)
        except AtlasError as error:
            # What was done is done; a disk that has no room to tell of it must not undo it.
            logger.error("%d events are lost: %s", len(events), error)
