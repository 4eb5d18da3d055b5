"""Every setting of the service. Names carry their unit, last; each is also ``PASSBY_<NAME>``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

PREFIX: Final = "PASSBY_"
DATA_DEFAULT: Final = Path(".passby")
CHANGE_AGE_MIN_S: Final = 60
"""So that a server that is slow for a while is not told to start anew."""
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\sA-Z]+")
"""As browsers send it (RFC 6454, 7): nothing else would ever be equal."""


class SettingRefused(ValueError):
    """A setting is unknown or impossible; the text says which and what would be right."""


def _setting(default: Any, text: str, *, secret: bool = False) -> Any:
    """Declare one setting with the sentence that the reference shows for it."""
    return field(default=default, metadata={"text": text, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings, checked when they are read and never later."""

    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8080, "TCP port to listen on; 0 takes a free one.")
    tls_certificate: str = _setting(
        "", "PEM file with the certificate and its chain; empty: plain HTTP. SIGHUP reads it again."
    )
    tls_key: str = _setting(
        "", "PEM file with the certificate's key; empty: it stands with the certificate."
    )
    data: Path = _setting(  # noqa: RUF009 (a Path never changes)
        DATA_DEFAULT, "Folder of the embedded database and the keys."
    )
    database_url: str = _setting(
        "", "PostgreSQL to use; empty: the embedded one under `data`.", secret=True
    )
    operator_key: str = _setting(
        "", "The operator's key; empty: made at the first start, in `data`.", secret=True
    )
    timezone: str = _setting("UTC", "The city's IANA zone, for residents who name none.")
    controller: str = _setting(
        "", "Who is responsible for what is kept of residents, for their receipts: name, contact."
    )
    law_packs: str = _setting(
        "",
        "Packs of laws that hold whatever residents grant, comma between: names of shipped ones "
        "(us-ca-ccpa, us-ny-gbl-394-g, us-wa-mhmda) or paths of JSON files; empty: minors' alone.",
    )
    attention_per_day: int = _setting(1, "Offers a resident gets a day, unless they chose.")
    attention_per_week: int = _setting(3, "Offers a resident gets in seven days, likewise.")
    body_bytes_max: int = _setting(4 * 1024 * 1024, "Longest request body, bytes.")
    import_bytes_max: int = _setting(256 * 1024 * 1024, "Longest body of an import, bytes.")
    import_rows_max: int = _setting(1_000_000, "Most rows of an import.")
    imports_max: int = _setting(2, "Imports at once; more are answered 503.")
    body_seconds_max: int = _setting(30, "Longest time that a body may take to arrive, seconds.")
    pings_max: int = _setting(10_000, "Most pings in one request, or message of a WebSocket.")
    connections_max: int = _setting(20_000, "Most connections at once; more are answered 503.")
    head_seconds_max: int = _setting(10, "Longest time that a request's head may take, seconds.")
    idle_seconds_max: int = _setting(75, "How long a connection may rest between requests, s.")
    stalled_seconds_max: int = _setting(
        10, "How long a client may read nothing of what waits for it, seconds."
    )
    stream_lines_max: int = _setting(
        5_000, "Most pings of one stream that are decided and wait to be answered."
    )
    stream_idle_seconds_max: int = _setting(
        300, "Longest silence in the body of an NDJSON stream, seconds."
    )
    sockets_max: int = _setting(10_000, "Most WebSockets at once; more are answered 503.")
    heartbeat_seconds: int = _setting(30, "A WebSocket that is silent so long is pinged, seconds.")
    event_heartbeat_ms: int = _setting(
        15_000, "Longest silence of a stream of events before a comment is sent, ms."
    )
    event_streams_max: int = _setting(
        10_000, "Most streams of events at once; more are answered 503."
    )
    event_queue_max: int = _setting(
        1_000, "Most events kept in memory for one stream; beyond it they are read again."
    )
    event_every_ms: int = _setting(
        20, "Shortest pause between two times that new events get their numbers, ms."
    )
    event_age_max_s: int = _setting(
        86_400, "How long events are kept for streams to go on from, seconds."
    )
    events_max: int = _setting(1_000_000, "Most events kept for streams to go on from.")
    change_age_max_s: int = _setting(
        604_800,
        "How long the change feed is kept, s; a server that was away for longer must start anew.",
    )
    audit_age_max_days: int = _setting(730, "How long the audit log is kept, days; 0: for ever.")
    cors_origins: str = _setting(
        "", "Origins whose pages may call, comma between; `*`: all; empty: none."
    )
    slice_pings_max: int = _setting(500, "Most pings decided before the loop may turn.")
    requests_per_second_max: int = _setting(
        0, "Requests a second that one key may make, 0: no limit; pings count one each."
    )
    rate_burst_s: int = _setting(2, "How many seconds of that rate may come at once.")
    waiting_max: int = _setting(20_000, "Requests that may wait for a commit before we shed.")
    group_changes_max: int = _setting(5_000, "Most changes in one group commit.")
    queue_changes_max: int = _setting(100_000, "Most changes waiting for a commit before we shed.")
    kept_fixes_max: int = _setting(150, "Most fixes remembered of a resident, for late ones.")
    presence_age_max_days: int = _setting(
        7, "How long it is kept in which fences a resident was last seen, days."
    )
    claim_age_max_days: int = _setting(
        396, "How long a claim is known to be its resident's; afterwards it is nobody's, days."
    )
    records_max: int = _setting(
        5_000,
        "Records of one resident beyond which nothing is turned on any more; turning off always "
        "works, and leaves a record where it changes something.",
    )
    lease_ms: int = _setting(2_000, "How long preferences hold without news of the feed, ms.")
    poll_ms: int = _setting(500, "Longest pause between two looks at the feed, ms.")
    canary_s: int = _setting(
        60, "How often a made-up resident opts in and withdraws, to see that it works, seconds."
    )
    stop_seconds_max: int = _setting(10, "How long a graceful stop may take, seconds.")
    drain_seconds: int = _setting(
        1, "How long a stop waits for kept connections to be told that they end, seconds."
    )
    log_level: str = _setting("info", "debug, info, warning or error.")
    log_format: str = _setting("text", "text, or json: one object a line.")

    def __post_init__(self) -> None:
        """Refuse impossible values at the start, not at the first ping."""
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, int) and value < 0:
                raise SettingRefused(f"{setting.name} must be 0 or more, not {value}")
        for name in (
            "body_bytes_max",
            "pings_max",
            "slice_pings_max",
            "stream_lines_max",
            "heartbeat_seconds",
            "event_heartbeat_ms",
            "event_queue_max",
            "canary_s",
            "lease_ms",
            "poll_ms",
        ):
            if getattr(self, name) == 0:
                raise SettingRefused(f"{name} must be more than 0")
        if self.change_age_max_s < CHANGE_AGE_MIN_S:
            raise SettingRefused(f"change_age_max_s must be {CHANGE_AGE_MIN_S} or more")
        if self.port > 65_535:
            raise SettingRefused(f"port must be 0 to 65535, not {self.port}")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise SettingRefused("log_level must be debug, info, warning or error")
        if self.log_format not in ("text", "json"):
            raise SettingRefused("log_format must be text or json")
        if self.tls_key and not self.tls_certificate:
            raise SettingRefused("tls_key is of no use without tls_certificate")
        for origin in filter(None, map(str.strip, self.cors_origins.split(","))):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise SettingRefused(
                    "cors_origins must be `*` or origins as browsers send them, such as "
                    f"https://app.example or http://localhost:3000, not {origin!r}"
                )
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise SettingRefused(
                f"timezone must be an IANA zone such as Europe/Helsinki, not {self.timezone!r}"
            ) from error

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], **given: Any) -> "Config":
        """Read ``PASSBY_<NAME>`` variables; what is given by keyword (not None) wins.

        Raises:
            SettingRefused: a variable is unknown (a typo is never kept quiet) or impossible.
        """
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        named = {key: value for key, value in environ.items() if key.startswith(PREFIX)}
        if unknown := sorted(named.keys() - known.keys()):
            raise SettingRefused(
                f"unknown settings: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        values: dict[str, Any] = {}
        for key, text in named.items():
            values[known[key].name] = _read(key, text, type(known[key].default))
        values.update({name: value for name, value in given.items() if value is not None})
        return cls(**values)


def _read(key: str, text: str, kind: type) -> Any:
    """One variable's text as the type of its setting."""
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise SettingRefused(f"{key} must be a whole number, not {text!r}") from None
    return Path(text) if issubclass(kind, Path) else text
