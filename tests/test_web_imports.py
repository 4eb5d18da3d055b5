"""Imports and exports over HTTP: every form of file, rows that are rejected, and all going live."""

import asyncio
import contextlib
import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.app import running
from engine.config import Config
from engine.store.memory import MemoryStore
from tests.running import until
from tests.web_town import LAT, LON, OPERATOR, Reply, Town, fence, offer, serving, town

FORMS = {
    "application/geo+json": lambda rows: msgspec.json.encode(
        {"type": "FeatureCollection", "features": rows}
    ),
    "application/geo+json-seq": lambda rows: b"".join(
        b"\x1e" + msgspec.json.encode(row) + b"\n" for row in rows
    ),
    "application/x-ndjson": lambda rows: b"\n".join(map(msgspec.json.encode, rows)),
}


def feature(name: Any, brand: str | None = "cafe", **more: Any) -> dict[str, Any]:
    told = dict(fence("cafe", **more)) | {"id": name}
    told["properties"] = dict(told["properties"])
    if brand is None:
        del told["properties"]["brand"]
    else:
        told["properties"]["brand"] = brand
    return told


def lines(*rows: Any) -> bytes:
    return b"\n".join(row if isinstance(row, bytes) else msgspec.json.encode(row) for row in rows)


async def send(here: Town, data: bytes, query: str = "", **more: Any) -> Reply:
    return await here.call("POST", f"/v1/fences/import{query}", data=data, **more)


async def counts(
    here: Town, data: bytes, query: str = "", **more: Any
) -> tuple[int, int, int, int]:
    """Created, updated, unchanged and rejected."""
    reply = await send(here, data, query, **more)
    assert reply.status == 200, reply
    told = reply.body
    return told["created"], told["updated"], told["unchanged"], told["rejected_count"]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("form", FORMS)
async def test_every_form_of_geojson_means_the_same(tmp_path: Path, form: str, named: bool) -> None:
    """By its media type, or by how it begins; unchanged rows stay, and the rest is live."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        told = {"Content_Type": form if named else "application/octet-stream"}
        rows = [feature("cafe-1"), feature("new", lon=25.5), feature("other", lon=26)]
        data = FORMS[form](rows)
        planned = await counts(here, data, "?dry_run=true", **told)
        before = await here.call("GET", "/v1/fences/new")
        done = await counts(here, data, **told)
        again = await counts(here, data, **told)
        moved = await counts(here, FORMS[form]([feature("new", lon=27)]), **told)
        where = {"positions": [[25.5, LAT], [27, LAT], [26, LAT]]}
        found = await here.must("POST", "/v1/fences/covering", where)

        assert planned == done == (2, 0, 1, 0)
        assert before.status == 404
        assert again == (0, 0, 3, 0)
        assert moved == (0, 1, 0, 0)
        assert found == {"fences": [[], ["new"], ["other"]]}


@pytest.mark.parametrize("kind", ["text/csv; charset=utf-8", "application/octet-stream"])
async def test_a_table_of_circles(tmp_path: Path, kind: str) -> None:
    table = (
        "\ufeffid,brand,name,lon,lat,radius_m\r\n"
        'a,cafe,"Aino, by the\nstation",25.5,60.1699,50\r\n'
        "\r\n"
        f"cafe-1,cafe,cafe,{LON},{LAT},60\r\n"
        "b,,Bare,26.5,60.1699,80\r\n"
        "c,cafe,North,here,60,80\r\n"
        "d,cafe,Far,181,60,80\r\n"
        "e,cafe,Few,25\r\n"
        "f,cafe,None,25,60,nan\r\n"
        'g,cafe,"x"y,25,60,9\r\n'
        "a,cafe,Again,25,60,9\r\n"
        ",cafe,Nobody,25,60,9\r\n"
    )
    async with town(tmp_path) as here:
        await here.brand("cafe")
        reply = await send(here, table.encode(), "?brand=cafe", Content_Type=kind)
        found = await here.must("GET", "/v1/fences/a")

        told = reply.body
        assert (told["created"], told["updated"], told["unchanged"]) == (2, 0, 1)
        assert found["properties"]["name"] == "Aino, by the\nstation"
        assert [(r["row"], r["code"], r["path"], r.get("id")) for r in told["rejected"]] == [
            (4, "not_a_number", "lon", "c"),
            (5, "out_of_range", "lon", "d"),
            (6, "wrong_cells", "", None),
            (7, told["rejected"][3]["code"], "radius_m", "f"),
            (8, "malformed_csv", "", None),
            (9, "duplicate_id", "id", "a"),
            (10, "id_missing", "id", None),
        ]


async def test_a_bad_row_spoils_no_other(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.brand("rival")
        merchant = await here.key("merchant", brands=["cafe"])
        operator = await here.call("POST", "/v1/fences/import", data=lines(feature("d", "ghost")))
        data = lines(
            feature("a"),
            b"{",
            feature("b", brand=None),
            feature("c", brand="rival"),
            feature("rival-1"),
            b"",
            feature("e", radius_m=0),
            feature("a"),
            [1],
            feature("f") | {"geometry": None},
            feature("g"),
        )
        reply = await send(here, data, key=merchant)
        told = reply.body
        rival = await here.must("GET", "/v1/fences/rival-1")
        audit = await here.must("GET", "/v1/audit", key=merchant)

        assert operator.body["rejected"][0]["code"] == "unknown_brand"
        assert (reply.status, told["created"], told["rejected_count"]) == (200, 2, 8)
        assert [(r["row"], r["code"], r["path"], r.get("id")) for r in told["rejected"]] == [
            (2, "malformed_json", "", None),
            (3, "brand_missing", "properties.brand", "b"),
            (4, "foreign_brand", "properties.brand", "c"),
            (5, "foreign_brand", "id", "rival-1"),
            (6, "radius_out_of_range", "properties.radius_m", "e"),
            (7, "duplicate_id", "id", "a"),
            (8, "not_a_feature", "", None),
            (9, "geometry_missing", "geometry", "f"),
        ]
        assert all(row["detail"] for row in told["rejected"])
        assert rival["properties"]["brand"] == "rival"
        imported = [e for e in audit["items"] if e["action"] == "POST /v1/fences/import"]
        assert {(e["id"], e["outcome"], e["role"]) for e in imported} == {
            ("a", "created", "merchant"),
            ("g", "created", "merchant"),
        }


async def test_rows_without_a_brand_get_the_one_that_is_named(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.brand("rival")
        merchant = await here.key("merchant", brands=["cafe"])
        rows = lines(feature("a", brand=None), feature("b", brand="rival"))
        foreign = await send(here, rows, "?brand=rival", key=merchant)
        done = await send(here, rows, "?brand=cafe")
        a, b = await here.must("GET", "/v1/fences/a"), await here.must("GET", "/v1/fences/b")

        assert (foreign.status, foreign.code) == (403, "foreign_brand")
        assert done.body["created"] == 2
        assert (a["properties"]["brand"], b["properties"]["brand"]) == ("cafe", "rival")


@pytest.mark.parametrize(
    ("kind", "data", "status", "code"),
    [
        (
            "application/geo+json",
            b'{"type": "FeatureCollection", "features": [',
            400,
            "malformed_json",
        ),
        ("application/geo+json", b"", 400, "malformed_json"),
        ("application/geo+json", b'{"type": "Feature"}', 400, "not_a_collection"),
        ("application/geo+json", b"[1, 2]", 400, "not_a_collection"),
        ("text/csv", b"", 400, "bad_header"),
        ("text/csv", b"a,b\n1,2\n", 400, "bad_header"),
        ("text/csv", b"id,lon,lat,radius_m,id\n", 400, "bad_header"),
        ("text/csv", b'id,"lon"x,lat,radius_m\n', 400, "bad_header"),
    ],
)
async def test_a_file_that_is_none_of_the_forms_is_refused(
    tmp_path: Path, kind: str, data: bytes, status: int, code: str
) -> None:
    async with town(tmp_path) as here:
        reply = await send(here, data, Content_Type=kind)

        assert (reply.status, reply.code) == (status, code)


async def test_a_collection_that_breaks_off_writes_nothing(tmp_path: Path) -> None:
    whole = FORMS["application/geo+json"]([feature(f"f{n}") for n in range(300)])
    async with town(tmp_path) as here:
        await here.brand("cafe")
        for broken in (whole[:-1], whole[:-3], whole + b"]", whole[: len(whole) // 2]):
            reply = await send(here, broken, Content_Type="application/geo+json")
            assert (reply.status, reply.code) == (400, "malformed_json")
        listed = await here.must("GET", "/v1/fences")
        empty = b'{"type": "FeatureCollection", "features": []}'

        assert [one["id"] for one in listed["items"]] == ["cafe-1"]
        assert await counts(here, empty, Content_Type="application/geo+json") == (0, 0, 0, 0)
        assert await counts(here, b"\xef\xbb\xbf" + whole) == (300, 0, 0, 0)


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("dryrun=true", ("dryrun", "unknown_parameter", "There is no such parameter.")),
        ("dry_run=true&brnd=cafe", ("brnd", "unknown_parameter", "There is no such parameter.")),
        ("dry_run=yes", ("dry_run", "wrong_type", "Must be true or false.")),
    ],
)
async def test_a_misspelt_wish_writes_nothing(
    tmp_path: Path, query: str, wrong: tuple[str, str, str]
) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        reply = await send(here, lines(feature("f1")), f"?{query}")
        listed = await here.must("GET", "/v1/fences")

        assert (reply.status, reply.code) == (422, "invalid_parameter")
        assert reply.body["errors"] == [dict(zip(("path", "code", "detail"), wrong, strict=True))]
        assert [one["id"] for one in listed["items"]] == ["cafe-1"]


async def test_an_import_has_limits_of_its_own(tmp_path: Path) -> None:
    data = lines(*(feature(f"f{n}") for n in range(11)))
    async with town(
        tmp_path, import_rows_max=10, import_bytes_max=20_000, body_bytes_max=1_000
    ) as here:
        await here.brand("cafe")
        many = await send(here, data)
        few = await counts(here, lines(*(feature(f"f{n}") for n in range(10))))
        long = await send(here, data * 20)
        packed = await send(here, gzip.compress(data * 20), Content_Encoding="gzip")

        assert len(data) > 1_000
        assert (many.status, many.code) == (422, "too_many_rows")
        assert few == (10, 0, 0, 0)
        assert (long.status, long.code) == (packed.status, packed.code) == (413, "body_too_large")


async def test_a_compressed_file_is_opened(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        data = gzip.compress(lines(feature("a"), feature("b")))

        assert await counts(here, data, Content_Encoding="gzip") == (2, 0, 0, 0)


class Slow(MemoryStore):
    """A store that takes imports in when the test says so."""

    gate: asyncio.Event
    begun = 0

    async def put_together(self, *parts: Any, **more: Any) -> Any:
        self.begun += 1
        await self.gate.wait()
        return await super().put_together(*parts, **more)


async def test_only_so_many_imports_run_at_once(tmp_path: Path) -> None:
    store = Slow()
    store.gate = asyncio.Event()
    async with town(tmp_path, store, imports_max=1) as here:
        await here.brand("cafe")
        first = asyncio.create_task(send(here, lines(feature("a"))))
        async with asyncio.timeout(10):
            while not store.begun:  # noqa: ASYNC110 - what the service does is no event of ours
                await asyncio.sleep(0.001)
        second = await send(here, lines(feature("b")))
        store.gate.set()

        assert (second.status, second.code) == (503, "overloaded")
        assert (await first).body["created"] == 1


async def test_an_import_is_done_once(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        told = {"Idempotency_Key": "import-1"}
        first = await send(here, lines(feature("a")), **told)
        await here.must("DELETE", "/v1/fences/a")
        again = await send(here, lines(feature("a")), **told)
        other = await send(here, lines(feature("b")), **told)
        gone = await here.call("GET", "/v1/fences/a")

        assert again.body == first.body
        assert again.headers["Idempotent-Replay"] == "true"
        assert (other.status, other.code) == (422, "idempotency_key_reused")
        assert gone.status == 404


async def test_an_export_imported_again_changes_nothing(tmp_path: Path) -> None:
    """And brings everything back elsewhere: in another town, byte for byte."""
    async with town(tmp_path / "one") as here:
        await fill(here)
        out = await here.call("GET", "/v1/brands/cafe/export")
        before = await here.must("GET", "/v1/audit")
        path = "/v1/brands/cafe/import"
        planned = await here.must("POST", f"{path}?dry_run=true", data=out.body.encode())
        again = await here.must("POST", path, data=out.body.encode())
        audit = await here.must("GET", "/v1/audit")
        kinds = [next(iter(msgspec.json.decode(line))) for line in out.body.splitlines()]

        assert out.headers["Content-Type"] == "application/x-ndjson"
        assert kinds == ["brand", "fence", "fence", "fence", "offer", "offer"]
        assert planned | {"dry_run": False} == again
        assert again == {
            "created": 0,
            "updated": 0,
            "unchanged": 6,
            "rejected": [],
            "rejected_count": 0,
            "dry_run": False,
        }
        assert audit == before
    async with town(tmp_path / "two") as there:
        done = await there.must("POST", path, data=out.body.encode())
        copy = await there.call("GET", "/v1/brands/cafe/export")
        found = await there.must("POST", "/v1/fences/covering", {"positions": [[LON, LAT]]})

        assert (done["created"], done["rejected_count"]) == (6, 0)
        assert copy.body == out.body
        assert found == {"fences": [["cafe-1"]]}


async def test_a_long_export_does_not_stay_in_memory(tmp_path: Path) -> None:
    """It goes through a file that is closed, whether all of it was read or its head."""
    path = "/v1/brands/cafe/export"
    async with town(tmp_path) as here:
        await here.brand("cafe")
        rows = lines(*(feature(f"f{n:05}") for n in range(1_200)))
        await here.must("POST", "/v1/fences/import", data=rows)
        before = nameless()
        out = await here.call("GET", path)
        head = await here.call("HEAD", path)
        await until(lambda: nameless() == before, within_s=10)

        told = [msgspec.json.decode(line) for line in out.body.splitlines()]
        assert len(out.body) > 2 * 64 * 1_024
        assert told[0]["brand"]["id"] == "cafe"
        names = sorted(line["fence"]["id"] for line in told[1:])
        assert names == ["cafe-1", *(f"f{n:05}" for n in range(1_200))]
        assert head.headers["Content-Length"] == str(len(out.body.encode()))


def nameless() -> int:
    """How many files without a name this process has open."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            count += link.readlink().name.endswith("(deleted)")
    return count


async def fill(here: Town) -> None:
    """A brand with fences of several shapes and offers with all that an offer may have."""
    await here.brand("cafe", categories=("cafe", "bakery"))
    await here.brand("rival")
    line = {"type": "LineString", "coordinates": [[25.0, 60.1], [25.1, 60.2]]}
    square = [[25.2, 60.1], [25.3, 60.1], [25.3, 60.2], [25.2, 60.1]]
    for name, geometry, more in (
        ("street", line, {"width_m": 30}),
        ("square", {"type": "Polygon", "coordinates": [square]}, {"tags": ["center"]}),
    ):
        told = {"type": "Feature", "geometry": geometry, "properties": {"brand": "cafe", **more}}
        await here.must("PUT", f"/v1/fences/{name}", told)
    rich = offer(
        "cafe",
        starts_at="2026-05-01T00:00:00.250Z",
        ends_at="2026-06-01T00:00:00+02:00",
        timezone="Asia/Kolkata",
        categories=["tea"],
        trigger="dwell",
        dwell_s=90,
        priority=-3,
        budget={"total": 9, "per_day": 2},
        caps={"per_resident_day": 1, "per_resident_total": 2, "cool_down_s": 5},
        claim_ttl_s=77,
    )
    await here.must("PUT", "/v1/offers/rich", rich)
    tagged = {k: v for k, v in offer("cafe", tags=["center"]).items() if k != "fences"}
    await here.must("PUT", "/v1/offers/tagged", tagged)


async def test_what_is_not_of_the_brand_is_rejected(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.brand("rival")
        await here.must("PUT", "/v1/offers/rival-bun", offer("rival"))
        merchant = await here.key("merchant", brands=["cafe"])
        data = lines(
            {"brand": {"id": "rival", "name": "x"}},
            {"brand": {"name": "Aino", "colour": "red"}},
            {"fence": feature("a", brand="rival")},
            {"fence": feature("rival-1")},
            {"fence": feature("new", radius_m=-1)},
            {"fence": feature("good")},
            {"offer": offer("cafe", id="o1", fences=["rival-1"])},
            {"offer": offer("cafe", id="o2", fences=["good"])},
            {"offer": offer("cafe")},
            {"offer": offer("cafe", id="rival-bun")},
            {"offer": offer("cafe", id="o3", trigger="dwell")},
            {"offer": offer("rival", id="o4")},
            {"offer": 1},
            {"key": {}},
            {"fence": {}, "offer": {}},
            b"[]",
        )
        told = await here.must("POST", "/v1/brands/cafe/import", data=data, key=merchant)
        foreign = await here.call("POST", "/v1/brands/rival/import", data=data, key=merchant)
        out = await here.call("GET", "/v1/brands/rival/export", key=merchant)
        none = await here.call("GET", "/v1/brands/none/export")

        assert (told["created"], told["updated"]) == (2, 0)
        assert [(r["row"], r["code"], r["path"]) for r in told["rejected"]] == [
            (1, "id_mismatch", "brand.id"),
            (2, "unknown_field", "brand.colour"),
            (3, "wrong_brand", "fence.properties.brand"),
            (4, "foreign_brand", "id"),
            (5, "radius_out_of_range", "fence.properties.radius_m"),
            (7, "unknown_fence", "offer.fences[0]"),
            (9, "missing_field", "offer.id"),
            (10, "foreign_brand", "offer.id"),
            (11, "dwell_s_mismatch", "offer.dwell_s"),
            (12, "wrong_brand", "offer.brand"),
            (13, "wrong_type", "offer"),
            (14, "wrong_line", ""),
            (15, "wrong_line", ""),
            (16, "wrong_line", ""),
        ]
        assert (foreign.status, out.status, none.status) == (403, 403, 404)


async def test_imports_on_postgresql(tmp_path: Path, database_url: str) -> None:
    """Two processes: what one imports is live in the other, all of it together."""
    config = Config(data=tmp_path, operator_key=OPERATOR, database_url=database_url)

    def nothing() -> None:
        """What is called when a part fails."""

    async with (
        running(config, nothing) as ctx,
        running(config, nothing) as other,
        serving(ctx) as here,
        serving(other) as there,
    ):
        await fill(here)
        data = lines(*(feature(f"f{n}", lon=20 + n / 1_000) for n in range(1_500)), b"{")
        planned = await counts(here, data, "?dry_run=true")
        importing = asyncio.create_task(counts(here, data))
        seen = set()
        while not importing.done() or len(other.engine.fences) < 1_500:
            seen.add(len(other.engine.fences))
            await asyncio.sleep(0.001)
        done = await importing
        again = await counts(there, data)
        out = await there.call("GET", "/v1/brands/cafe/export")
        same = await here.must("POST", "/v1/brands/cafe/import", data=out.body.encode())
        audit = await there.must("GET", "/v1/audit?kind=fence&limit=1000")
        tag = (await here.call("GET", "/v1/fences/f7")).headers["ETag"]
        late = await there.call("DELETE", "/v1/fences/f7", If_Match='"9"')
        gone = await there.call("DELETE", "/v1/fences/f7", If_Match=tag, Idempotency_Key="gone")
        twice = await here.call("DELETE", "/v1/fences/f7", If_Match=tag, Idempotency_Key="gone")

        assert planned == done == (1_500, 0, 0, 1)
        assert seen <= {0, 1, 2, 3, 4, 1_504}
        assert again == (0, 0, 1_500, 1)
        assert (same["unchanged"], same["rejected_count"]) == (1_506, 0)
        assert {e["action"] for e in audit["items"]} == {"POST /v1/fences/import"}
        assert (late.status, gone.status, twice.status) == (412, 204, 204)
        assert twice.headers["Idempotent-Replay"] == "true"
