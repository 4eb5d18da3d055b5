"""What protects residents, and the texts of the notices that they are shown, as they are kept."""

from typing import Protocol

import msgspec

from engine.consent.notices import NoticeText
from engine.consent.protection import UNPROTECTED, Protection
from engine.store.audit import Author


class ProtectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What protects a resident whatever they grant."""

    resident: str
    protection: Protection = UNPROTECTED
    version: int = 0
    """From 1; 0: there is nothing."""


class GuardStore(Protocol):
    """The part of the store that keeps them."""

    async def read_protections(
        self, residents: list[str], *, ahead: bool = False
    ) -> list[ProtectionRow]:
        """Those of the residents that have something, by id; `ahead` as for `read_residents`."""

    async def put_protection(
        self,
        resident: str,
        protection: Protection,
        *,
        version_before: int,
        by: Author | None = None,
    ) -> int | None:
        """Replace what protects a resident; its version becomes the next one.

        Returns:
            The feed's number, or None if there is no such resident.

        Raises:
            VersionMoved: the version is not `version_before`.
        """

    async def put_notice(self, notice: NoticeText, *, by: Author | None = None) -> bool:
        """Keep the text of a notice; False: this very text is there already.

        Raises:
            NoticeThere: there is another text of that id, version and locale.
        """

    async def read_notice(self, id_: str, version: str, locale: str) -> NoticeText | None:
        """The text of a notice."""

    async def list_notices(self, id_: str | None, *, limit: int) -> list[NoticeText]:
        """Notices of an id, or all, newest first; without their texts."""


class NoticeThere(Exception):
    """There is another text of that id, version and locale, and what was shown never changes."""
