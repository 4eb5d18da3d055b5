"""The socket that is listened on, its certificate, and how connections are told that we stop.

Whoever starts us may hand over a socket that listens already, as systemd does (sd_listen_fds(3)).
It outlives us: who connects while one process ends and the next one starts waits in its queue, so a
restart refuses nobody. A socket of our own is gone with us, and with it those who stood in line.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from aiohttp import web

FIRST_FILE: Final = 3
"""Number of the first file that is handed over."""

LOOK_S: Final = 0.01
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for."""


def handed_over(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket that our starter hands over, if any; asked once.

    Raises:
        OSError: what was handed over is not one socket that listens.
    """
    if environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return None
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if count != "1":
        raise OSError(f"one listening socket can be handed over, not {count or 'none'}")
    os.set_inheritable(FIRST_FILE, False)
    given = socket.socket(fileno=FIRST_FILE)
    if given.family not in (socket.AF_INET, socket.AF_INET6) or not given.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise OSError("the file handed over is no TCP socket that listens")
    return given


def tell_starter(environ: Mapping[str, str], state: str) -> None:
    """Tell whoever started us how we are, if they want to know: sd_notify(3)."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        ):
            told.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


class Certificate:
    """The certificate that we show; read again while connections go on.

    Args:
        certificate, key: PEM files; an empty `key` means that it stands with the certificate.

    Raises:
        OSError: the files can't be read, or don't belong together.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._files = (certificate, key or None)
        self.context = self._read()

    def read_again(self) -> None:
        """Show what the files hold now; connections that are open keep what they have.

        Raises:
            OSError: as at the start; what was shown before is shown on.
        """
        self._read()
        self.context.load_cert_chain(*self._files)

    def ends_ms(self) -> int:
        """Until when the certificate is good, Unix milliseconds.

        Raises:
            OSError: nobody would take it, whatever the date.
        """
        theirs = ssl.create_default_context(cafile=self._files[0])
        theirs.check_hostname = False
        # The certificate vouches for itself here, and its dates are what we want to know.
        theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = theirs.wrap_bio(back, there)
        server = self.context.wrap_bio(there, back, server_side=True)
        for side in (client, server, client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        certificate: Any = client.getpeercert()
        return ssl.cert_time_to_seconds(certificate["notAfter"]) * 1_000

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(*self._files)
        except OSError as error:
            raise OSError(f"the certificate {self._files[0]} can't be used: {error}") from None
        return context


class Drain:
    """Lets clients go before a stop, each with its answer.

    A client that keeps its connection may send its next request in the very moment in which we
    close, and would get no answer. So each answer says first that it is the last one.
    """

    def __init__(self, app: web.Application) -> None:
        self.on = False
        """Whether an answer that is begun now is the last of its connection."""
        app.on_response_prepare.append(self._prepare)

    async def _prepare(self, _: web.Request, response: web.StreamResponse) -> None:
        if self.on and response.status != 101:
            response.headers["Connection"] = "close"
            response.force_close()

    async def run(self, connections: Callable[[], int], *, within_s: float) -> None:
        """Wait until nobody is connected, or the time is over."""
        self.on = True
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while connections() and loop.time() < until_s:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(LOOK_S)
