"""The form of a key, and what of it is stored."""

import string
from collections.abc import Awaitable, Callable

from service.auth.keys import KEY_PATTERN, hash_key, key_id, mint
from service.database.database import Database

Mint = Callable[..., Awaitable[str]]


def test_a_minted_key_carries_its_id() -> None:
    keys = {mint() for _ in range(100)}
    assert len({key_id(key) for key in keys} - {None}) == 100
    assert all(key.startswith(f"depot_{key_id(key)}_") for key in keys)


def test_a_key_with_any_character_changed_is_invalid() -> None:
    key = mint()
    for at, old in enumerate(key):
        for new in string.ascii_letters + string.digits + "_ é\0":
            assert new == old or key_id(key[:at] + new + key[at + 1 :]) is None


def test_a_malformed_key_is_detected_without_a_lookup() -> None:
    key = mint()
    for other in ("", "depot_", key[:-1], key[1:], key + "A", key + "\n", f" {key}", key.upper(), "é" * 56):
        assert key_id(other) is None


async def test_the_database_has_only_a_hash_of_a_key(database: Database, make_key: Mint) -> None:
    key = await make_key("items:read")
    match = KEY_PATTERN.fullmatch(key)
    assert match
    identity, secret, _ = match.groups()
    tables = await database.fetch("select tablename from pg_tables where schemaname = 'public'")
    rows = [row for (table,) in tables for (row,) in await database.fetch(f"select t::text from {table} t")]
    assert any(identity in row for row in rows)
    for row in rows:
        assert secret not in row
        assert secret.encode().hex() not in row
    pepper = await database.fetchval("select value from secrets where name = 'pepper'")
    stored = await database.fetchval("select hash from api_keys where id = $1", identity)
    assert stored == hash_key(key, pepper)


def test_the_hash_depends_on_the_pepper() -> None:
    key = mint()
    assert hash_key(key, b"a" * 32) != hash_key(key, b"b" * 32)
