"""Follow what the resident says on other devices, and act on it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import aiohttp

from engine.client.choices import CEILING_MS, ME, Preferences
from engine.client.client import Client, now_ms
from engine.client.errors import NotSaid, Stopped
from engine.client.heard import Heard
from engine.client.reply import Problem, Reply
from engine.client.retry import Retry

GONE = frozenset({"unauthenticated", "wrong_role", "foreign_resident", "unknown_resident"})
"""Refusals after which asking again is of no use."""


async def follow(client: Client, on_settings: Callable[[Preferences], None] | None = None) -> None:
    """Act on each change of the settings, whoever made it, until cancelled.

    An "off" of another device holds here within a second: no fix is taken, and those that wait are
    dropped. An "on" holds when the app has shown it and read `client.preferences()`, which alone
    moves the version that a "yes" rests on.

    Args:
        client: a resident's; it is open.
        on_settings: told the settings of each change, and once at the beginning.

    Raises:
        Stopped: the key is no good any more.
    """
    retry = Retry(ceiling_ms=CEILING_MS)
    while True:
        try:
            async for _ in versions(client):
                latest = await client.latest()
                retry.succeeded(now_ms(), asked_ms=0)
                client.hear(latest)
                if on_settings is not None:
                    on_settings(latest)
        except NotSaid as refused:
            _check(refused.problem)
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        retry.failed(now_ms(), chance=random.random(), asked_ms=0)
        await asyncio.sleep(max(0, retry.not_before_ms - now_ms()) / 1_000)


async def versions(client: Client) -> AsyncIterator[int]:
    """The version of the settings that there is, and each new one, until the stream ends.

    Raises:
        NotSaid: the service refused.
        aiohttp.ClientError: it can't be reached, or the stream broke off.
    """
    async with client.open(f"{ME}/preferences/stream") as answer:
        if answer.status != HTTPStatus.OK:
            raise NotSaid(Reply(answer.status, {}, await answer.read()).problem())
        heard = Heard()
        async for part in answer.content.iter_any():
            for version in heard.feed(part):
                yield version


def _check(problem: Problem) -> None:
    """Give up where the resident or the key is gone."""
    if problem.code in GONE:
        raise Stopped(f"{problem.code}: {problem.detail}")
