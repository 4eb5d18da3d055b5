"""Compressed bodies over real HTTP: read as what they are, and never larger than allowed."""

import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.web.encoding import PIECE_BYTES_MAX, Gzip, Inflater, Unreadable, Zstd
from tests.test_web_ndjson import NDJSON
from tests.test_web_socket import resident_kb
from tests.web_town import town

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
OPEN: dict[str, type[Inflater]] = {"gzip": Gzip, "zstd": Zstd}
LIMIT = 200_000
ENCODINGS = pytest.mark.parametrize("encoding", sorted(PACK))


@ENCODINGS
async def test_a_compressed_body_is_what_it_holds(tmp_path: Path, encoding: str) -> None:
    """One ping, a batch, a fence; several members or frames too; names in any case."""
    async with town(tmp_path) as here:
        one = msgspec.json.encode(here.ping("n", id="a"))
        pack = PACK[encoding]
        for body in (pack(one), pack(one[:20]) + pack(one[20:])):
            reply = await here.call("POST", "/v1/pings", data=body, Content_Encoding=encoding)
            assert (reply.status, reply.body["id"]) == (200, "a")
        many = pack(msgspec.json.encode({"pings": [here.ping("n")] * 10_000}))
        reply = await here.call("POST", "/v1/pings", data=many, Content_Encoding=encoding.upper())
        assert len(reply.body["decisions"]) == 10_000
        brand = pack(b'{"name": "c", "categories": [], "timezone": "UTC"}')
        reply = await here.call("PUT", "/v1/brands/c", data=brand, Content_Encoding=encoding)
        assert reply.status in (201, 422)


@ENCODINGS
async def test_a_compressed_stream_is_answered_as_it_comes(tmp_path: Path, encoding: str) -> None:
    async with town(tmp_path) as here:
        lines = b"".join(
            msgspec.json.encode(here.ping("n", id=str(n))) + b"\n" for n in range(9_000)
        )
        reply = await here.call(
            "POST",
            "/v1/pings",
            data=PACK[encoding](lines),
            Content_Encoding=encoding,
            Content_Type=NDJSON,
        )
        told = [msgspec.json.decode(line)["id"] for line in reply.body.splitlines()]

        assert told == [str(n) for n in range(9_000)]


@ENCODINGS
async def test_a_bomb_is_refused_and_costs_nothing(
    tmp_path: Path, encoding: str, measured: list[str]
) -> None:
    """As soon as more has come out than a body may hold, in a stream than a line may."""
    bomb = bomb_of(encoding, 1 << 30)
    async with town(tmp_path, body_bytes_max=LIMIT) as here:
        before_kb = resident_kb()
        for more in ({}, {"Content_Type": NDJSON}):
            reply = await here.call(
                "POST", "/v1/pings", data=bomb[:LIMIT], Content_Encoding=encoding, **more
            )
            assert (reply.status, reply.code) == (413, "body_too_large")
        grown_kb = resident_kb() - before_kb
        measured.append(f"a {encoding} bomb: {grown_kb} kB more in use")
        assert grown_kb < 32 * 1_024


def bomb_of(encoding: str, size: int) -> bytes:
    """Zeros without end, compressed; for gzip only its beginning is made."""
    if encoding == "zstd":
        packer = zstd.ZstdCompressor()
        piece = bytes(1 << 20)
        return b"".join(packer.compress(piece) for _ in range(size >> 20)) + packer.flush()
    gzipper = zlib.compressobj(9, wbits=31)
    piece = bytes(1 << 20)
    return b"".join(gzipper.compress(piece) for _ in range(256)) + gzipper.flush()


async def test_other_encodings_are_415(tmp_path: Path) -> None:
    """And the answer says which there are."""
    async with town(tmp_path) as here:
        for encoding in ("br", "deflate", "gzip, gzip", "nonsense"):
            for more in ({}, {"Content_Type": NDJSON}):
                reply = await here.call(
                    "POST", "/v1/pings", data=b"x", Content_Encoding=encoding, **more
                )
                assert (reply.status, reply.code) == (415, "unsupported_encoding")
                assert reply.headers["Accept-Encoding"] == "gzip, zstd"
        plain = msgspec.json.encode(here.ping("n"))
        reply = await here.call("POST", "/v1/pings", data=plain, Content_Encoding="identity")
        assert reply.status == 200


@ENCODINGS
async def test_what_is_not_in_its_encoding_is_unreadable(tmp_path: Path, encoding: str) -> None:
    """Not compressed, cut off, with something behind it."""
    async with town(tmp_path) as here:
        good = PACK[encoding](msgspec.json.encode(here.ping("n")))
        for body in (b"{}", good[:-3], good + b"more"):
            for more in ({}, {"Content_Type": NDJSON}):
                reply = await here.call(
                    "POST", "/v1/pings", data=body, Content_Encoding=encoding, **more
                )
                code = reply.body["code"] if reply.status == 400 else None
                if reply.status == 200:
                    code = msgspec.json.decode(reply.body.splitlines()[-1])["code"]
                assert code == "unreadable_request", (body, more, reply)


async def test_a_frame_with_too_wide_a_window_is_refused(tmp_path: Path) -> None:
    """Its window would have to be held in memory: 8 MiB is the most that HTTP allows."""
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    noise = os.urandom(1 << 20) * 20
    packer = zstd.ZstdCompressor(options=options)
    frame = packer.compress(noise) + packer.flush()
    async with town(tmp_path, body_bytes_max=1 << 25) as here:
        reply = await here.call(
            "POST", "/v1/pings", data=io.BytesIO(frame), Content_Encoding="zstd"
        )

        assert (reply.status, reply.code) == (400, "unreadable_request")


@ENCODINGS
def test_empty_members_do_not_go_on_forever(encoding: str) -> None:
    """Time without bytes is refused; a few are let through."""
    empty, opener = PACK[encoding](b""), OPEN[encoding]()
    assert list(opener.feed(empty * 10)) == []
    with pytest.raises(Unreadable):
        list(opener.feed(empty * 10))


@ENCODINGS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_body_in_any_parts_comes_out_whole(encoding: str, data: st.DataObject) -> None:
    """In pieces that are not longer than allowed, however it is cut."""
    wholes = data.draw(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=4))
    times = data.draw(st.sampled_from((1, 3, 2_000)))
    packed = b"".join(PACK[encoding](whole * times) for whole in wholes)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(packed)), max_size=6)))
    opener, out = OPEN[encoding](), list[bytes]()
    for start, end in zip([0, *cuts], [*cuts, len(packed)], strict=True):
        out += opener.feed(packed[start:end])
    opener.end()

    assert b"".join(out) == b"".join(whole * times for whole in wholes)
    assert all(0 < len(piece) <= PIECE_BYTES_MAX for piece in out)


@ENCODINGS
@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_break_it(encoding: str, noise: bytes) -> None:
    """They are opened or refused, at the beginning and in the middle of a good body."""
    good = PACK[encoding](b"some body " * 20)
    for body in (noise, good[: len(noise)] + noise, good + noise):
        opener = OPEN[encoding]()
        try:
            list(opener.feed(body))
            opener.end()
        except Unreadable:
            pass
