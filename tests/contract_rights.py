"""What every store must do where residents ask what it holds on them, and that it forgets it."""

from engine.residents import ResidentSettings
from engine.store.port import Redemption, Store
from engine.store.rights import HeldClaim
from tests.contract_store import NOW_MS, both, claim, claims, recall


class RightsContract:
    """The part of the contract about them; `store` is open and empty."""

    async def test_claims_come_newest_first_and_in_pages(self, store: Store) -> None:
        await store.create_residents({"ann": ResidentSettings(), "bob": ResidentSettings()})
        made = [
            claim("a", made_ms=NOW_MS),
            claim("c", made_ms=NOW_MS + 1, before=1),
            claim("b", made_ms=NOW_MS + 1, before=2),
        ]
        await store.commit(claims(*made, claim("other", "bob")))
        await store.commit(both(recall("a")))
        await store.redeem(Redemption(id="x", claim="b", offer="latte", brand="cafe", at_ms=NOW_MS))

        all_of_them = await store.claims_of("ann", limit=9)
        first = await store.claims_of("ann", limit=2)
        rest = await store.claims_of("ann", before=(NOW_MS + 1, "b"), limit=2)

        assert [held.row.made.claim for held in all_of_them] == ["c", "b", "a"]
        assert first + rest == all_of_them
        assert [(held.state, held.recall_reason) for held in all_of_them] == [
            ("made", None),
            ("made", None),
            ("recalled", "consent_withdrawn"),
        ]
        redeemed = all_of_them[1]
        assert redeemed == HeldClaim(
            row=redeemed.row, state="made", redemption="x", redeemed_ms=NOW_MS, till=None
        )
        assert await store.claims_of("nobody", limit=9) == []
