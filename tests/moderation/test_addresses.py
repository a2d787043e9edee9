"""Addresses and blocks."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.moderation.addresses import (
    Network,
    name,
    named,
    names_of_holders,
    offender,
    read_network,
    shown,
)

NETWORKS = st.one_of(
    st.builds(
        lambda bits, prefix: ip_network((bits, prefix), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda bits, prefix: IPv6Network((bits, prefix), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)


@given(NETWORKS)
def test_a_name_stands_for_one_block(network: Network) -> None:
    assert named(name(network)) == network


@given(NETWORKS, NETWORKS)
def test_holders_are_all_blocks_that_hold_it(network: Network, other: Network) -> None:
    holders = [named(each) for each in names_of_holders(network)]
    assert [each.prefixlen for each in holders] == list(range(network.prefixlen + 1))
    assert holders[-1] == network
    for holder in holders:
        assert network.subnet_of(holder)  # type: ignore[arg-type]
    holds = other.version == network.version and network.subnet_of(other)  # type: ignore[arg-type]
    assert (other in holders) == holds


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("::1", "::1"),
        ("2001:DB8:0:1::9/64", "2001:db8:0:1::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7/120", "203.0.113.0/24"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_addresses_are_read(text: str, read: str) -> None:
    network = read_network(text)
    assert network is not None
    assert shown(network) == read


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4/33", "1.2.3.4/", "/24", "example.com", "1.2.3.4/a", "٣.1.1.1"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert read_network(text) is None


def test_ipv6_customers_answer_for_their_64() -> None:
    assert offender(IPv6Network("2001:db8::1")) == IPv6Network("2001:db8::/64")
    assert offender(IPv6Network("2001:db8::/48")) == IPv6Network("2001:db8::/48")
    assert offender(IPv4Network("203.0.113.7")) == IPv4Network("203.0.113.7")
