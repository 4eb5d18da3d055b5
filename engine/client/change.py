"""One change of a resident's settings, and what it means for the phone before anybody answers."""

from typing import Final, Literal

import msgspec

LOCATION: Final = ("use", "precise_location")
CONTACT: Final = ("contact", "contact_point")


class Scope(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom a change is about: all, a category, or a brand."""

    all: bool = False
    category: str | None = None
    brand: str | None = None


class Week(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of some weekdays, Monday 1 to Sunday 7."""

    days: tuple[int, ...]
    from_hour: int
    to_hour: int


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A `grant`, a `withdraw` of grants, or a `deny`, as `PATCH .../preferences` takes it."""

    effect: Literal["grant", "deny", "withdraw"]
    purpose: str
    actions: tuple[str, ...]
    data: tuple[str, ...]
    scope: Scope
    channels: tuple[str, ...] | None = None
    week: tuple[Week, ...] | None = None
    places: tuple[str, ...] = ()
    expires_at: str | None = None
    """RFC 3339."""

    @property
    def widens(self) -> bool:
        """Whether it turns something on, and so rests on what the resident saw."""
        return self.effect == "grant"

    @property
    def of_location(self) -> bool:
        """Whether it decides if positions may be used for offers at all."""
        return self.scope.all and self._touches(*LOCATION)

    def silences(self, brand: str) -> bool:
        """Whether a brand's offers must not be shown any more, as far as a phone can tell.

        Which brands a category has only the service knows: until it has acknowledged, all of them
        are silent.
        """
        if self.widens or not (self._touches(*LOCATION) or self._touches(*CONTACT)):
            return False
        return self.scope.brand in (None, brand)

    def takes_back(self, granted: "Change") -> bool:
        """Whether some of a grant that waits is what this "no" is about."""
        return (
            not self.widens
            and self.purpose == granted.purpose
            and not set(self.actions).isdisjoint(granted.actions)
            and not set(self.data).isdisjoint(granted.data)
            and (self.scope.all or self.scope == granted.scope)
        )

    def _touches(self, action: str, kind: str) -> bool:
        return self.purpose == "offers" and action in self.actions and kind in self.data
