"""A change of preferences as it is asked for, and what must be right about it before it is one."""

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from engine.consent.lanes import ACTIONS, CATEGORIES, CHANNELS, PURPOSES
from engine.consent.record import Scope, WeekWindow
from engine.consent.sync import Requested
from engine.offers.book import OfferBook
from engine.web.fields import Channel, Id, Instant, Purpose, Word, ms_of, one_of
from engine.web.problem import FieldError

CHANGES_MAX: Final = 100
"""Most changes of one call: every purpose can be set for a dozen scopes."""

Effect = Literal["grant", "deny", "withdraw"]
Action = Annotated[str, Meta(extra_json_schema={"enum": list(ACTIONS)})]
Data = Annotated[str, Meta(extra_json_schema={"enum": list(CATEGORIES)})]
Hour = Annotated[int, Meta(ge=0, le=24)]
Day = Annotated[int, Meta(ge=1, le=7)]


class ScopeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom a change is about: `all`, one `category` of brands and offers, or one `brand`."""

    all: bool = False
    category: Word | None = None
    brand: Id | None = None


class WeekBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hours of some weekdays in the resident's zone; `to_hour` below `from_hour` runs overnight."""

    days: Annotated[tuple[Day, ...], Meta(max_length=7)]
    """ISO weekdays, Monday 1 to Sunday 7; overnight hours belong to the day on which they begin."""
    from_hour: Annotated[int, Meta(ge=0, le=23)]
    to_hour: Hour
    """Not included; 24 is midnight."""


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One change: `grant` turns on, `withdraw` takes grants back, `deny` is "never"."""

    effect: Effect
    purpose: Purpose
    actions: Annotated[tuple[Action, ...], Meta(min_length=1, max_length=len(ACTIONS))]
    data: Annotated[tuple[Data, ...], Meta(min_length=1, max_length=len(CATEGORIES))]
    scope: ScopeBody
    channels: Annotated[tuple[Channel, ...], Meta(max_length=len(CHANNELS))] | None = None
    """Of a grant to contact: these only; left out: all."""
    week: Annotated[tuple[WeekBody, ...], Meta(max_length=50)] | None = None
    """Of a grant to contact: in these hours only; left out: from 08:00 to 21:00."""
    places: Annotated[tuple[Id, ...], Meta(max_length=50)] = ()
    """Of a grant to contact: never at these."""
    expires_at: Instant | None = None
    """Of a grant: it ends here, or sooner, as grants of its kind do."""


_OF_CONTACT: Final = ("channels", "week", "places")


def errors_of(change: Change, path: str, book: OfferBook, now_ms: int) -> list[FieldError]:
    """All that is wrong with a change, each thing with its place and what would be right.

    A "no" never fails on whom it names: there may be such a brand tomorrow.
    """
    errors = [
        *one_of(f"{path}.purpose", change.purpose, PURPOSES, _words(PURPOSES), "unknown_purpose"),
        *_unknown(f"{path}.actions", change.actions, ACTIONS, "unknown_action"),
        *_unknown(f"{path}.data", change.data, CATEGORIES, "unknown_data"),
        *_unknown(f"{path}.channels", change.channels or (), CHANNELS, "unknown_channel"),
        *_scope_errors(change.scope, f"{path}.scope"),
    ]
    if change.effect == "grant":
        errors += _known_errors(change.scope, f"{path}.scope", book)
        errors += _reach_errors(change, path)
        if change.expires_at is not None and ms_of(change.expires_at) <= now_ms:
            errors.append(_error(f"{path}.expires_at", "in_the_past", "Must be in the future."))
    else:
        told = f"Leave it out: a {change.effect} holds always, everywhere and on every channel."
        errors += [
            _error(f"{path}.{name}", "only_for_grants", told)
            for name in (*_OF_CONTACT, "expires_at")
            if getattr(change, name)
        ]
    return errors


def _error(path: str, code: str, detail: str) -> FieldError:
    return FieldError(path, code, detail)


def _words(known: Collection[str]) -> str:
    return f"one of {', '.join(known)}"


def _unknown(
    path: str, given: tuple[str, ...], known: Collection[str], code: str
) -> Iterator[FieldError]:
    """An error for each of the words that is none of those known."""
    for place, word in enumerate(given):
        yield from one_of(f"{path}[{place}]", word, known, _words(known), code)


def _scope_errors(scope: ScopeBody, path: str) -> list[FieldError]:
    given = [bool(scope.all), scope.category is not None, scope.brand is not None]
    if sum(given) == 1:
        return []
    told = 'Must be {"all": true}, or a category, or a brand, and only one of them.'
    return [_error(path, "invalid_scope", told)]


def _known_errors(scope: ScopeBody, path: str, book: OfferBook) -> list[FieldError]:
    """A grant to somebody whom nobody knows would be one to whoever takes that name."""
    if scope.brand is not None and scope.brand not in book.brands:
        return [_error(f"{path}.brand", "unknown_brand", "There is no such brand.")]
    if scope.category is not None and not book.has_category(scope.category):
        told = "No brand and no offer has this category."
        return [_error(f"{path}.category", "unknown_category", told)]
    return []


def _reach_errors(change: Change, path: str) -> list[FieldError]:
    """What is wrong with the channels, hours and places of a grant."""
    if "contact" not in change.actions:
        told = "Leave it out: it goes with the action `contact` only."
        return [
            _error(f"{path}.{name}", "only_for_contact", told)
            for name in _OF_CONTACT
            if getattr(change, name)
        ]
    never = "Leave it out for the default; to be reached never, deny or withdraw `contact`."
    errors = [
        _error(f"{path}.{name}", f"empty_{name}", never)
        for name in ("channels", "week")
        if getattr(change, name) == ()
    ]
    for place, window in enumerate(change.week or ()):
        at = f"{path}.week[{place}]"
        if not window.days:
            errors.append(_error(f"{at}.days", "empty_window", "Name a day, 1 to 7."))
        if window.from_hour == window.to_hour:
            told = "The window is empty: for a whole day say 0 and 24."
            errors.append(_error(f"{at}.to_hour", "empty_window", told))
    return errors


def place_errors(changes: Sequence[Change], zones: Collection[str]) -> list[FieldError]:
    """An error for each place that a grant excepts and that the resident did not draw.

    Such a grant would hold nowhere, and anywhere else once a zone of that name is drawn.
    """
    told = "Draw it first: PUT /v1/residents/{resident}/zones/{zone}."
    return [
        _error(f"changes[{number}].places[{place}]", "unknown_place", told)
        for number, change in enumerate(changes)
        for place, name in enumerate(change.places)
        if change.effect == "grant" and name not in zones
    ]


def requested(change: Change) -> Requested:
    """A change without errors as the core has it; what was named twice counts once."""
    return Requested(
        effect=change.effect,
        purpose=change.purpose,
        actions=_once(change.actions),
        data=_once(change.data),
        scope=msgspec.convert(change.scope, Scope, from_attributes=True),
        channels=change.channels and _once(change.channels),
        week=None if change.week is None else tuple(map(_window, change.week)),
        places=_once(change.places),
        expires_ms=None if change.expires_at is None else ms_of(change.expires_at),
    )


def _window(body: WeekBody) -> WeekWindow:
    return WeekWindow(tuple(sorted(set(body.days))), body.from_hour, body.to_hour)


def _once(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
