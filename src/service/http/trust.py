"""Whose word is taken: which host names this service goes by, and which proxies say who a client is."""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address, ip_network


class TrustPolicy:
    """Unless told otherwise any `Host` is right, and a client is who opened the connection."""

    def __init__(self, hosts: Collection[str], proxies: Collection[str]) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._proxies = [ip_network(proxy) for proxy in proxies]
        self._is_proxy = lru_cache(maxsize=1024)(self._matches_proxy)

    def allows_host(self, host: bytes) -> bool:
        """Whether the `Host` header, with or without a port, names this service."""
        return not self._hosts or _without_port(host.decode("latin-1").lower()) in self._hosts

    def client_address(self, peer: tuple[str, int] | None, forwarded_for: bytes) -> str | None:
        """Who asks: the last address in `X-Forwarded-For` that is not a proxy's own, if a proxy says so.

        What stands before it, anybody could have sent.
        """
        address = None if peer is None else peer[0]
        if not self._proxies or address is None:
            return address
        for hop in reversed(forwarded_for.decode("latin-1").split(",")):
            if not self._is_proxy(address):
                break
            if not _is_address(hop.strip()):
                break
            address = hop.strip()
        return address

    def _matches_proxy(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._proxies)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
