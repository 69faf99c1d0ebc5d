"""Accepted host names, and proxies that are trusted to report the client address."""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address, ip_network


class TrustPolicy:
    """By default any `Host` is accepted, and the client is the connection's peer."""

    def __init__(self, hosts: Collection[str], proxies: Collection[str]) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._proxies = [ip_network(proxy) for proxy in proxies]
        self._is_proxy = lru_cache(maxsize=1024)(self._matches_proxy)

    def allows_host(self, host: bytes) -> bool:
        """Return whether a `Host` header, with or without a port, is accepted."""
        return not self._hosts or _without_port(host.decode("latin-1").lower()) in self._hosts

    def client_address(self, peer: tuple[str, int] | None, forwarded_for: bytes) -> str | None:
        """Return the last address in `X-Forwarded-For` that is not a trusted proxy's, if the peer is one.

        A client can forge all addresses before that one.
        """
        address = None if peer is None else peer[0]
        if not self._proxies or address is None:
            return address
        for hop in reversed(forwarded_for.decode("latin-1").split(",")):
            if not self._is_proxy(address):
                break
            forwarded = _hop_address(hop)
            if forwarded is None:
                break
            address = forwarded
        return address

    def _matches_proxy(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._proxies)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _hop_address(hop: str) -> str | None:
    """Return the address of a hop, which some proxies send with a port or, for IPv6, in brackets."""
    address = hop.strip()
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = _without_port(address)
    return address if _is_address(address) else None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
