"""`passby explain`: why an offer was made, and why every other candidate was not."""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from engine.app import OPERATOR_KEY_FILE
from engine.commands.database import opened_store
from engine.commands.terminal import DONE, WorkFailed, add_data
from engine.config import Config
from engine.decision import WITHHELD
from engine.store.port import KeyRow
from engine.web.decisions import Why, view

ANSWER_S: Final = 10.0
_US: Final = KeyRow(id="", hash="", role="operator", name="explain", created_ms=0)


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("explain", help="why an offer was made, and others were not")
    parser.add_argument("id", help="of a claim, or of the decision that made it")
    parser.add_argument("--url", help="ask a service, with the operator's key, not the database")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    add_data(parser)
    parser.set_defaults(run=_explain)


async def _explain(config: Config, arguments: argparse.Namespace) -> int:
    """Print the ladder of one claim."""
    if arguments.url:
        why = await _asked(config, arguments.url.rstrip("/"), arguments.id)
    else:
        why = await _read(config, arguments.id)
    if why is None:
        raise WorkFailed(
            f"there is no claim {arguments.id}, and no decision of that id made one: only "
            "decisions with an offer are kept"
        )
    if arguments.json:
        print(msgspec.json.encode(why).decode())
    else:
        print("\n".join(lines(why)))
    return DONE


async def _read(config: Config, claim: str) -> Why | None:
    """Look into the store."""
    async with opened_store(config) as store:
        found = await store.claim_by_id(claim)
    return None if found is None else view(_US, found)


async def _asked(config: Config, url: str, claim: str) -> Why | None:
    """Ask a running service."""
    path = config.data / OPERATOR_KEY_FILE
    key = config.operator_key or path.read_text(encoding="utf-8").strip()
    headers = {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{url}/v1/decisions/{quote(claim, safe='')}/why") as answer,
        ):
            raw = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise WorkFailed(f"{url} does not answer: {type(error).__name__}") from None
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise WorkFailed(f"{url} answered {answer.status}: see that the operator's key is its own")
    return msgspec.json.decode(raw, type=Why)


def lines(why: Why) -> Iterator[str]:
    """The ladder for a person to read."""
    state = "redeemed" if why.redeemed else why.state
    if why.recall_reason is not None:
        state = f"{state}: {WITHHELD.get(why.recall_reason, why.recall_reason)}"
    yield f"claim     {why.claim}"
    yield f"decision  {why.decision}"
    yield f"offer     {why.offer} of {why.brand}"
    yield f"made      {_time(why.made_ms)}, until {_time(why.expires_at_ms)}"
    yield f"state     {state}"
    yield f"allowed   by {', '.join(why.allowed_by)}; preferences version {why.consent_version}"
    yield ""
    for gate in why.candidates:
        told = "made" if gate.withheld is None else f"not made: {gate.withheld}"
        if gate.because is not None:
            told += f" ({gate.because})"
        yield f"{gate.trigger:<6} {gate.fence:<20} {gate.offer:<20} {gate.brand:<16} {told}"
        if gate.withheld is not None and (words := WITHHELD.get(gate.withheld)):
            yield f"       {words}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
