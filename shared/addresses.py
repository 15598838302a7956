"""IP addresses and networks as peers and settings name them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from shared.errors import ConfigurationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def normal_address(address: str) -> Address | None:
    """An IP address without a scope id, and as IPv4 where it is an IPv4-mapped one; None if it is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def parse_network(text: str) -> Network:
    """A network, or the network of one address; IPv4 where it is an IPv4-mapped one.

    Raises:
        ConfigurationError: `text` is none, or has bits set beyond its prefix.
    """
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is no IP address or network: {error}") from error
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        address = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(address or 0), network.prefixlen - 96))
    return network


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether any of the networks holds the address."""
    return any(address in network for network in networks)
