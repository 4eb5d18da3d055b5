"""Forgetting what is too old, on PostgreSQL."""

from engine.store.kept import KEPT_MS
from engine.store.pruning import ROWS_MAX, Pruned
from engine.store.wire import Wire


class PostgresPruning:
    """The part of the store on PostgreSQL that forgets; see `pruning.PruneStore`."""

    _wire: Wire

    async def prune(
        self,
        *,
        now_ms: int,
        changes_ms: int,
        audit_ms: int | None,
        rows_max: int = ROWS_MAX,
    ) -> Pruned | None:
        """Forget some of it, in one short transaction."""
        audit_before_ms = 0 if audit_ms is None else now_ms - audit_ms
        row = dict(
            await self._wire.row("prune", changes_ms, audit_before_ms, now_ms - KEPT_MS, rows_max)
        )
        return None if row.pop("busy") else Pruned(**row)
