"""Requests that mean harm: traversal, forged hosts, injected headers, addresses to fetch, bodies that are no JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from hypothesis import strategies as st

from tests.fuzz.query import wire
from tests.fuzz.query.answers import MARK

UP: Final = (
    "../",
    "..%2f",
    "%2e%2e%2f",
    "%2e%2e/",
    "..%252f",
    "..%c0%af",
    "..%5c",
    "....//",
    ".%00./",
    "..;/",
    "%uff0e%uff0e/",
)
TARGETS: Final = (
    "etc/passwd",
    "proc/self/environ",
    "app.py",
    "../app.py",
    "manifests/2.25.4711.1/1.json",
    "openapi.yaml",
)
INJECTED: Final = ("%0d%0a", "%0a", "%0d", "%e5%98%8a%e5%98%8d", "%c0%8d%c0%8a", "%u000d%u000a")
NUMBERS: Final = (
    "0",
    "-1",
    "1",
    "1.5",
    "1e400",
    "NaN",
    "Infinity",
    "9" * 4000,
    "9" * 30,
    "1_0",
    " 1",
    "+1",
    "0x1",
    "\u0661",
    "",
    "null",
)
ODD: Final = (
    "%00",
    f"1.2%00{MARK}",
    "%ff%fe",
    "%ed%a0%80",
    "a" * 9000,
    "1." * 40 + "1",
    f"%f0%9f%98%80{MARK}",
    "%",
    "%zz",
    "~",
    "*",
    f"' OR 1=1 -- {MARK}",
    f"{{{{7*7}}}}{MARK}",
    f"<script>{MARK}</script>",
    "%s%n",
    "__proto__",
    "constructor",
    "..",
    ".",
    "...",
)
ROOTS: Final = (
    "/",
    "/static/",
    "/static/js/",
    "/v1/",
    "/v1/studies/",
    "/openapi.json",
    "/metrics",
    "/docs",
    "/redoc",
    "//",
    "/.",
)
HOSTS: Final = (
    f"{MARK}.example",
    f"localhost.{MARK}.example",
    f"localhost@{MARK}.example",
    "localhost:99999",
    "localhost:x",
    "[::1",
    "",
    f"localhost/{MARK}",
    "LOCALHOST",
    f"localhost#{MARK}",
    "localhost:80",
    "127.0.0.1.",
    "[::1]",
    "::1",
    "0",
    f"localhost {MARK}",
    "169.254.169.254",
    "\u2025localhost",
    f"localhost?{MARK}",
)
METHODS: Final = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    MARK.upper(),
)


def addresses(canary: str) -> tuple[str, ...]:
    """What a service that fetches would fetch; `canary` is a host and port that listens."""
    schemes = (
        "http://",
        "https://",
        "//",
        "ftp://",
        "gopher://",
        "jar:http://",
        "ldap://",
        f"http://localhost@{MARK}@",
    )
    return (
        *(f"{scheme}{canary}/{MARK}" for scheme in schemes),
        f"${{jndi:ldap://{canary}/{MARK}}}",
        f"file:///etc/passwd?{MARK}",
        f"s3://{canary}/{MARK}",
        "http://169.254.169.254/latest/",
        f"\\\\{canary}\\{MARK}",
        f"http:%2f%2f{canary}%2f{MARK}",
    )


@st.composite
def values(draw: st.DrawFn, canary: str) -> str:
    """A hostile value, as it may stand in a path or a query."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.sampled_from(UP)) * draw(st.integers(1, 9)) + draw(st.sampled_from(TARGETS))
    if kind == 1:
        start = draw(st.sampled_from(("1.2.3", "", "brain-mr")))
        end_of_line = draw(st.sampled_from(INJECTED))
        return f"{start}{end_of_line}X-Injected:%20{MARK}{end_of_line}Set-Cookie:%20{MARK}"
    if kind == 2:
        return quote(draw(st.sampled_from(addresses(canary))), safe=draw(st.sampled_from(("", "/:", "%"))))
    if kind == 3:
        return quote(draw(st.sampled_from(NUMBERS)))
    if kind == 4:
        return quote(draw(st.text(max_size=30)).encode("utf-8", "replace"), safe="")
    return quote(draw(st.sampled_from(ODD)), safe="%")


@st.composite
def targets(
    draw: st.DrawFn, paths: list[str], queries: list[str], known: Mapping[str, list[object]], canary: str
) -> str:
    """A path of the API, or none of it, with hostile values in its places; and a query."""
    if draw(st.integers(0, 3)) == 0:
        path = draw(st.sampled_from(ROOTS)) + draw(values(canary))
    else:
        path = draw(st.sampled_from(paths))
        for part in path.split("{")[1:]:
            name = part.split("}")[0]
            is_known = name in known and draw(st.booleans())
            path = path.replace(
                f"{{{name}}}", str(draw(st.sampled_from(known[name]))) if is_known else draw(values(canary))
            )
    names = draw(st.lists(st.sampled_from((*queries, MARK, "file", "url", "callback", "format")), max_size=4))
    query = "&".join(f"{name}={draw(values(canary))}" for name in names)
    return "".join(letter for letter in f"{path}?{query}" if "!" <= letter <= "~")


@st.composite
def forged(draw: st.DrawFn, canary: str) -> list[tuple[str, str]]:
    """Headers that proxies, caches and frameworks are known to believe."""
    address = draw(st.sampled_from(addresses(canary)))
    every = (
        ("X-Forwarded-Host", f"{MARK}.example"),
        ("X-Forwarded-For", f"127.0.0.1, {MARK}"),
        ("X-Forwarded-Proto", "javascript"),
        ("X-Forwarded-Prefix", f"/{MARK}"),
        ("Forwarded", f"host={MARK}.example;for=127.0.0.1"),
        ("X-Original-URL", f"/{MARK}"),
        ("X-Rewrite-URL", "/metrics"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Method-Override", "PUT"),
        ("Origin", address),
        ("Referer", address),
        ("Range", draw(st.sampled_from((f"bytes={MARK}", "bytes=0-1,2-3", "bytes=9-1", "bytes=-99999999999999")))),
        ("If-None-Match", draw(st.sampled_from((f'"{MARK}"', "*", "W/" * 3000)))),
        ("If-Modified-Since", MARK),
        ("Last-Event-ID", draw(st.sampled_from((f"{MARK}-1", "9" * 64, f"a-{'9' * 20}", "-", "x" * 3000)))),
        ("Accept", draw(st.sampled_from((f"text/{MARK}", "*/*;q=" + "9" * 500, "application/xml")))),
        ("Cookie", f"{MARK}={MARK}; " * 50),
        ("Authorization", draw(st.sampled_from((f"Bearer {MARK}", "Basic Og==", "Bearer", "Negotiate " + "A" * 4000)))),
        ("Upgrade", "websocket"),
        ("Upgrade", "h2c"),
        ("Proxy", address),
        ("X-Request-ID", f"{MARK}\t{MARK}"),
        ("Via", address),
        ("Content-Type", f"application/json; charset={MARK}"),
        ("Accept-Encoding", "gzip, " * 200),
        ("Prefer", f"respond={MARK}"),
        ("Access-Control-Request-Method", "DELETE"),
        ("Access-Control-Request-Headers", MARK),
        ("Traceparent", f"00-{MARK}-01"),
    )
    return draw(st.lists(st.sampled_from(every), max_size=5))


@st.composite
def bodies(draw: st.DrawFn, whole: list[object]) -> bytes:
    """JSON, nearly JSON, and JSON that a parser would rather not have met."""
    value = json.loads(json.dumps(draw(st.sampled_from(whole))))
    strange = draw(
        st.sampled_from(
            (
                10**400,
                -1,
                0,
                1.5,
                float("nan"),
                float("inf"),
                -0.0,
                1e308,
                "",
                MARK,
                "\ud800",
                "\x00",
                "x" * 5000,
                None,
                True,
                [],
                {},
                [[]],
                {MARK: MARK},
                {"\udfff": 1},
                ["\ud800"] * 40,
                [{MARK: 1}] * 200,
                "1.2.3\r\nX-Injected: 1",
                "../../etc/passwd",
                2**63,
                2**64,
                -(2**63),
                "2026-02-30",
                "9" * 4000,
            )
        )
    )
    if isinstance(value, dict) and value:
        name = draw(
            st.sampled_from((*value, MARK, "\ud800", "limit", "frame_number", "filters", "cursor", "region", "frames"))
        )
        value[name] = strange
    text = json.dumps(value).encode()
    kind = draw(st.integers(0, 9))
    if kind == 0:
        depth = draw(st.sampled_from((50, 900, 20_000, 200_000)))
        opening, closing = draw(st.sampled_from(((b"[", b"]"), (b'{"searches":', b"}"), (b'{"filters":', b"}"))))
        return opening * depth + draw(st.sampled_from((b"1", b""))) + closing * depth
    if kind == 1:
        return draw(
            st.sampled_from(
                (b"\xef\xbb\xbf" + text, json.dumps(value).encode("utf-16"), text[:-1], text + text, b"", b"\xff")
            )
        )
    if kind == 2:
        first = json.dumps(next(iter(value), "a")) if isinstance(value, dict) else '"a"'
        return b"{" + first.encode() + b": 1, " + text.lstrip(b"{")
    if kind == 3:
        return b"9" * draw(st.sampled_from((400, 5000, 500_000)))
    if kind == 4:
        return json.dumps([value] * 500).encode()
    return text


def json_requests(method: str, target: str, body: bytes, kind: str) -> bytes:
    """A request with a body that calls itself JSON, or something else."""
    return wire.with_body(method, target, [("Content-Type", kind)] if kind else [], body)
