"""Allow-lists and limits of associations, against the standard library's own idea of addresses."""

from __future__ import annotations

import ipaddress
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.listener.access import (
    CALLED_AE_TITLE,
    CALLING_AE_ADDRESS,
    CALLING_AE_TITLE,
    PEER_ADDRESS,
    PEER_LIMIT,
    TOTAL_LIMIT,
    AccessRules,
    AccessSection,
    OpenAssociations,
)
from services.listener.ports import Reject
from shared.addresses import normal_address, parse_network
from shared.errors import ConfigurationError

IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6)
NETWORKS = st.one_of(
    st.builds(lambda address, prefix: ipaddress.ip_network((address, prefix), strict=False), IPV4, st.integers(0, 32)),
    st.builds(lambda address, prefix: ipaddress.ip_network((address, prefix), strict=False), IPV6, st.integers(0, 128)),
)
AE_CHARACTERS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "\\")
AE_TITLES = st.text(AE_CHARACTERS, min_size=1, max_size=16).filter(lambda title: title.strip(" "))


def rules(*, ae_title: str = "SIMILIS", **lists: tuple[str, ...]) -> AccessRules:
    return AccessRules(AccessSection(**lists), ae_title=ae_title)


def check(access: AccessRules, calling: str = "CT1", called: str = "SIMILIS", peer: str = "10.1.2.3") -> Reject | None:
    return access.check(calling_ae_title=calling, called_ae_title=called, peer_address=peer)


def test_rejects_carry_the_standards_numbers() -> None:
    """PS3.8 table 9-21."""
    numbers = {
        reject: (reject.result, reject.source, reject.reason)
        for reject in (CALLING_AE_TITLE, CALLING_AE_ADDRESS, CALLED_AE_TITLE, PEER_ADDRESS, TOTAL_LIMIT, PEER_LIMIT)
    }
    assert numbers == {
        CALLING_AE_TITLE: (1, 1, 3),
        CALLING_AE_ADDRESS: (1, 1, 3),
        CALLED_AE_TITLE: (1, 1, 7),
        PEER_ADDRESS: (1, 1, 1),
        TOTAL_LIMIT: (2, 3, 2),
        PEER_LIMIT: (2, 3, 1),
    }
    assert len({reject.why for reject in numbers}) == 6


def test_without_lists_any_sender_may_call_the_listeners_own_title() -> None:
    assert check(rules()) is None
    assert check(rules(), calling="", peer="no address") is None
    assert check(rules(), called="ELSEWHERE") == CALLED_AE_TITLE
    assert check(rules(), called="similis") == CALLED_AE_TITLE
    assert check(rules(), calling=" CT1 ", called="SIMILIS         ") is None


@pytest.mark.parametrize(
    ("pattern", "title", "matches"),
    [
        ("CT1", "CT1", True),
        ("CT1", "CT11", False),
        ("CT*", "CT", True),
        ("CT*", "CT_SCANNER_1", True),
        ("*", "anything", True),
        ("CT?", "CT7", True),
        ("CT?", "CT", False),
        ("CT.", "CT7", False),
        ("A[BC]", "AB", False),
        ("A[BC]", "A[BC]", True),
        ("ct*", "CT1", False),
    ],
)
def test_titles_match_by_star_and_question_mark_alone(pattern: str, title: str, matches: bool) -> None:
    assert (check(rules(calling_ae_titles=(pattern,)), calling=title) is None) is matches
    assert (check(rules(called_ae_titles=(pattern,)), called=title) is None) is matches


@given(title=AE_TITLES, other=AE_TITLES)
def test_the_listeners_own_title_is_taken_literally(title: str, other: str) -> None:
    access = rules(ae_title=title)
    assert check(access, called=title) is None
    assert (check(access, called=other) is None) is (title.strip(" ") == other.strip(" "))


def test_a_title_tied_to_a_network_comes_from_nowhere_else() -> None:
    access = rules(calling_ae_titles=("CT1@10.1.0.0/16", "CT1@2001:db8::/32", "MR*"))
    assert check(access, "CT1", peer="10.1.255.255") is None
    assert check(access, "CT1", peer="2001:db8::9") is None
    assert check(access, "CT1", peer="10.2.0.0") == CALLING_AE_ADDRESS
    assert check(access, "CT1", peer="not an address") == CALLING_AE_ADDRESS
    assert check(access, "CT2", peer="10.1.0.1") == CALLING_AE_TITLE
    assert check(access, "MR1", peer="192.0.2.1") is None


def test_a_wider_entry_does_not_loosen_a_tie() -> None:
    access = rules(calling_ae_titles=("*", "CT1@10.1.0.0/16"))
    assert check(access, "CT1", peer="10.9.0.1") == CALLING_AE_ADDRESS
    assert check(access, "CT2", peer="10.9.0.1") is None


def test_peers_outside_the_list_are_not_welcome() -> None:
    access = rules(peers=("10.1.0.0/16", "fe80::/10", "192.0.2.7"))
    for peer in ("10.1.2.3", "::ffff:10.1.2.3", "fe80::1%eth0", "192.0.2.7"):
        assert access.is_welcome(peer), peer
        assert check(access, peer=peer) is None
    for peer in ("10.2.0.1", "::ffff:10.2.0.1", "2001:db8::1", "192.0.2.8", "", "CT1", "10.1.2.3.4"):
        assert not access.is_welcome(peer), peer
        assert check(access, peer=peer) == PEER_ADDRESS


def test_a_scope_is_no_part_of_an_address() -> None:
    assert normal_address("fe80::1%eth0") == ipaddress.ip_address("fe80::1")
    assert normal_address("fe80::1%eth0") == normal_address("fe80::1%eth1")


@given(network=NETWORKS, address=st.one_of(IPV4, IPV6))
def test_membership_is_the_standard_librarys(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    holds_mapped = isinstance(network, ipaddress.IPv6Network) and network.overlaps(
        ipaddress.IPv6Network("::ffff:0:0/96")
    )
    if not mapped and not holds_mapped:
        assert rules(peers=(str(network),)).is_welcome(str(address)) is (address in network)


@given(network=NETWORKS, offset=st.integers(0, 2**128 - 1))
def test_a_network_welcomes_its_own_addresses(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, offset: int
) -> None:
    address = network.network_address + offset % network.num_addresses
    normal = normal_address(str(address))
    # ::/0 and its like hold the mapped range but are no IPv4 network: a mapped address is an IPv4 one.
    if normal is not None and normal.version == parse_network(str(network)).version:
        assert rules(peers=(str(network),)).is_welcome(str(address))


@given(address=IPV4, prefix=st.integers(0, 32), other=IPV4)
def test_ipv4_and_its_mapped_form_are_one(
    address: ipaddress.IPv4Address, prefix: int, other: ipaddress.IPv4Address
) -> None:
    network = ipaddress.IPv4Network((address, prefix), strict=False)
    mapped_network = f"::ffff:{network.network_address}/{96 + prefix}"
    assert parse_network(mapped_network) == network
    for spelled in (str(network), mapped_network):
        access = rules(peers=(spelled,))
        assert access.is_welcome(str(other)) is access.is_welcome(f"::ffff:{other}") is (other in network)


@pytest.mark.parametrize(
    "lists",
    [
        {"peers": ("10.1.0.5/16",)},
        {"peers": ("10.1.0.0/33",)},
        {"peers": ("hospital",)},
        {"peers": ("",)},
        {"calling_ae_titles": ("",)},
        {"calling_ae_titles": ("   ",)},
        {"calling_ae_titles": ("CT1\n",)},
        {"calling_ae_titles": ("C\\T",)},
        {"calling_ae_titles": ("ABCDEFGHIJKLMNOPQ",)},
        {"calling_ae_titles": ("CT1@10.1.0.5/16",)},
        {"calling_ae_titles": ("CT1@",)},
        {"calling_ae_titles": ("@10.1.0.0/16",)},
        {"calling_ae_titles": ("CT@SITE",)},
        {"called_ae_titles": ("ÄE",)},
    ],
)
def test_a_bad_entry_is_named(lists: dict[str, tuple[str, ...]]) -> None:
    [entries] = lists.values()
    with pytest.raises(ConfigurationError) as raised:
        rules(**lists)
    assert repr(entries[0]) in str(raised.value)


@given(titles=st.lists(st.text(max_size=20), max_size=4), peers=st.lists(st.text(max_size=20), max_size=4))
def test_any_list_is_taken_or_refused_clearly(titles: list[str], peers: list[str]) -> None:
    try:
        access = rules(calling_ae_titles=tuple(titles), called_ae_titles=tuple(titles), peers=tuple(peers))
    except ConfigurationError:
        return
    for title in titles:
        check(access, calling=title, called=title)


def test_limits_hold_in_all_and_for_each_peer() -> None:
    open_associations = OpenAssociations(max_total=3, max_per_peer=2, max_connections=10)
    assert open_associations.admit("10.0.0.1") is None
    assert open_associations.admit("::ffff:10.0.0.1") is None
    assert open_associations.admit("10.0.0.1") == PEER_LIMIT
    assert open_associations.admit("10.0.0.2") is None
    assert open_associations.admit("10.0.0.3") == TOTAL_LIMIT
    open_associations.leave("10.0.0.1")
    assert open_associations.admit("10.0.0.3") is None
    assert (open_associations.total, open_associations.peers) == (3, 3)


def test_what_ended_leaves_nothing_behind() -> None:
    open_associations = OpenAssociations(max_total=5000, max_per_peer=1, max_connections=1)
    peers = [f"10.0.{number // 256}.{number % 256}" for number in range(5000)]
    for peer in peers:
        assert open_associations.admit(peer) is None
    for peer in peers:
        open_associations.leave(peer)
    assert (open_associations.total, open_associations.peers) == (0, 0)


def test_a_departure_that_was_no_arrival_is_an_error() -> None:
    open_associations = OpenAssociations(max_total=2, max_per_peer=2, max_connections=2)
    assert open_associations.admit("10.0.0.1") is None
    with pytest.raises(ValueError, match="no association"):
        open_associations.leave("10.0.0.2")
    with pytest.raises(ValueError, match="no connection"):
        open_associations.disconnected("192.0.2.1")
    assert (open_associations.total, open_associations.peers) == (1, 1)


def test_connections_are_capped_before_they_are_associations() -> None:
    open_associations = OpenAssociations(max_total=1, max_per_peer=1, max_connections=2)
    assert open_associations.connected("192.0.2.1")
    assert open_associations.connected("192.0.2.1")
    assert not open_associations.connected("192.0.2.1")
    open_associations.disconnected("192.0.2.1")
    assert open_associations.connected("192.0.2.1")


def test_one_peer_cannot_hold_all_connections() -> None:
    open_associations = OpenAssociations(max_total=100, max_per_peer=2, max_connections=200)
    assert [open_associations.connected("192.0.2.1") for _ in range(5)] == [True] * 4 + [False]
    assert open_associations.connected("192.0.2.2")


def test_counts_stay_true_under_threads() -> None:
    open_associations = OpenAssociations(max_total=4, max_per_peer=2, max_connections=4)
    seen: list[int] = []
    start = threading.Barrier(8)

    def come_and_go(number: int) -> None:
        peer = f"10.0.0.{number % 3}"
        start.wait()
        for _ in range(500):
            if open_associations.connected("192.0.2.1"):
                if open_associations.admit(peer) is None:
                    seen.append(open_associations.total)
                    open_associations.leave(peer)
                open_associations.disconnected("192.0.2.1")

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen
    assert max(seen) <= 4
    assert (open_associations.total, open_associations.peers) == (0, 0)
    assert all(open_associations.connected("192.0.2.1") for _ in range(4))


@given(
    steps=st.lists(st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "::1"]), st.booleans()), max_size=60),
    total=st.integers(1, 5),
    per_peer=st.integers(1, 5),
)
def test_counts_are_those_of_a_plain_model(steps: list[tuple[str, bool]], total: int, per_peer: int) -> None:
    open_associations = OpenAssociations(max_total=total, max_per_peer=per_peer, max_connections=1)
    model: list[str] = []
    for peer, comes in steps:
        if comes:
            fits = len(model) < total and model.count(peer) < per_peer
            assert (open_associations.admit(peer) is None) is fits
            if fits:
                model.append(peer)
        elif peer in model:
            model.remove(peer)
            open_associations.leave(peer)
    assert (open_associations.total, open_associations.peers) == (len(model), len(set(model)))
