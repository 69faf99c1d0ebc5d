"""Tests of trusted hosts and proxies, and of CORS."""

import httpx
import pytest
from litestar.testing import AsyncTestClient
from msgspec.structs import replace

from service.app import create_app
from service.http.trust import TrustPolicy
from service.settings import Settings, SettingsError, load_settings
from tests.support.app_helpers import running
from tests.support.reply_assertions import assert_refused

PEER = ("10.1.2.3", 4711)


@pytest.mark.parametrize(
    ("proxies", "forwarded_for", "client"),
    [
        ([], b"6.6.6.6", "10.1.2.3"),
        (["10.0.0.0/8"], b"", "10.1.2.3"),
        (["10.0.0.0/8"], b"203.0.113.9", "203.0.113.9"),
        (["10.0.0.0/8"], b"6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (["10.0.0.0/8"], b"203.0.113.9, 10.9.9.9", "203.0.113.9"),
        (["10.0.0.0/8"], b"10.9.9.9", "10.9.9.9"),
        (["10.0.0.0/8"], b"2001:db8::1", "2001:db8::1"),
        (["10.0.0.0/8"], b"<script>", "10.1.2.3"),
        (["10.0.0.0/8"], b"203.0.113.9:51234", "203.0.113.9"),
        (["10.0.0.0/8"], b"203.0.113.9:51234, 10.9.9.9:80", "203.0.113.9"),
        (["10.0.0.0/8"], b"[2001:db8::1]:51234", "2001:db8::1"),
        (["10.0.0.0/8"], b"[2001:db8::1]", "2001:db8::1"),
        (["10.0.0.0/8"], b"203.0.113.9:https", "10.1.2.3"),
        (["10.0.0.0/8"], b"6.6.6.6,\xff", "10.1.2.3"),
        (["192.168.0.0/16"], b"203.0.113.9", "10.1.2.3"),
        (["10.1.2.3"], b"203.0.113.9", "203.0.113.9"),
    ],
)
def test_the_client_address_comes_from_a_trusted_proxy(
    proxies: list[str], forwarded_for: bytes, client: str
) -> None:
    assert TrustPolicy([], proxies).client_address(PEER, forwarded_for) == client


@pytest.mark.parametrize("host", [b"shop.example", b"SHOP.example", b"shop.example:8000", b"[::1]:80"])
def test_an_allowed_host_is_accepted_with_and_without_a_port(host: bytes) -> None:
    assert TrustPolicy(["Shop.example", "[::1]"], []).allows_host(host)


@pytest.mark.parametrize("host", [b"", b"evil.example", b"shop.example.evil.example", b"\xff"])
def test_another_host_is_not_accepted(host: bytes) -> None:
    assert not TrustPolicy(["shop.example"], []).allows_host(host)


async def test_a_request_for_another_host_is_rejected_except_for_health(settings: Settings, key: str) -> None:
    async with running(replace(settings, allowed_hosts=("shop.example",)), key) as client:
        assert_refused(await client.get("/items"), 400, "BAD_REQUEST")
        assert (await client.get("/items", headers={"Host": "shop.example"})).status_code == 200
        assert (await client.get("/health/live")).status_code == 200


async def test_without_the_setting_no_cors_header_is_sent(concurrent_client: httpx.AsyncClient) -> None:
    reply = await concurrent_client.get("/items", headers={"Origin": "https://shop.example"})
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_pages_of_a_configured_origin_can_read_replies_and_errors(settings: Settings, key: str) -> None:
    app = create_app(replace(settings, cors_origins=("https://shop.example",)))
    async with AsyncTestClient(app) as client:
        client.headers.update({"Authorization": f"Bearer {key}", "Origin": "https://shop.example"})
        for path, status in (("/items", 200), ("/nope", 404)):
            reply = await client.get(path)
            assert reply.status_code == status
            assert reply.headers["Access-Control-Allow-Origin"] == "https://shop.example"
            assert "Origin" in reply.headers["Vary"]
            assert "X-Request-ID" in reply.headers["Access-Control-Expose-Headers"]
        requested = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        }
        preflight = await client.options("/items", headers={**requested, "Authorization": ""})
        assert preflight.status_code == 204
        assert preflight.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS, POST"
        assert preflight.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
        assert preflight.headers["Access-Control-Max-Age"] == "600"
        other = await client.get("/items", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEPOT_TRUSTED_PROXIES", "10.0.0.0/8, everybody"),
        ("DEPOT_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("DEPOT_ALLOWED_HOSTS", "a b"),
        ("DEPOT_CORS_ORIGINS", ","),
        ("DEPOT_RATE_LIMIT", "many"),
    ],
)
def test_an_invalid_list_is_rejected_at_startup(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings({name: value})


def test_lists_are_separated_by_commas() -> None:
    settings = load_settings({"DEPOT_TRUSTED_PROXIES": "10.0.0.0/8, ::1", "DEPOT_ALLOWED_HOSTS": "a,b"})
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1/128")
    assert settings.allowed_hosts == ("a", "b")


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "http://localhost:3000",
        "https://xn--bcher-kva.example",
        "http://[::1]:8080",
        "app://depot",
    ],
)
def test_an_origin_that_browsers_send_is_accepted(origin: str) -> None:
    assert load_settings({"DEPOT_CORS_ORIGINS": f"https://shop.example, {origin}"}).cors_origins[1] == origin


@pytest.mark.parametrize(
    "origin",
    [
        "https://shop.example/",
        "https://shop.example/app",
        "https://Shop.example",
        "https://shop.example:443",
        "http://shop.example:80",
        "shop.example",
        "https://*.shop.example",
    ],
)
def test_an_origin_that_no_browser_sends_is_rejected_with_an_example(origin: str) -> None:
    with pytest.raises(SettingsError, match="DEPOT_CORS_ORIGINS must be origins as browsers send them"):
        load_settings({"DEPOT_CORS_ORIGINS": origin})
