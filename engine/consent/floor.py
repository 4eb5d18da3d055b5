"""What the law denies to whom and where, as one process knows it."""

from collections.abc import Iterable

from engine.consent.law import Laws
from geofences.fence import Fence


class Floor:
    """The laws, and the residents and fences to which they apply.

    Args:
        laws: that are switched on.
    """

    def __init__(self, laws: Laws) -> None:
        self.laws = laws
        self._ages: dict[str, str] = {}
        """Age bands, of the residents who have one."""
        self.forbidden: dict[str, str] = {}
        """Fence at which no offer may be made -> the rule."""

    def age(self, resident: str) -> str | None:
        """A resident's age band; None: nobody told."""
        return self._ages.get(resident)

    def of(self, resident: str) -> int:
        """The lanes that are denied to a resident."""
        return self.laws.floor(self._ages.get(resident))

    def put_age(self, resident: str, age_band: str | None) -> int:
        """A resident's age band is another; the lanes that are denied to them now."""
        if age_band is None:
            self._ages.pop(resident, None)
        else:
            self._ages[resident] = age_band
        return self.of(resident)

    def drop(self, resident: str) -> None:
        """Forget a resident."""
        self._ages.pop(resident, None)

    def put_fences(self, fences: Iterable[Fence]) -> None:
        """Look whether fences, new or changed, are too near to a place of a law."""
        if not self.laws.has_places:
            return
        for fence in fences:
            self.forbidden.pop(fence.id, None)
            if code := self.laws.near(fence):
                self.forbidden[fence.id] = code

    def swap_fences(self, fences: Iterable[Fence]) -> None:
        """Likewise, where these are all that there are."""
        self.forbidden.clear()
        self.put_fences(fences)
