"""Where webhooks may go: to public addresses only, checked on the address that is connected to.

A name is no proof of where it leads, and may lead elsewhere by the time of the connection; so the check is
where the socket is made. A literal address is refused earlier as well, to tell whoever registers it.
"""

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
AddressInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]

# By IANA's registries of special-purpose addresses (RFC 6890), and multicast. A list of our own: that of
# Python's `is_global` depends on its patch version, and counts multicast among the global ones.
NOT_PUBLIC_V4 = [
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
PUBLIC_V6 = IPv6Network("2000::/3")
NOT_PUBLIC_V6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20")]
"""Within the former. Teredo's is 2001::/32."""

EMBEDDING = {IPv6Network("::ffff:0:0/96"): 0, IPv6Network("64:ff9b::/96"): 0, IPv6Network("2002::/16"): 80}
"""Networks that stand for IPv4 ones (mapped, NAT64, 6to4), and how many bits follow the IPv4 address."""


class PrivateAddressError(OSError):
    """The address is not one webhooks may go to."""

    def __init__(self) -> None:
        # always the same words: aiohttp passes on what all addresses of a name have in common
        super().__init__(errno.EACCES, "The address is not public")


def is_public(address: Address) -> bool:
    """Whether anybody on the internet means the same by this address."""
    if isinstance(address, IPv6Address):
        inner = embedded_ipv4(address)
        if inner is None:
            return address in PUBLIC_V6 and not any(address in network for network in NOT_PUBLIC_V6)
        address = inner
    return not any(address in network for network in NOT_PUBLIC_V4)


def embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one end up at."""
    for network, bits_after in EMBEDDING.items():
        if address in network:
            return IPv4Address(int(address) >> bits_after & 0xFFFF_FFFF)
    return None


def is_certainly_private(host: str) -> bool:
    """Whether it is certain without a look-up that the host is not public."""
    if address := parse_ip_literal(host):
        return not is_public(address)
    return f".{host.rstrip('.')}".endswith(".localhost")


def parse_ip_literal(host: str) -> Address | None:
    """The address a host is, if it is not a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def public_socket(info: AddressInfo) -> socket.socket:
    """For aiohttp's `socket_factory`, which gets the very address. Raises `PrivateAddressError`."""
    family, kind, protocol, _, address = info
    if not is_public(ip_address(address[0])):
        raise PrivateAddressError
    return socket.socket(family, kind, protocol)
