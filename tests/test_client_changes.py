"""Changes in all detail, said on a phone: a "no" holds at once, a "yes" when it is confirmed."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.client.change import Change, Scope
from engine.client.choices import Call, Choice, Choices
from engine.client.reply import Reply
from engine.consent import sync
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from engine.web.change import Change as Asked
from engine.web.change import requested

NOW: Final = 1_790_000_000_000
ALL: Final = Scope(all=True)
CAFE: Final = Scope(brand="cafe")
FOOD: Final = Scope(category="food")
LANES: Final = (("use", "precise_location"), ("contact", "contact_point"), ("use", "profile"))


def change(
    effect: Any, lane: int = 0, scope: Scope = ALL, purpose: str = "offers", **more: Any
) -> Change:
    action, kind = LANES[lane]
    return Change(
        effect=effect, purpose=purpose, actions=(action,), data=(kind,), scope=scope, **more
    )


def choice(number: int, *changes: Change) -> Choice:
    return Choice(kind="change", changes=changes, client_ms=NOW, id=f"c{number}")


def on(number: int, *brands: str) -> Choice:
    return Choice(kind="on", brands=brands or None, client_ms=NOW, id=f"c{number}")


@pytest.mark.parametrize(
    ("no", "off", "cafe", "pub"),
    [
        (change("withdraw"), True, False, False),
        (change("deny"), True, False, False),
        (change("deny", 1), False, False, False),
        (change("deny", 0, CAFE), False, False, True),
        (change("withdraw", 1, CAFE), False, False, True),
        (change("deny", 0, FOOD), False, False, False),
        (change("deny", 2), False, True, True),
        (change("deny", 0, ALL, "loyalty"), False, True, True),
    ],
)
def test_a_no_holds_at_once_as_far_as_a_phone_can_tell(
    no: Change, off: bool, cafe: bool, pub: bool
) -> None:
    """Positions stop where they may be used for nothing; offers where they may not be shown."""
    choices = Choices()
    choices.narrow(choice(1, no))

    assert (choices.off, choices.lets("cafe"), choices.lets("pub")) == (off, cafe, pub)
    call = choices.take(NOW)
    assert call is not None
    assert (call.method, call.path) == ("PATCH", "/v1/residents/me/preferences")
    assert "If-Match" not in call.headers
    choices.settle(done(1), NOW, chance=0)
    assert choices.off == off
    assert choices.lets("pub") == (not off)


def test_a_grant_rests_on_what_was_seen_and_holds_when_confirmed() -> None:
    choices = Choices()
    choices.narrow(choice(1, change("withdraw")))
    choices.take(NOW)
    choices.settle(done(1), NOW, chance=0)
    choices.widen(choice(2, change("grant")))
    call = choices.take(NOW)
    assert call is not None
    assert call.headers["If-Match"] == '"1"'
    assert choices.off
    choices.settle(done(2), NOW, chance=0)
    assert not choices.off

    choices.widen(choice(3, change("grant", 2)))
    choices.take(NOW)
    stale = Reply(412, {}, b'{"code": "stale_version", "version": 9}')
    outcome = choices.settle(stale, NOW, chance=0)
    assert outcome is not None
    assert outcome.refused is not None
    assert (outcome.refused.version, len(choices)) == (9, 0)


def test_a_no_takes_back_the_part_that_waits() -> None:
    """And leaves the rest, whether it was asked for in detail or by the shorthand."""
    choices = Choices()
    choices.widen(choice(1, change("grant"), change("grant", 2)))
    choices.widen(on(2))
    choices.widen(on(3, "cafe"))
    choices.narrow(choice(4, change("withdraw")))

    sent = list(drain(choices))
    assert [[one["data"][0] for one in call] for call in sent] == [
        ["precise_location"],
        ["profile"],
        ["contact_point"],
        ["contact_point"],
    ]


def drain(choices: Choices) -> Iterable[list[dict[str, Any]]]:
    """Settle all that waits; the changes of each call."""
    version = 0
    while call := choices.take(NOW):
        version += 1
        choices.settle(done(version), NOW, chance=0)
        yield msgspec.json.decode(call.body)["changes"]


def done(version: int) -> Reply:
    return Reply(200, {}, msgspec.json.encode({"version": version}))


class Service:
    """The rule of the service, for one resident."""

    def __init__(self) -> None:
        self.row = ResidentRow(id="ann", settings=ResidentSettings())

    def answer(self, call: Call) -> Reply:
        """What a PATCH is answered."""
        body = msgspec.json.decode(call.body)["changes"]
        seen = call.headers.get("If-Match")
        said = sync.Said(
            actor="self", now_ms=NOW, if_match=None if seen is None else int(seen.strip('"'))
        )
        asked = [requested(msgspec.convert(one, Asked)) for one in body]
        try:
            records = sync.resolve(self.row, asked, said).records
        except sync.PreconditionFailed:
            return Reply(412, {}, b'{"code": "stale_version"}')
        version = records[-1].version
        self.row = msgspec.structs.replace(
            self.row, version=version, records=self.row.records + records
        )
        return done(version)

    def granted(self) -> set[tuple[int, Scope]]:
        """Lanes and scopes that stand."""
        return {
            (lane, Scope(all=held.record.scope.all, brand=held.record.scope.brand))
            for held in sync.standing(self.row.records, NOW)
            for lane, (action, kind) in enumerate(LANES)
            if held.record.effect == "grant"
            and action in held.record.actions
            and kind in held.record.data
        }


steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["grant", "withdraw", "deny"]),
            st.integers(0, 2),
            st.sampled_from([ALL, CAFE]),
        ),
        st.sampled_from(["send", "lose", "elsewhere", "look"]),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_whatever_was_said_last_on_the_phone_is_never_undone(said: list[Any]) -> None:
    """With answers that are lost and another device that says no: what stands at last was said by
    the phone after its last "no" about it, and never after a "no" that it had not seen."""
    choices, service = Choices(), Service()
    wanted: dict[tuple[int, Scope], bool] = {}
    for number, step in enumerate(said):
        if isinstance(step, tuple):
            effect, lane, scope = step
            one = choice(number, change(effect, lane, scope))
            if one.widens:
                choices.widen(one)
                wanted[lane, scope] = True
            else:
                choices.narrow(one)
                for reached in (ALL, CAFE) if scope == ALL and effect == "withdraw" else (scope,):
                    wanted[lane, reached] = False
        elif step == "elsewhere":
            service.answer(Call("PATCH", "", {}, msgspec.json.encode({"changes": [NO_PROFILE]})))
            wanted[2, ALL] = False
        elif step == "look":
            choices.version = service.row.version
        elif call := choices.take(NOW):
            reply = service.answer(call)
            choices.settle(Reply() if step == "lose" else reply, NOW, chance=0)
    for _ in range(200):
        if call := choices.take(NOW):
            choices.settle(service.answer(call), NOW, chance=0)

    assert len(choices) == 0
    assert {place for place in service.granted() if not wanted.get(place)} == set()


NO_PROFILE: Final = change("deny", 2)
