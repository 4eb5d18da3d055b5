"""`passby keys`: list, make and delete keys, for when no key is at hand."""

import argparse
from typing import Any

from engine.app import clock_ms
from engine.commands.database import opened_store
from engine.commands.terminal import DONE, WorkFailed, add_data, say
from engine.config import Config
from engine.store.audit import Author
from engine.store.port import KeyRow, Store
from engine.web.auth import key_hash, new_id, new_key


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("keys", help="list, make and delete keys")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="make a key; it is shown once")
    make.add_argument(
        "--role", required=True, choices=("operator", "merchant", "sender", "resident")
    )
    make.add_argument("--name", required=True, help="what it is for")
    make.add_argument("--brand", action="append", help="a merchant's brand; may be repeated")
    make.add_argument("--resident", help="a resident key's resident")
    delete = actions.add_parser("delete", help="delete a key")
    delete.add_argument("id")
    for action in (make, delete, actions.add_parser("list", help="list keys")):
        add_data(action)
        action.set_defaults(run=_keys)


async def _keys(config: Config, arguments: argparse.Namespace) -> int:
    async with opened_store(config) as store:
        if arguments.action == "make":
            return await _make_key(store, arguments)
        if arguments.action == "delete":
            if await store.delete_key(arguments.id, by=_author("delete")) is None:
                raise WorkFailed(f"there is no key {arguments.id}; see passby keys list")
            say(f"key {arguments.id} deleted")
            return DONE
        keys = (await store.snapshot(now_ms=clock_ms())).keys
    for key in sorted(keys, key=lambda key: key.created_ms):
        whose = ",".join(key.brands) or key.resident or key.purchaser or ""
        print(f"{key.id:<22} {key.role:<10} {key.name:<24} {whose}")
    return DONE


async def _make_key(store: Store, arguments: argparse.Namespace) -> int:
    text = new_key(arguments.role)
    row = KeyRow(
        id=new_id("k"),
        hash=key_hash(text),
        role=arguments.role,
        name=arguments.name,
        created_ms=clock_ms(),
        brands=tuple(arguments.brand or ()),
        resident=arguments.resident,
    )
    if (row.role == "merchant") != bool(row.brands) or (row.role == "resident") != bool(
        row.resident
    ):
        raise WorkFailed("a merchant key needs --brand, a resident key --resident; others neither")
    await store.put_key(row, by=_author("make"))
    say(f"key {row.id} made; it is shown this once:")
    print(text)
    return DONE


def _author(action: str) -> Author:
    """Whoever works at the host, for the audit log."""
    command = f"passby keys {action}"
    return Author(at_ms=clock_ms(), key="", name="passby", role="host", action=command)
