"""What protects residents, and the texts of notices, in memory."""

import msgspec

from engine.consent.notices import NoticeText
from engine.consent.protection import Protection
from engine.store.audit import Author
from engine.store.guards import NoticeThere, ProtectionRow
from engine.store.memory_part import MemoryPart
from engine.store.port import VersionMoved


class MemoryGuards(MemoryPart):
    """The part of a store in memory that keeps them; see `guards.GuardStore`."""

    async def read_protections(
        self, residents: list[str], *, ahead: bool = False
    ) -> list[ProtectionRow]:
        """Those of the residents that have something, by id."""
        del ahead
        kept = self._open_shared().protections
        return [kept[resident] for resident in sorted(set(residents)) if resident in kept]

    async def put_protection(
        self,
        resident: str,
        protection: Protection,
        *,
        version_before: int,
        by: Author | None = None,
    ) -> int | None:
        """Replace what protects a resident."""
        shared = self._open_shared()
        if resident not in shared.residents:
            return None
        old = shared.protections.get(resident)
        version = 0 if old is None else old.version
        if version != version_before:
            raise VersionMoved(version)
        shared.protections[resident] = ProtectionRow(
            resident=resident, protection=protection, version=version + 1
        )
        outcome = "updated" if version else "created"
        shared.note(by, "protection", resident, None, version + 1, outcome)
        return shared.append("protection", [resident])

    async def put_notice(self, notice: NoticeText, *, by: Author | None = None) -> bool:
        """Keep the text of a notice."""
        shared = self._open_shared()
        name = (notice.id, notice.version, notice.locale)
        kept = shared.notices.setdefault(name, notice)
        if kept.text_hash != notice.text_hash:
            raise NoticeThere
        if kept is notice:
            shared.note(by, "notice", notice.id, None, 0, "created")
        return kept is notice

    async def read_notice(self, id_: str, version: str, locale: str) -> NoticeText | None:
        """The text of a notice."""
        return self._open_shared().notices.get((id_, version, locale))

    async def list_notices(self, id_: str | None, *, limit: int) -> list[NoticeText]:
        """Notices of an id, or all, newest first; without their texts."""
        kept = self._open_shared().notices
        found = [kept[name] for name in sorted(kept) if id_ is None or name[0] == id_]
        found.sort(key=lambda notice: -notice.at_ms)
        return [msgspec.structs.replace(notice, text="") for notice in found[:limit]]
