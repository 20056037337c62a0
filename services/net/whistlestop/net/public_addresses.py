"""Which IP addresses are public, that is, reachable from the whole internet.

An IPv6 address that embeds an IPv4 address is judged by the latter. The networks are listed here because the answers
of `ipaddress.is_global` differ between versions of Python (and include multicast).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # private
            "100.64.0.0/10",  # shared by carriers; metadata of Alibaba Cloud
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # the host of an Azure machine
            "169.254.0.0/16",  # link-local; metadata of most clouds
            "192.0.0.0/24",  # protocol assignments; metadata of Oracle Cloud
            "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "198.18.0.0/15",  # benchmarks
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)  # fmt: skip
_UNICAST_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
"""Non-public parts of global unicast: protocol assignments (Teredo among them) and documentation."""
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""The upper half of an interface id whose lower half is an IPv4 address."""


def parsed(text: str) -> Address:
    """Parse an address as returned by `getaddrinfo`. Raises ValueError."""
    return ip_address(text)


def unmapped(address: Address) -> Address:
    """Return the IPv4 address of an IPv4-mapped IPv6 address (`::ffff:0:0/96`); any other address itself."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_public(address: Address) -> bool:
    """Return whether the address, and any address embedded in it, is public."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address not in _UNICAST_6 or any(address in network for network in _NOT_PUBLIC_6):
        return False
    if address.sixtofour is not None:
        return is_public(address.sixtofour)
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return True


def is_link_local(address: Address) -> bool:
    """Return whether the address is link-local, where clouds have their metadata services."""
    return unmapped(address).is_link_local
