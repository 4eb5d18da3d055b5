"""A server that does nothing: ``python -m bench.bare`` prints its port and answers every ping.

aiohttp on uvloop, which reads the body and gives the same bytes to everybody: what the machine
could do if Passby cost nothing.
"""

import asyncio
import sys
from typing import Final

import uvloop
from aiohttp import web

ANSWER: Final = (
    b'{"decision":"d0123456789abcdef01234567","resident":"r-000000","at_ms":1779969600000,'
    b'"status":"decided","events":[],"offer":null,"withheld":null}'
)


async def _answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


async def _run() -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app.router.add_post("/v1/pings", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_run())
