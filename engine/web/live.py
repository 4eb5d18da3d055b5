"""Writes that are live by the time they are answered.

What a resident or a key may do is live in every process then: see `store.everywhere`.
"""

import contextlib
from collections.abc import Awaitable, Iterator
from time import perf_counter

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


async def in_force(ctx: Context, write: Awaitable[int | None], *, narrows: bool) -> int | None:
    """Write what a resident says, and wait until no process acts without it.

    Args:
        ctx: the service's parts.
        write: gives the number of the change feed; None: nothing was written.
        narrows: whether something is less allowed than before, so that the time is counted.

    Raises:
        StoreUnavailable: nobody knows whether it is in force.
    """
    began_s = perf_counter()
    number = await write
    if number is not None:
        await ctx.everywhere.reached(number)
        if narrows:
            ctx.metrics.revoke_s.observe(perf_counter() - began_s)
    return number


@contextlib.contextmanager
def or_not_in_force() -> Iterator[None]:
    """Tell a resident's device that what it says must be said again, because nobody may know it.

    Raises:
        Refused: `not_in_force`, where the store did not answer or took too long.
    """
    try:
        yield
    except StoreUnavailable:
        raise Refused("not_in_force") from None


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
