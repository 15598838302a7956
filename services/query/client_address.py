"""Whose request it is, by address: the socket's other end, or what trusted proxies say of it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network

from starlette.types import Scope

from shared.addresses import Address, is_within, normal_address, parse_network
from shared.errors import ConfigurationError


class ClientAddresses:
    """Reads addresses of clients. `trusted` are the addresses and networks of reverse proxies.

    X-Forwarded-For counts only where the socket's other end is such a proxy, and is read from the right, where each
    proxy adds whom it speaks for: the first address that is no proxy's is the client. What stands to its left is
    whatever the client sent.

    Raises:
        ConfigurationError: from the constructor, an entry is no address or network.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        try:
            self._trusted = tuple(map(parse_network, trusted))
        except ConfigurationError as error:
            raise ConfigurationError(f"SIMILIS_QUERY__TRUSTED_PROXIES: {error}") from error

    def of(self, scope: Scope) -> str:
        """The client's address in its normal form; empty where there is none, as on a Unix socket."""
        peer = normal_address(scope["client"][0]) if scope.get("client") else None
        if peer is None or not is_within(peer, self._trusted):
            return str(peer or "")
        client = peer
        for named in reversed(_forwarded_for(scope)):
            address = _address(named)
            if address is None:
                break
            client = address
            if not is_within(address, self._trusted):
                break
        return str(client)


def group_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, which one subscriber has."""
    parsed = normal_address(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False))
    return str(parsed or "")


def _forwarded_for(scope: Scope) -> list[str]:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return [part.strip() for value in values for part in value.split(",")]


def _address(named: str) -> Address | None:
    """An address as proxies write it: bare, in brackets, or with a port."""
    if named.startswith("["):
        return normal_address(named[1:].partition("]")[0])
    if named.count(":") == 1:
        named = named.partition(":")[0]
    return normal_address(named)
