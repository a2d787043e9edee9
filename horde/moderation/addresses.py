"""Addresses and blocks of addresses, as timeouts know them.

A block's name is `<IP version>/<prefix length>/<prefix in hexadecimal>`: the names of all blocks that hold an
address can be written down without asking anybody.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network

from horde.platform.http.requests import parse_address

Network = IPv4Network | IPv6Network

_BITS = {4: 32, 6: 128}
_MAPPED_PREFIX = 96
_OFFENDER_PREFIX = {4: 32, 6: 64}
"""An IPv6 customer has a /64 at least, and can change addresses in it at will."""


def read_network(text: str) -> Network | None:
    """The block that `text` names, or a single address as a block of one; None when it is neither.

    Bits of a block's address beyond its prefix are dropped, and IPv4 in IPv6 is IPv4.
    """
    if "/" not in text:
        address = parse_address(text)
        return None if address is None else ip_network(address)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_PREFIX:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX))
    return network


def offender(network: Network) -> Network:
    """The block that is held to account for a single address: itself, or the /64 of an IPv6 address."""
    prefix = min(network.prefixlen, _OFFENDER_PREFIX[network.version])
    return network.supernet(new_prefix=prefix)


def is_single(network: Network) -> bool:
    """Whether it is one address rather than a block."""
    return network.prefixlen == network.max_prefixlen


def shown(network: Network) -> str:
    """As people write it: an address, or a block in CIDR notation."""
    return str(network.network_address) if is_single(network) else str(network)


def name(network: Network) -> str:
    """The block's name."""
    return _names(network)[network.prefixlen]


def names_of_holders(network: Network) -> list[str]:
    """The names of all blocks that hold `network` completely, the widest first."""
    return _names(network)[: network.prefixlen + 1]


def named(name: str) -> Network:
    """The block of this name."""
    version, prefix, bits = name.split("/")
    length, size = int(prefix), _BITS[int(version)]
    kind = IPv4Network if version == "4" else IPv6Network
    return kind((int(bits, 16) << (size - length), length))


def _names(network: Network) -> list[str]:
    version, size, value = network.version, network.max_prefixlen, int(network.network_address)
    return [f"{version}/{length}/{value >> (size - length):x}" for length in range(size + 1)]
