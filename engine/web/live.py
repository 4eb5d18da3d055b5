"""Writes that are live in this process by the time they are answered."""

from engine.store.port import StoreUnavailable
from engine.web.context import Context
from engine.web.problem import Refused


async def live(ctx: Context, number: int, *, timeout_s: float = 5.0) -> None:
    """Wait until this process has followed the change feed up to a number; 0: nothing to wait for.

    Raises:
        Refused: `not_live`, when it takes too long; what was written stays written.
    """
    if not number:
        return
    try:
        await ctx.feed.reached(number, timeout_s=timeout_s)
    except StoreUnavailable:
        raise Refused("not_live") from None


async def live_in_city(ctx: Context, number: int, *, timeout_s: float = 5.0) -> None:
    """The same for brands, fences and offers, which may have to wait for an import before them."""
    if not number:
        return
    try:
        await ctx.feed.settled(number, timeout_s=timeout_s)
    except StoreUnavailable:
        raise Refused("not_live") from None


def etag(version: int) -> str:
    """A version as an ETag."""
    return f'"{version}"'
