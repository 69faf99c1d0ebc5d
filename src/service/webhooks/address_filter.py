"""SSRF protection: webhooks may only reach public addresses, checked on the address of the connection.

A host name can resolve differently at connect time, so the check is made when the socket is created. A
literal address is also rejected at registration, to inform the client early.
"""

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
AddressInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]

# From IANA's registries of special-purpose addresses (RFC 6890), plus multicast. Python's `is_global`
# depends on its patch version and counts multicast as global.
NOT_PUBLIC_V4 = [
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Services that clouds offer to their own machines under public addresses: Azure, IBM.
        *("168.63.129.16/32", "161.26.0.0/16", "166.8.0.0/14"),
    )
]
PUBLIC_V6 = IPv6Network("2000::/3")
NOT_PUBLIC_V6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20")]
"""Non-public networks inside 2000::/3; Teredo (2001::/32) is in 2001::/23."""

EMBEDDING = {IPv6Network("::ffff:0:0/96"): 0, IPv6Network("64:ff9b::/96"): 0, IPv6Network("2002::/16"): 80}
"""IPv6 networks that embed IPv4 addresses (mapped, NAT64, 6to4), and the number of bits behind it."""


class PrivateAddressError(OSError):
    """The address is not public."""

    def __init__(self) -> None:
        # Constant text: aiohappyeyeballs raises the first error if all have the same text.
        super().__init__(errno.EACCES, "The address is not public")


def is_public(address: Address) -> bool:
    """Return whether an address is globally routable."""
    if isinstance(address, IPv6Address):
        inner = embedded_ipv4(address)
        if inner is None:
            return address in PUBLIC_V6 and not any(address in network for network in NOT_PUBLIC_V6)
        address = inner
    return not any(address in network for network in NOT_PUBLIC_V4)


def embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address embedded in an IPv6 address, or None."""
    for network, bits_after in EMBEDDING.items():
        if address in network:
            return IPv4Address(int(address) >> bits_after & 0xFFFF_FFFF)
    return None


def is_certainly_private(host: str) -> bool:
    """Return whether a host is certainly not public, without DNS."""
    if address := parse_ip_literal(host):
        return not is_public(address)
    return f".{host.rstrip('.')}".endswith(".localhost")


def parse_ip_literal(host: str) -> Address | None:
    """Return the address if the host is an IP literal, else None."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def public_socket(info: AddressInfo) -> socket.socket:
    """Create a socket for a resolved address. Raises `PrivateAddressError`."""
    family, kind, protocol, _, address = info
    if not is_public(ip_address(address[0])):
        raise PrivateAddressError
    return socket.socket(family, kind, protocol)
