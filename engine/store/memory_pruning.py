"""Forgetting what is too old, in memory."""

from typing import TYPE_CHECKING

from engine.store.kept import KEPT_MS
from engine.store.memory_part import MemoryPart
from engine.store.memory_window import store_ms
from engine.store.pruning import ROWS_MAX, Pruned

if TYPE_CHECKING:
    from engine.store.shared import Shared


class MemoryPruning(MemoryPart):
    """The part of the store in memory that forgets; see `pruning.PruneStore`."""

    async def prune(
        self,
        *,
        now_ms: int,
        changes_ms: int,
        audit_ms: int | None,
        rows_max: int = ROWS_MAX,
    ) -> Pruned | None:
        """Forget some of it."""
        shared = self._open_shared()
        changes = _old_lines(shared, store_ms() - changes_ms, rows_max)
        for line in shared.feed[:changes]:
            shared.fed_ms.pop(line.number, None)
        del shared.feed[:changes]
        told = {line.id for line in shared.feed if line.kind == "batch"}
        batches = [batch for batch in shared.batches if batch not in told][:rows_max]
        for batch in batches:
            del shared.batches[batch]
        before_ms = 0 if audit_ms is None else now_ms - audit_ms
        old = [entry for entry in shared.entries if entry.author.at_ms < before_ms]
        old = sorted(old, key=lambda entry: entry.author.at_ms)[:rows_max]
        gone = {entry.number for entry in old}
        shared.entries[:] = [entry for entry in shared.entries if entry.number not in gone]
        over = [at for at, kept in shared.calls.items() if kept.at_ms <= now_ms - KEPT_MS]
        for at in over[:rows_max]:
            del shared.calls[at]
        return Pruned(
            changes=changes,
            batches=len(batches),
            entries=len(gone),
            calls=len(over[:rows_max]),
        )


def _old_lines(shared: "Shared", before_ms: int, most: int) -> int:
    """How many lines from the old end are followed by one that is old too."""
    old = 0
    for line in shared.feed[: most + 1]:
        if shared.fed_ms.get(line.number, 0) >= before_ms:
            break
        old += 1
    return max(0, old - 1)
