"""Run a recorded stream of pings through the pipeline, in memory, as fast as it goes.

Nothing here depends on the machine's clock, on chance or on the hash seed: the same input gives
the same decisions, byte for byte, whatever the size of the batches.
"""

import gzip
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from engine.consent.protection import Protection
from engine.consent.record import Record
from engine.consent.sync import Said, marketing, resolve
from engine.consent.zones import Zone, read_zone
from engine.decision import Decision, encode
from engine.ingest.native import BodyRefused, decode_request, rejected
from engine.ingest.rows import FileRefused, Row, RowRefused, form_of, read_head, read_rows
from engine.offers.offer import Brand, Offer
from engine.ping import Ping, refusal
from engine.pipeline import Engine, EngineSettings
from engine.residents import ResidentSettings, stay_rows
from engine.store.port import ResidentRow
from engine.web.offers import OfferBody, offer_of
from engine.web.problem import Refused
from geofences.fence import Fence, FenceRejected
from geofences.geojson import parse_fence

SECRET: Final = b"passby replay: ids and codes are fixed"
"""Ids and codes of a replay are the same everywhere, and worth nothing."""


class InputRefused(Exception):
    """A file can't be used; the text says which row and why."""


def open_maybe_gzip(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unpacked if its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def brand_id(kind: str) -> str:
    """An id made of free text: what an id may not hold becomes ``_``."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "._~:-") else "_" for c in kind)
    return text[:128] or "_"


def read_fences(
    path: Path, *, brand_by: str | None
) -> tuple[list[Fence], list[Brand], list[RowRefused]]:
    """Fences of a file, brands for those that have none, and the rows left out.

    Args:
        path: a FeatureCollection, a text sequence, lines or a table, perhaps gzipped.
        brand_by: a property whose text becomes the brand and a tag of a fence without brand.

    Raises:
        InputRefused: nothing of the file can be used.
    """
    fences: dict[str, Fence] = {}
    refused: list[RowRefused] = []
    with open_maybe_gzip(path) as file:
        try:
            for row in read_rows(file, form_of(None, read_head(file))):
                made = _fence(branded(row, brand_by))
                if isinstance(made, RowRefused):
                    refused.append(made)
                elif made.id in fences:
                    told = f"id {made.id} was used before"
                    refused.append(RowRefused(row[0], "duplicate_id", "id", told, made.id))
                else:
                    fences[made.id] = made
        except FileRefused as error:
            raise InputRefused(f"{path}: {error}") from None
    names = sorted({fence.brand for fence in fences.values()})
    return list(fences.values()), [Brand(id=name, name=name) for name in names], refused


def branded(row: Row | RowRefused, brand_by: str | None) -> Row | RowRefused:
    """A row whose fence has an id, that of its row, and a brand, that of a property."""
    if isinstance(row, RowRefused) or not isinstance(row.value, dict):
        return row
    feature = row.value
    if feature.get("id") is None:
        feature = {**feature, "id": f"f{row.number}"}
    properties = feature.get("properties")
    if brand_by is not None and isinstance(properties, dict) and "brand" not in properties:
        kind = str(properties.get(brand_by) or "none")
        told = {"brand": brand_id(kind), "tags": [*(properties.get("tags") or []), kind]}
        feature = {**feature, "properties": {**properties, **told}}
    return Row(row.number, feature)


def _fence(row: Row | RowRefused) -> Fence | RowRefused:
    if isinstance(row, RowRefused):
        return row
    try:
        return parse_fence(row.value)
    except FenceRejected as error:
        first = error.problems[0]
        return RowRefused(row.number, first.code, first.path, first.detail, error.fence_id)


def read_offers(path: Path, brands: Iterable[Brand]) -> list[Offer]:
    """A JSON array of offers with their ids, as the API takes them.

    Raises:
        InputRefused: the file or one of its offers is not right.
    """
    known = {brand.id: brand for brand in brands}
    try:
        bodies = msgspec.json.decode(path.read_bytes(), type=list[OfferBody])
    except msgspec.DecodeError as error:
        raise InputRefused(f"{path}: {error}") from None
    offers = []
    for row, body in enumerate(bodies, 1):
        if body.id is None:
            raise InputRefused(f"{path}: offer {row} has no id")
        brand = known.setdefault(body.brand, Brand(id=body.brand, name=body.brand))
        try:
            offers.append(offer_of(body.id, body, brand))
        except Refused as error:
            raise InputRefused(f"{path}: offer {row} ({body.id}): {error.problem.detail}") from None
    return offers


def read_own_zones(path: Path) -> dict[str, Protection]:
    """Residents' own zones: a GeoJSON Feature a line, with its `id` and `properties.resident`.

    Raises:
        InputRefused: a line is none.
    """
    found: dict[str, list[Zone]] = {}
    with open_maybe_gzip(path) as file:
        for row, line in enumerate(file, 1):
            try:
                feature = msgspec.json.decode(line)
                zone = read_zone(feature, str(feature["id"]))
                found.setdefault(str(feature["properties"]["resident"]), []).append(zone)
            except FenceRejected as error:
                raise InputRefused(f"{path}: zone {row}: {error}") from None
            except (msgspec.DecodeError, KeyError, TypeError):
                told = "it must be a Feature with an id and properties.resident"
                raise InputRefused(f"{path}: zone {row}: {told}") from None
    return {resident: Protection(tuple(zones)) for resident, zones in found.items()}


def opt_in_rule(choice: str) -> Callable[[str], bool]:
    """Who has opted in: ``all``, a fraction such as ``0.4``, or a file with an id a line."""
    if choice == "all":
        return lambda _: True
    try:
        fraction = float(choice)
    except ValueError:
        try:
            chosen = frozenset(Path(choice).read_text(encoding="utf-8").split())
        except OSError as error:
            raise InputRefused(
                f"--opt-in {choice}: give all, a fraction from 0 to 1, or a file of ids ({error})"
            ) from None
        return chosen.__contains__
    if not 0.0 <= fraction <= 1.0:
        raise InputRefused(f"--opt-in {choice}: a fraction is from 0 to 1")
    limit = int(fraction * (1 << 64))
    return lambda resident: _place_of(resident) < limit


def _place_of(resident: str) -> int:
    """A number of 64 bits that is a resident's own, the same everywhere."""
    digest = hashlib.blake2b(resident.encode(), digest_size=8, key=SECRET).digest()
    return int.from_bytes(digest, "big")


class Replay:
    """One run: pings in, decisions out, and what can be said about them.

    Args:
        fences, brands, offers: what waits for the pings.
        opted_in: whether a resident has opted in to all offers on precise location.
        settings: attention and the like.
        timezone: the zone of every resident.
        protections: the residents' own zones, of those who drew any.
    """

    def __init__(
        self,
        *,
        fences: Sequence[Fence],
        brands: Iterable[Brand],
        offers: Iterable[Offer],
        opted_in: Callable[[str], bool],
        settings: EngineSettings | None = None,
        timezone: str = "UTC",
        protections: Mapping[str, Protection] | None = None,
    ) -> None:
        base = settings or EngineSettings()
        self.engine = Engine(secret=SECRET, settings=msgspec.structs.replace(base, age_max_ms=None))
        for brand in brands:
            self.engine.put_brand(brand)
        self.engine.put_fences(fences)
        for offer in offers:
            self.engine.put_offer(offer)
        self._opted_in = opted_in
        self._resident = ResidentSettings(timezone=timezone)
        self._protections = protections or {}
        self._known: set[str] = set()
        self._newest_ms = 0
        self._hash = hashlib.sha256()
        self.statuses: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.withheld: Counter[str] = Counter()
        self.offers_by_id: Counter[str] = Counter()

    def run(self, lines: Iterable[bytes], *, batch: int) -> Iterator[list[Decision]]:
        """Decide a recorded stream, a batch at a time.

        Consecutive lines of equal time are taken in the order of their residents, whatever their
        order in the file; `received_ms` is the highest `at_ms` so far.
        """
        waiting: list[Ping | Decision] = []
        for item in _in_order(_items(lines)):
            if isinstance(item, Ping):
                item.received_ms = max(self._newest_ms, item.at_ms)
                if refusal(item, age_max_ms=None) is None:
                    # A line that is refused must not move the time of those behind it.
                    self._newest_ms = item.received_ms
                    self._meet(item.resident)
            waiting.append(item)
            if len(waiting) >= batch:
                yield self._decide(waiting)
                waiting = []
        if waiting:
            yield self._decide(waiting)

    def _meet(self, resident: str) -> None:
        """Enter a resident's wishes when they are first heard of; here a grant does not expire."""
        if resident in self._known:
            return
        self._known.add(resident)
        row = ResidentRow(id=resident, settings=self._resident)
        records: tuple[Record, ...] = ()
        if self._opted_in(resident):
            said = Said(actor="agent", now_ms=self._newest_ms)
            records = tuple(
                msgspec.structs.replace(record, expires_ms=None)
                for record in resolve(row, marketing(opted_in=True), said).records
            )
        self.engine.put_resident(
            resident, row.settings, len(records) and 1, records, now_ms=self._newest_ms
        )
        if resident in self._protections:
            self.engine.put_protection(resident, self._protections[resident])

    def _decide(self, items: list[Ping | Decision]) -> list[Decision]:
        decided = iter(self.engine.decide([item for item in items if isinstance(item, Ping)]))
        decisions = [next(decided) if isinstance(item, Ping) else item for item in items]
        self.engine.take_changes()
        for decision in decisions:
            self._hash.update(encode(decision))
            self._hash.update(b"\n")
            self.statuses[decision.status] += 1
            self.events.update(event.kind for event in decision.events)
            if decision.offer is not None and decision.status == "decided":
                self.offers_by_id[decision.offer.offer] += 1
            if decision.withheld is not None:
                self.withheld[decision.withheld] += 1
        return decisions

    def decisions_hash(self) -> str:
        """SHA-256 of all decisions so far, a JSON line each."""
        return self._hash.hexdigest()

    def presence_hash(self) -> str:
        """SHA-256 of where everybody is now, which does not depend on late arrivals."""
        rows = [
            (name, stay_rows(resident.stays))
            for name, resident in sorted(self.engine.residents.items())
            if resident.stays
        ]
        return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()

    def summary(self) -> dict[str, Any]:
        """The counts, in an order that does not depend on the run."""
        return {
            "pings": sum(self.statuses.values()),
            "by_status": dict(sorted(self.statuses.items())),
            "events": dict(sorted(self.events.items())),
            "offers_made": sum(self.offers_by_id.values()),
            "withheld": dict(sorted(self.withheld.items())),
            "decisions_sha256": self.decisions_hash(),
            "presence_sha256": self.presence_hash(),
        }


def _items(lines: Iterable[bytes]) -> Iterator[Ping | Decision]:
    """Each line that is not empty as a ping, or as the rejection of what is none."""
    for line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            item = decode_request(text, received_ms=0, resident=None, pings_max=1)
            if isinstance(item, list):
                raise BodyRefused("invalid_ping", "A line holds one ping, not a batch.")
            yield item
        except BodyRefused as refused:
            yield rejected(text, refused)


def _in_order(items: Iterable[Ping | Decision]) -> Iterator[Ping | Decision]:
    """Sort each run of lines of equal time by resident; equal residents keep their order."""
    run: list[Ping | Decision] = []
    for item in items:
        if run and item.at_ms != run[0].at_ms:
            yield from sorted(run, key=_resident)
            run = []
        run.append(item)
    yield from sorted(run, key=_resident)


def _resident(item: Ping | Decision) -> str:
    return item.resident
