"""Why, in one line: which rule, record or lane decided a question of consent.

law:<code>       a rule of law; `law:gpc` is the signal of a browser
you:<record>     a deny of the resident, by its receipt
no_grant:<lane>  the first lane that nobody granted, such as `offers:use:precise_location`
suspended:<lane> likewise, where a grant from before a restore is not confirmed
window           no grant for this channel, here, at this hour
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from engine.consent.floor import Floor
from engine.consent.lanes import name_of
from engine.consent.law import GPC_LANES
from engine.consent.row import Row

WINDOW: Final = frozenset({"channel", "place", "quiet_hours"})


def because(
    reason: str | None,
    need: int,
    row: Row,
    brand: str,
    categories: Sequence[str],
    deny_categories: Sequence[str],
    *,
    rules: Callable[[int], Sequence[str]],
    denies: Callable[[int], Sequence[str]],
) -> str | None:
    """The line for a reason that the rule gave; None: it was no question of consent.

    Args:
        reason: as in `WITHHELD`.
        need: the lanes that were needed.
        row: of the resident, as of the question.
        brand, categories, deny_categories: as for `Row.refusal`.
        rules: the codes of the rules of law that deny one of some lanes.
        denies: the receipts of the resident's denies of one of some lanes.
    """
    if reason in WINDOW:
        return "window"
    if reason == "law":
        codes = rules(need & row.floor)
        return f"law:{codes[0]}" if codes else "law:gpc"
    if reason == "denied":
        receipts = denies(need)
        return f"you:{receipts[0]}" if receipts else "you"
    if reason in ("no_grant", "suspended"):
        for lane in _each(need):
            if row.refusal(lane, brand, categories, deny_categories) == reason:
                return f"{reason}:{name_of(lane)}"
    return None


def rules_of(floor: Floor, resident: str) -> Callable[[int], tuple[str, ...]]:
    """The rules of law that deny lanes to a resident, by code."""

    def rules(lanes: int) -> tuple[str, ...]:
        codes = floor.laws.codes(lanes, floor.age(resident))
        return codes or (("gpc",) if lanes & GPC_LANES else ())

    return rules


def _each(lanes: int) -> Iterator[int]:
    """Each of the lanes, lowest first."""
    while lanes:
        yield lanes & -lanes
        lanes &= lanes - 1
