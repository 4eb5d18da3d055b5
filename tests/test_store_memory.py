"""The store in memory keeps the contract of every store."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from engine.store.memory import MemoryStore
from tests.contract_administration import AdministrationContract
from tests.contract_guards import GuardContract
from tests.contract_nodes import NodeContract
from tests.contract_outage import OutageContract
from tests.contract_pruning import PruningContract
from tests.contract_rights import RightsContract
from tests.contract_store import Outage, StoreContract
from tests.contract_window import WindowContract


class TestMemoryStore(
    StoreContract,
    RightsContract,
    AdministrationContract,
    OutageContract,
    PruningContract,
    WindowContract,
    GuardContract,
    NodeContract,
):
    """Two stores that share one state."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryStore]:
        store = MemoryStore()
        await store.open()
        yield store
        await store.close()

    @pytest.fixture
    async def other(self, store: MemoryStore) -> AsyncIterator[MemoryStore]:
        other = MemoryStore(store.shared)
        await other.open()
        yield other
        await other.close()

    @pytest.fixture
    def outage(self, store: MemoryStore) -> Outage:
        async def begin() -> None:
            store.available = False

        async def end() -> None:
            store.available = True

        return Outage(begin, end)

    @pytest.fixture
    def prune(self, store: MemoryStore) -> Callable[[int], Awaitable[None]]:
        async def prune(up_to: int) -> None:
            del store.shared.feed[:up_to]

        return prune


async def test_an_unavailable_store_does_not_open() -> None:
    store = MemoryStore()
    store.available = False

    with pytest.raises(Exception, match="switched off"):
        await store.open()
