"""What protects residents, and the texts of notices, on PostgreSQL."""

from typing import Final

import asyncpg
import msgspec

from engine.consent.notices import NoticeText
from engine.consent.protection import Protection
from engine.store import rows
from engine.store.audit import Author
from engine.store.guards import NoticeThere, ProtectionRow
from engine.store.port import VersionMoved
from engine.store.postgres_window import PostgresWindow

_protection: Final = msgspec.json.Decoder(Protection)


class PostgresGuards(PostgresWindow):
    """The part of the store on PostgreSQL that keeps them; see `guards.GuardStore`."""

    async def read_protections(
        self, residents: list[str], *, ahead: bool = False
    ) -> list[ProtectionRow]:
        """Those of the residents that have something, by id."""
        found = await self._wire.fetch("read_protections", residents, ahead=ahead)
        return [protection_row(row) for row in found]

    async def put_protection(
        self,
        resident: str,
        protection: Protection,
        *,
        version_before: int,
        by: Author | None = None,
    ) -> int | None:
        """Replace what protects a resident."""
        body = msgspec.json.encode(protection)
        row = await self._wire.row("put_protection", resident, version_before, body, rows.who(by))
        number: int | None = row["number"]
        if number is None and row["version_found"] is not None:
            raise VersionMoved(row["version_found"])
        return number

    async def put_notice(self, notice: NoticeText, *, by: Author | None = None) -> bool:
        """Keep the text of a notice."""
        row = await self._wire.row(
            "put_notice",
            notice.id,
            notice.version,
            notice.locale,
            notice.text_hash,
            notice.at_ms,
            notice.text,
            rows.who(by),
        )
        if row["hash_kept"] != notice.text_hash:
            raise NoticeThere
        made: bool = row["made"]
        return made

    async def read_notice(self, id_: str, version: str, locale: str) -> NoticeText | None:
        """The text of a notice."""
        for row in await self._wire.fetch("read_notice", id_, version, locale):
            return _notice(row, row["text"])
        return None

    async def list_notices(self, id_: str | None, *, limit: int) -> list[NoticeText]:
        """Notices of an id, or all, newest first; without their texts."""
        return [_notice(row, "") for row in await self._wire.fetch("list_notices", id_, limit)]


def protection_row(row: asyncpg.Record) -> ProtectionRow:
    """What protects a resident."""
    return ProtectionRow(
        resident=row["resident"],
        protection=_protection.decode(row["body"]),
        version=row["version"],
    )


def _notice(row: asyncpg.Record, text: str) -> NoticeText:
    return NoticeText(
        id=row["id"],
        version=row["version"],
        locale=row["locale"],
        text_hash=row["hash"],
        at_ms=row["at_ms"],
        text=text,
    )
