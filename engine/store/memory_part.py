"""What the parts of the store in memory have in common: one state, and one door to it."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.store.shared import Shared


class MemoryPart(ABC):
    """A part of the store in memory; `memory.MemoryStore` puts them together."""

    @abstractmethod
    def _open_shared(self) -> "Shared":
        """The state, if the store is there to answer. Raises StoreUnavailable."""
