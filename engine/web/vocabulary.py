"""The words of consent over HTTP: what they mean, their terms of DPV, and the rules in force."""

import msgspec

from engine.consent.lanes import CHANNELS
from engine.consent.law import AGE_BANDS, GPC_SOURCE, SIGNALS, Laws
from engine.consent.row import QUIET_FROM_HOUR, QUIET_UNTIL_HOUR
from engine.consent.sync import DAY_MS, GRANT_LIFE_MS, PRECISE_LIFE_MS
from engine.consent.vocabulary import (
    ACTION_TERMS,
    ACTORS_MEAN,
    CHANNELS_MEAN,
    DATA_TERMS,
    EFFECTS_MEAN,
    PURPOSE_TERMS,
    Term,
)
from engine.consent.zones import KINDS
from engine.web.context import Context
from engine.web.route import Answer


class Word(msgspec.Struct, frozen=True):
    """A word that DPV has no term for."""

    name: str
    means: str


class LawTold(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that holds whatever a resident says."""

    code: str
    """As in `law:<code>`, where a decision says why."""
    pack: str
    source: str
    ages: tuple[str, ...] | None = None
    """To whom it applies; null: to everybody."""
    buffer_m: float | None = None
    """Of a rule of places: how near to one no fence may be used for offers, metres."""


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """All words that a change of preferences may use, and what holds by default."""

    purposes: tuple[Term, ...]
    actions: tuple[Term, ...]
    data: tuple[Term, ...]
    channels: tuple[Word, ...]
    effects: tuple[Word, ...]
    actors: tuple[Word, ...]
    zone_kinds: tuple[Word, ...]
    age_bands: tuple[Word, ...]
    signals: tuple[Word, ...]
    quiet_from_hour: int
    """From this hour of the resident's zone nobody is reached who did not grant it."""
    quiet_until_hour: int
    grant_days: int
    """How long a grant holds at most; then it is renewed or over."""
    grant_precise_location_days: int
    laws: tuple[LawTold, ...]


async def get_vocabulary(ctx: Context) -> Answer[Vocabulary]:
    """Read the words of consent, with their terms of W3C DPV, and the laws that are switched on."""
    return Answer(
        Vocabulary(
            purposes=PURPOSE_TERMS,
            actions=ACTION_TERMS,
            data=DATA_TERMS,
            channels=_words({name: CHANNELS_MEAN[name] for name in CHANNELS}),
            effects=_words(EFFECTS_MEAN),
            actors=_words(ACTORS_MEAN),
            zone_kinds=_words(KINDS),
            age_bands=_words(AGE_BANDS),
            signals=_words(SIGNALS),
            quiet_from_hour=QUIET_FROM_HOUR,
            quiet_until_hour=QUIET_UNTIL_HOUR,
            grant_days=GRANT_LIFE_MS // DAY_MS,
            grant_precise_location_days=PRECISE_LIFE_MS // DAY_MS,
            laws=laws_told(ctx.engine.floor.laws),
        )
    )


def _words(meanings: dict[str, str]) -> tuple[Word, ...]:
    return tuple(Word(name, means) for name, means in meanings.items())


def laws_told(laws: Laws) -> tuple[LawTold, ...]:
    """Every rule that is on, by pack."""
    told = [LawTold(code="gpc", pack="signals", source=GPC_SOURCE)]
    for pack in laws.packs:
        told += [
            LawTold(code=rule.code, pack=pack.id, source=rule.source, ages=rule.ages)
            for rule in pack.rules
        ]
        told += [
            LawTold(code=near.code, pack=pack.id, source=near.source, buffer_m=near.buffer_m)
            for near in pack.places
        ]
    return tuple(told)
