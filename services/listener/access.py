"""Who may open an association, and how many at a time: the acceptor's A-ASSOCIATE-RJ, PS3.8 table 9-21.

A peer address that is not allowed gets no answer: its connection is closed before a byte of it is
read. PS3.8 has no reason code for an address, a reject would need the request to be parsed first
(section 9.2.3, state 2), and a stranger learns nothing of what listens here.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from services.listener.ports import Reject
from shared.addresses import Network, is_within, normal_address, parse_network
from shared.errors import ConfigurationError
from shared.settings import Section

CALLING_AE_TITLE: Final = Reject(1, 1, 3, "calling-ae-title")
CALLING_AE_ADDRESS: Final = Reject(1, 1, 3, "calling-ae-address")
CALLED_AE_TITLE: Final = Reject(1, 1, 7, "called-ae-title")
# Only for an address that comes to light once the request is read; no reason is given.
PEER_ADDRESS: Final = Reject(1, 1, 1, "peer-address")
# Transient, from the presentation related function: a sender tries again.
TOTAL_LIMIT: Final = Reject(2, 3, 2, "association-limit")
PEER_LIMIT: Final = Reject(2, 3, 1, "peer-limit")

_MAX_AE_TITLE: Final = 16
_CONNECTIONS_PER_ASSOCIATION: Final = 2
# PS3.5 table 6.2-1, AE: the default repertoire without backslash and control characters.
_AE_PATTERN: Final = re.compile(r"[ -\[\]-~]+")


class AccessSection(Section):
    """Allow-lists; an empty one allows any."""

    calling_ae_titles: tuple[str, ...] = Field(
        (),
        description="AE titles that may send, with * and ?; NAME@NETWORK (CT1@10.1.0.0/16) ties a title to a network: "
        "from elsewhere it is rejected. Unset: any.",
    )
    called_ae_titles: tuple[str, ...] = Field(
        (), description="AE titles that senders may call, with * and ?. Unset: the listener's own; *: any."
    )
    peers: tuple[str, ...] = Field(
        (), description="IP addresses and networks (10.1.0.0/16, 2001:db8::/32) that may connect. Unset: any."
    )


@dataclass(frozen=True, slots=True)
class _Title:
    """A pattern of AE titles, and the network it is tied to."""

    pattern: re.Pattern[str]
    network: Network | None


class AccessRules:
    """The allow-lists of one listener.

    Raises:
        ConfigurationError: from the constructor, an entry is no AE title, pattern or network.
    """

    def __init__(self, section: AccessSection, *, ae_title: str) -> None:
        self._calling = tuple(map(_calling_entry, section.calling_ae_titles))
        # The listener's own title is no pattern: it may hold a * itself.
        own = re.compile(re.escape(ae_title.strip(" ")))
        self._called = tuple(map(_pattern, section.called_ae_titles)) or (own,)
        self._peers = tuple(map(parse_network, section.peers))

    def is_welcome(self, peer_address: str) -> bool:
        """Whether a peer may connect at all."""
        if not self._peers:
            return True
        address = normal_address(peer_address)
        return address is not None and is_within(address, self._peers)

    def check(self, *, calling_ae_title: str, called_ae_title: str, peer_address: str) -> Reject | None:
        """Why an association with these AE titles is rejected; None if it is not.

        Leading and trailing spaces of AE titles count for nothing (PS3.5 section 6.2), case does.
        """
        if not self.is_welcome(peer_address):
            return PEER_ADDRESS
        called = called_ae_title.strip(" ")
        if not any(pattern.fullmatch(called) for pattern in self._called):
            return CALLED_AE_TITLE
        if not self._calling:
            return None
        calling = calling_ae_title.strip(" ")
        matching = [title for title in self._calling if title.pattern.fullmatch(calling)]
        if not matching:
            return CALLING_AE_TITLE
        networks = [title.network for title in matching if title.network is not None]
        if networks:
            # Tied to networks by any entry, a title does not come from elsewhere, whatever the others say.
            address = normal_address(peer_address)
            if address is None or not is_within(address, networks):
                return CALLING_AE_ADDRESS
        return None


class OpenAssociations:
    """Counts connections and associations, in all and for each peer address. Safe from any thread.

    A connection is `connected` before its request is read and `disconnected` at its end; between
    them its association is admitted at most once.
    """

    def __init__(self, *, max_total: int, max_per_peer: int, max_connections: int) -> None:
        self._max_total = max_total
        self._max_per_peer = max_per_peer
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._connections: Counter[str] = Counter()
        self._total = 0
        self._by_peer: Counter[str] = Counter()

    def connected(self, peer_address: str) -> bool:
        """Count a connection, if there may be one more: each holds a thread before it is an association.

        A peer may have twice as many as associations, so that none keeps all others out.
        """
        peer = _key(peer_address)
        with self._lock:
            if self._connections.total() >= self._max_connections:
                return False
            if self._connections[peer] >= _CONNECTIONS_PER_ASSOCIATION * self._max_per_peer:
                return False
            self._connections[peer] += 1
            return True

    def disconnected(self, peer_address: str) -> None:
        """A connection that was counted is closed.

        Raises:
            ValueError: none of this peer's was counted.
        """
        peer = _key(peer_address)
        with self._lock:
            if not self._connections[peer]:
                raise ValueError("no connection of this peer is counted")
            self._connections[peer] -= 1
            if not self._connections[peer]:
                del self._connections[peer]

    def admit(self, peer_address: str) -> Reject | None:
        """Count an association of this peer, or say why there may be no more."""
        peer = _key(peer_address)
        with self._lock:
            if self._total >= self._max_total:
                return TOTAL_LIMIT
            if self._by_peer[peer] >= self._max_per_peer:
                return PEER_LIMIT
            self._total += 1
            self._by_peer[peer] += 1
            return None

    def leave(self, peer_address: str) -> None:
        """An association that was admitted has ended.

        Raises:
            ValueError: none of this peer's was admitted.
        """
        peer = _key(peer_address)
        with self._lock:
            if not self._by_peer[peer]:
                raise ValueError("this peer has no association")
            self._total -= 1
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]

    @property
    def total(self) -> int:
        """Associations that are open."""
        return self._total

    @property
    def peers(self) -> int:
        """Peer addresses with an open association."""
        return len(self._by_peer)


def _calling_entry(text: str) -> _Title:
    title, at, network = text.rpartition("@")
    if not at:
        return _Title(_pattern(text), None)
    try:
        return _Title(_pattern(title), parse_network(network))
    except ConfigurationError as error:
        raise ConfigurationError(f"calling AE title {text!r}: {error} (for an @ in a title write ?)") from error


def _pattern(title: str) -> re.Pattern[str]:
    stripped = title.strip(" ")
    if not _AE_PATTERN.fullmatch(stripped):
        raise ConfigurationError(f"{title!r} is no AE title: it is empty, or has a character that none may have")
    if len(stripped.replace("*", "")) > _MAX_AE_TITLE:
        raise ConfigurationError(f"{title!r} is no AE title: it is longer than {_MAX_AE_TITLE} characters")
    return re.compile(re.escape(stripped).replace(r"\*", ".*").replace(r"\?", "."))


def _key(peer_address: str) -> str:
    return str(normal_address(peer_address) or peer_address)
