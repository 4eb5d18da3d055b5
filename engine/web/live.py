"""Writes that are live by the time they are answered.

What a resident or a key may do is live in every process then: see `store.everywhere`.
"""

from engine.store.port import StoreUnavailable
from engine.web.context import Context
from engine.web.problem import Refused


async def live(ctx: Context, number: int, *, timeout_s: float = 5.0) -> None:
    """Wait until no process acts without a line of the change feed; 0: nothing to wait for.

    Raises:
        Refused: `not_live`, when it takes too long; what was written stays written.
    """
    if not number:
        return
    try:
        await ctx.everywhere.reached(number, timeout_s=timeout_s)
    except StoreUnavailable:
        raise Refused("not_live") from None


async def live_in_city(ctx: Context, number: int, *, timeout_s: float = 5.0) -> None:
    """Wait until brands, fences and offers are live in this process, after any import before them.

    Raises:
        Refused: as `live`.
    """
    if not number:
        return
    try:
        await ctx.feed.settled(number, timeout_s=timeout_s)
    except StoreUnavailable:
        raise Refused("not_live") from None


def etag(version: int) -> str:
    """A version as an ETag."""
    return f'"{version}"'
