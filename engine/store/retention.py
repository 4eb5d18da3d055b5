"""How long things about residents are kept, and the job that sees to it.

Each process runs the job, and of all on one database one works at a time.
"""

import asyncio
from collections.abc import Callable

from engine.store.port import StoreUnavailable
from engine.store.rights import ROWS_MAX, RightsStore

EVERY_S = 60.0


class Retention:
    """The job.

    Args:
        store: forgets.
        presence_ms: how long it is kept in which fences a resident was last seen.
        claims_ms: how long a claim is known to be its resident's.
        clock_ms: Unix milliseconds.

    Attributes:
        presences, claims: how many this process had forgotten since it started.
    """

    def __init__(
        self, store: RightsStore, *, presence_ms: int, claims_ms: int, clock_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._presence_ms = presence_ms
        self._claims_ms = claims_ms
        self._clock_ms = clock_ms
        self.presences = 0
        self.claims = 0

    async def retain(self) -> None:
        """Forget all that is too old now, unless another process is at it.

        Raises:
            StoreUnavailable
        """
        more = True
        while more:
            now_ms = self._clock_ms()
            done = await self._store.retain(
                presence_before_ms=now_ms - self._presence_ms,
                claims_before_ms=now_ms - self._claims_ms,
            )
            if done is None:
                return
            self.presences += done.presences
            self.claims += done.claims
            more = max(done.presences, done.claims) >= ROWS_MAX

    async def run(self) -> None:
        """Do so every minute, for ever; a store that is away is asked again then."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.retain()
            except StoreUnavailable:
                continue
