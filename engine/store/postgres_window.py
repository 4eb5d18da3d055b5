"""The window of events on PostgreSQL."""

import asyncpg

from engine.store.window import EventPage, EventRow, EventsLost
from engine.store.wire import Wire


class PostgresWindow:
    """The part of the store on PostgreSQL that keeps the window; see `window.EventStore`."""

    _wire: Wire

    async def number_events(self) -> int:
        """Give numbers to the events that were committed without."""
        number: int = (await self._wire.row("number_events"))["number"]
        return number

    async def events_after(
        self,
        number: int,
        *,
        brands: list[str] | None = None,
        resident: str | None = None,
        limit: int = 1_000,
    ) -> EventPage:
        """The next events that have numbers, and the window's ends as of the same instant."""
        found = await self._wire.fetch("events_after", number, brands, resident, limit)
        newest, pruned = found[0]["newest"], found[0]["pruned"]
        if not pruned <= number <= newest:
            raise EventsLost(pruned if number < pruned else newest)
        events = tuple(_event(row) for row in found if row["number"] is not None)
        return EventPage(events, newest if len(events) < limit else events[-1].number, newest)

    async def wait_for_events(self, timeout_s: float) -> None:
        """Wait for a commit of ours or a notification."""
        await self._wire.wait_for_events(timeout_s)

    async def prune_events(self, *, age_max_ms: int, events_max: int) -> int:
        """Forget some of the oldest events."""
        events: int = (await self._wire.row("prune_events", age_max_ms, events_max))["events"]
        return events


def _event(row: asyncpg.Record) -> EventRow:
    return EventRow(**{name: row[name] for name in EventRow.__struct_fields__})
