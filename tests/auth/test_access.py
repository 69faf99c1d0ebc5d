"""Denied by default: what is not public needs a key with the scope it names."""

from collections.abc import Awaitable, Callable, Iterator

import pytest
from litestar import Litestar, get
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.testing import AsyncTestClient

from conftest import Client
from service.app import create_app
from service.auth.keys import ANY_SCOPE, SCOPES, UNUSED_SCOPES, _checksum, key_id, mint
from service.settings import Settings
from tests.support.reply_assertions import assert_refused

Mint = Callable[..., Awaitable[str]]
NAMED = {
    "audit": "admin",
    "events": ANY_SCOPE,
    "key": ANY_SCOPE,
    "process": "jobs:write",
    "stock": "items:write",
    "upload": "documents:write",
}
"""The scopes of routes whose path does not name their area."""
PUBLIC = {"/", "/health", "/health/live", "/health/ready", "/openapi.json", "/docs", "/docs/assets/{name}"}


def operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for route in app.routes:
        assert isinstance(route, HTTPRoute)
        for handler in route.route_handlers:
            for method in handler.http_methods - {"OPTIONS"}:  # type: ignore[operator]
                yield route.path_format, str(method), handler


def test_every_route_either_names_a_scope_or_is_known_to_be_public(settings: Settings) -> None:
    public = set()
    for path, method, handler in operations(create_app(settings)):
        if handler.opt.get("public"):
            public.add(path)
            assert "scope" not in handler.opt
        else:
            right = "read" if method == "GET" else "write"
            area = path.split("/")[1]
            wanted = NAMED.get(area, f"{area}:{right}")
            assert handler.opt.get("scope") == wanted, f"{method} {path}"
            assert wanted in SCOPES | {ANY_SCOPE}
    assert public == PUBLIC


def test_no_route_replaces_the_hook_that_authorizes(settings: Settings) -> None:
    """Litestar calls only the hook of the layer closest to the handler."""
    hooks = {handler.resolve_before_request() for *_, handler in operations(create_app(settings))}
    assert len(hooks) == 1
    assert None not in hooks


def test_every_scope_that_messages_suggest_is_required_by_a_route(settings: Settings) -> None:
    required = {handler.opt.get("scope") for *_, handler in operations(create_app(settings))}
    assert SCOPES - required == UNUSED_SCOPES


async def test_every_other_route_wants_a_key_and_its_scope(
    client: Client, settings: Settings, make_key: Mint
) -> None:
    routes = [(path, method, handler) for path, method, handler in operations(create_app(settings))]
    guarded = [
        (path, method, handler.opt["scope"]) for path, method, handler in routes if "scope" in handler.opt
    ]
    assert len(guarded) >= 15
    for path, method, scope in guarded:
        others = {"Authorization": f"Bearer {await make_key(*(SCOPES - {scope, 'admin'}))}"}
        nothing = {"Authorization": ""}
        unauthenticated = await client.request(method, path, headers=nothing)
        assert_refused(unauthenticated, 401, "UNAUTHENTICATED")
        assert unauthenticated.headers["WWW-Authenticate"] == "Bearer"
        if scope == ANY_SCOPE:
            continue
        error = assert_refused(await client.request(method, path, headers=others), 403, "FORBIDDEN")
        assert scope in error["message"]
        assert error["details"] == [{"scope": scope}]


async def test_a_key_may_do_what_its_scopes_say(client: Client, make_key: Mint) -> None:
    client.headers["Authorization"] = f"Bearer {await make_key('items:read', 'resources:write')}"
    assert (await client.get("/items")).status_code == 200
    assert (await client.put("/resources/x", json={"status": "on"})).status_code == 201
    assert_refused(await client.get("/resources/x"), 403, "FORBIDDEN")
    assert_refused(await client.post("/items", json={}), 403, "FORBIDDEN")


@pytest.mark.parametrize("path", sorted(PUBLIC - {"/docs/assets/{name}"}))
async def test_what_is_public_needs_no_key(client: Client, path: str) -> None:
    headers = {"Authorization": "nonsense", "Accept": "text/html, */*"}
    assert (await client.get(path, headers=headers)).status_code == 200


@get("/forgotten", include_in_schema=False)
async def forgotten() -> None:
    raise AssertionError("nobody may get here")


async def test_a_route_that_says_nothing_is_closed_even_to_admins(settings: Settings, key: str) -> None:
    app = create_app(settings)
    app.register(forgotten)
    async with AsyncTestClient(app) as client:
        assert_refused(await client.get("/forgotten"), 401, "UNAUTHENTICATED")
        assert_refused(
            await client.get("/forgotten", headers={"Authorization": f"Bearer {key}"}), 403, "FORBIDDEN"
        )


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Token {key}", "{key}", "Bearer {other}"),
        *("Bearer {key}x", "Bearer\t{key}", "Bearer {key} x", "Bearer depot_\xff", "Bearer " + "x" * 10_000),
    ],
)
async def test_anything_but_a_living_key_is_refused(client: Client, key: str, authorization: str) -> None:
    value = authorization.replace("{key}", key).replace("{other}", mint())
    reply = await client.get("/items", headers={"Authorization": value.encode("latin-1")})  # type: ignore[dict-item]
    assert_refused(reply, 401, "UNAUTHENTICATED")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


async def test_a_right_id_with_a_wrong_secret_is_refused(client: Client, key: str) -> None:
    body = key[:19] + mint()[19:51]
    forged = body + _checksum(body)
    assert key_id(forged) == key_id(key)
    reply = await client.get("/items", headers={"Authorization": f"Bearer {forged}"})
    assert_refused(reply, 401, "UNAUTHENTICATED")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_the_scheme_is_known_in_any_case_with_any_number_of_spaces_behind_it(
    client: Client, key: str, scheme: str
) -> None:
    assert (await client.get("/items", headers={"Authorization": f"{scheme} {key}"})).status_code == 200
