"""Why, in one line: the rule, the record or the lane that decided against each candidate."""

from typing import Any, Final

import msgspec
import pytest

from engine.consent.because import because, rules_of
from engine.consent.floor import Floor
from engine.consent.index import PreferenceIndex
from engine.consent.lanes import lane
from engine.consent.law import Laws, Pack, Rule
from engine.consent.protection import Protection
from engine.consent.record import Scope, record_id
from engine.consent.sync import marketing, opt_out_of_sale
from engine.offers.offer import Brand
from engine.pipeline import Engine
from engine.residents import ResidentSettings
from tests.strategies import KEY, NOON_MS, offer, ping, place, records_of

BRANDS: Final = (
    Brand(id="beans", name="Beans", categories=("food",)),
    Brand(id="tea", name="Tea", categories=("food",)),
    Brand(id="ink", name="Ink", categories=("books",)),
)
GRANT: Final = marketing(True)


def changed(**fields: Any) -> list[Any]:
    """Opting in, with something else about it."""
    return [msgspec.structs.replace(one, **fields) for one in marketing(True, ["beans"])]


def ladder(records: tuple[Any, ...], **offers: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of an engine with a shop of each brand at one place: offer -> withheld and why."""
    rule = Rule(code="books", source="a test", purposes=("research",), actions=("contact",))
    engine = Engine(secret=KEY, laws=Laws([Pack(id="t", title="t", rules=(rule,))]))
    for brand in BRANDS:
        engine.put_brand(brand)
    engine.put_fences([place(brand.id, brand=brand.id) for brand in BRANDS])
    engine.put_offer(offer("made", fences=("beans",)))
    for name, fields in offers.items():
        engine.put_offer(offer(name, **{"fences": (fields.get("brand", "beans"),), **fields}))
    engine.put_resident("ann", ResidentSettings(), 1, records, now_ms=NOON_MS)
    engine.put_protection("ann", Protection())
    (decision,) = engine.decide([ping()])
    assert decision.offer is not None, decision
    (claim,) = engine.take_changes().claims
    why = msgspec.json.decode(claim.why)
    return {one["offer"]: (one["withheld"], one["because"]) for one in why["candidates"]}


def test_each_candidate_says_what_decided() -> None:
    """A deny by its receipt, a lane that nobody granted, a window, a rule; or no consent at all."""
    records = records_of(
        GRANT,
        [msgspec.structs.replace(GRANT[1], scope=Scope(brand="tea"), effect="deny")],
        changed(purpose="loyalty", channels=("email",)),
    )
    told = ladder(
        records,
        denied={"brand": "tea"},
        ungranted={"purpose": "measurement"},
        elsewhere={"purpose": "loyalty"},
        unlawful={"purpose": "research"},
        paused={"status": "paused"},
        second={"priority": -1},
    )

    denies = sorted(record_id(r) for r in records if r.effect == "deny")
    assert told == {
        "made": (None, None),
        "denied": ("denied", f"you:{denies[0]}"),
        "ungranted": ("no_grant", "no_grant:measurement:use:precise_location"),
        "elsewhere": ("channel", "window"),
        "unlawful": ("law", "law:books"),
        "paused": ("not_live", None),
        "second": ("outranked", None),
    }


def test_the_first_lane_that_is_missing_is_named() -> None:
    """Use may be granted where contact is not; a category's deny counts for all its brands."""
    use, contact = GRANT
    no_books = msgspec.structs.replace(contact, effect="deny", scope=Scope(category="books"))
    records = records_of(GRANT, [msgspec.structs.replace(use, purpose="loyalty"), no_books])
    told = ladder(records, half={"purpose": "loyalty"}, books={"brand": "ink"})

    denied = [record_id(r) for r in records if r.effect == "deny"]
    assert told["half"] == ("no_grant", "no_grant:loyalty:contact:contact_point")
    assert told["books"] == ("denied", f"you:{denied[0]}")


@pytest.mark.parametrize("age", [None, "adult"])
def test_a_signal_is_named_as_law(age: str | None) -> None:
    """What a browser's signal denies is told as `law:gpc`, and stops no offer by itself."""
    signal = tuple(
        msgspec.structs.replace(r, actor="signal") for r in records_of(opt_out_of_sale())
    )
    floor = Floor(Laws())
    floor.put_age("ann", age)
    row = PreferenceIndex().put("ann", 1, signal, "UTC", now_ms=NOON_MS).row
    need = lane("loyalty", "share", "facility_use")

    reason = row.refusal(need, "beans")

    assert reason == "law"
    rules = rules_of(floor, "ann")
    line = because(reason, need, row, "beans", (), (), rules=rules, denies=lambda _: [])
    assert line == "law:gpc"
