"""Webhooks go to public addresses only, whatever a name or a redirect says."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace
from receiver import deliveries, receiver, record_event, subscribe

from service.database.database import Database
from service.settings import Settings
from service.webhooks.address_filter import is_certainly_private, is_public
from service.webhooks.dispatcher import WebhookDispatcher
from tests.support.app_helpers import eventually

pytestmark = pytest.mark.settings(webhook_poll_seconds=0.05)
REFUSED = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.31.0.1"),
    *("192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("168.63.129.16", "161.26.0.10", "166.9.1.1", "100.100.100.200", "::ffff:168.63.129.16"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "100::1"),
    *("2001:db8::1", "3fff::1", "5f00::1", "2001::1", "2001:2::1", "4000::1", "64:ff9b:1::7f00:1"),
    *("::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1"),
    *("2002:7f00:1::", "2002:0a00:0001::1", "2002:a9fe:a9fe::", "2001:0:0a00:1::"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.255"),
    *("2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_rejected(address: str) -> None:
    assert not is_public(ip_address(address))
    assert is_certainly_private(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_accepted(address: str) -> None:
    assert is_public(ip_address(address))
    assert not is_certainly_private(address)


@pytest.mark.parametrize("host", ["localhost", "localhost.", "shop.localhost", "a.b.localhost."])
def test_the_name_of_this_machine_is_rejected(host: str) -> None:
    assert is_certainly_private(host)


@pytest.mark.parametrize("host", ["shop.example", "notlocalhost", "localhost.example", "10.example"])
def test_no_other_name_is_rejected_at_registration(host: str) -> None:
    assert not is_certainly_private(host)


@given(st.ip_addresses())
def test_no_address_that_python_considers_private_is_public(address: IPv4Address | IPv6Address) -> None:
    assume(not address.is_global or address.is_multicast)
    inner = isinstance(address, IPv6Address) and (address.ipv4_mapped or address.sixtofour)
    assert not is_public(address) or (inner and is_public(inner))


@given(st.ip_addresses(v=4))
def test_an_embedded_address_decides(inner: IPv4Address) -> None:
    number = int(inner)
    for outer in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert is_public(IPv6Address(outer)) == is_public(inner)
    assert not is_public(IPv6Address(number))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_name_or_address_of_this_machine_is_rejected_when_connecting(
    database: Database, settings: Settings, host: str
) -> None:
    async with receiver() as local, WebhookDispatcher(database, settings).open():
        await subscribe(database, local.url.replace("127.0.0.1", host))
        await record_event(database)
        attempt = await first_attempt(database)
        assert (attempt["status_code"], attempt["error"]) == (None, "The address is not public")
        assert local.received == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(database: Database, settings: Settings, status: int) -> None:
    allowing = replace(settings, webhook_allow_private=True)
    async with receiver() as other, receiver(status=status, headers={"Location": other.url}) as local:
        async with WebhookDispatcher(database, allowing).open():
            await subscribe(database, local.url)
            await record_event(database)
            attempt = await first_attempt(database)
        assert (attempt["status_code"], attempt["error"]) == (status, "Redirects are not followed")
        assert len(local.received) == 1
        assert other.received == []


async def test_no_proxy_of_the_environment_is_used(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowing = replace(settings, webhook_allow_private=True)
    async with receiver() as proxy, receiver() as local:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with WebhookDispatcher(database, allowing).open():
            await subscribe(database, local.url)
            await record_event(database)
            await local.until(1)
        assert proxy.received == []


async def first_attempt(database: Database) -> dict[str, object]:
    async def tried() -> bool:
        return bool((await deliveries(database))[0]["attempts"])

    await eventually(tried)
    attempt: dict[str, object] = (await deliveries(database))[0]["attempts"][0]
    return attempt
