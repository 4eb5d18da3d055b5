"""A guardian speaks for a minor, who can't lift what was denied for them, over real HTTP."""

from pathlib import Path
from typing import Any

import pytest

from tests.test_web_preferences import ME, PREFERENCES, USE, change, newcomer, patch
from tests.web_town import Town, town

NEVER = USE | {"effect": "deny"}


async def family(here: Town, band: str | None = "16_17") -> tuple[str, str, str]:
    """A resident, their key and that of their guardian."""
    made = await here.must("POST", "/v1/residents", {})
    resident = made["resident"]
    body = {"role": "resident", "name": "mother", "resident": resident, "guardian": True}
    guardian = await here.must("POST", "/v1/keys", body)
    await here.must("PUT", f"/v1/residents/{resident}/age", {"age_band": band})
    return resident, made["key"], guardian["key"]


async def latest(here: Town, key: str) -> str:
    """The ETag of the settings."""
    return str((await here.call("GET", PREFERENCES, key=key)).headers["ETag"])


async def grant(here: Town, key: str, **more: Any) -> Any:
    """The reply to a grant from the latest settings."""
    return await patch(here, key, USE | more, seen=await latest(here, key))


async def test_a_minor_does_not_lift_what_a_guardian_denied(tmp_path: Path) -> None:
    """Not after a never of their own either; for another scope they may, and it changes nothing."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        _, minor, guardian = await family(here)
        never = await patch(here, guardian, NEVER)
        first = await grant(here, minor)
        await patch(here, minor, NEVER)
        second = await grant(here, minor)
        mixed = await patch(here, minor, USE, change("deny"), seen=await latest(here, minor))
        other = await grant(here, minor, scope={"brand": "cafe"})
        off = await here.call("POST", f"{ME}/stop", key=minor)
        lifted = await grant(here, guardian)

    assert [r["record"]["actor"] for r in never.body["receipts"]] == ["guardian"]
    assert [(r.status, r.code) for r in (first, second)] == [(403, "guardian_needed")] * 2
    assert ([r["effect"] for r in mixed.body["refused"]], mixed.status) == (["grant"], 200)
    assert [r.status for r in (other, off, lifted)] == [200, 200, 200]


@pytest.mark.parametrize("band", ["adult", None])
async def test_who_is_of_age_speaks_for_themselves(tmp_path: Path, band: str | None) -> None:
    """What was denied for them is theirs to lift, and the key theirs to take away."""
    async with town(tmp_path) as here:
        _, key, guardian = await family(here, band)
        await patch(here, guardian, NEVER)

        assert (await grant(here, key)).status == 200


async def test_a_minor_keeps_the_guardian(tmp_path: Path) -> None:
    """They can neither take the key away nor become somebody else; a guardian and others can."""
    async with town(tmp_path) as here:
        resident, minor, guardian = await family(here)
        devices = (await here.must("GET", f"{ME}/devices", key=minor))["items"]
        (theirs,) = [one["id"] for one in devices if one["guardian"]]
        taken = await here.call("DELETE", f"{ME}/devices/{theirs}", key=minor)
        other = await newcomer(here)
        codes = [(await here.must("POST", f"{ME}/pairings", key=k))["code"] for k in (other, minor)]
        joined = await here.call("POST", f"{ME}/merge", {"code": codes[0]}, key=minor)
        left = await here.call("POST", f"{ME}/merge", {"code": codes[1]}, key=other)
        code = (await here.must("POST", f"{ME}/pairings", key=other))["code"]
        merged = await here.call("POST", f"{ME}/merge", {"code": code}, key=guardian)
        gone = await here.call("DELETE", f"/v1/residents/{resident}/devices/{theirs}", key=guardian)

    assert [(r.status, r.code) for r in (taken, joined, left)] == [(403, "guardian_needed")] * 3
    assert (merged.status, gone.status) == (200, 204)


async def test_only_a_resident_key_is_a_guardians(tmp_path: Path) -> None:
    """Of another role it is refused, with the field."""
    async with town(tmp_path) as here:
        body = {"role": "sender", "name": "gateway", "guardian": True}
        refused = await here.call("POST", "/v1/keys", body)

    assert (refused.status, refused.code) == (422, "invalid_body")
    assert [error["path"] for error in refused.body["errors"]] == ["guardian"]
