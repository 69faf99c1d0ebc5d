"""Create, rotate, list and revoke API keys with an advanced-alchemy repository."""

from datetime import UTC, datetime, timedelta

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.auth.keys import READ_PEPPER, SCOPES, UNUSED_SCOPES, derive_pepper, hash_key, key_id, mint
from service.auth.models import ApiKey
from service.events.journal import CLI, diff
from service.events.models import new_event
from service.settings import Rate

NAME_MAX = 100
MINUTE = "%Y-%m-%d %H:%M"


class KeyRepository(SQLAlchemyAsyncRepository[ApiKey]):
    model_type = ApiKey


async def create_key(
    session: AsyncSession,
    *,
    name: str,
    scopes: list[str],
    secret: str | None = None,
    expires_in: timedelta | None = None,
    rate_limit: str | None = None,
) -> str:
    """Store a new key and return it; it cannot be read again.

    `rate_limit` is a rate such as `600/minute`. Raises `ValueError` for a bad name, scope or rate.
    """
    if not 1 <= len(name) <= NAME_MAX:
        raise ValueError(f"the name must have 1 to {NAME_MAX} characters")
    if unknown := set(scopes) - SCOPES:
        known = ", ".join(sorted(SCOPES - UNUSED_SCOPES))
        raise ValueError(f"unknown scope {', '.join(sorted(unknown))}; known: {known}")
    if rate_limit is not None:
        _check_rate(rate_limit)
    token = mint()
    pepper = derive_pepper(secret) or (await session.execute(text(READ_PEPPER))).scalar_one()
    key = ApiKey(
        id=str(key_id(token)),
        name=name,
        hash=hash_key(token, pepper),
        scopes=sorted(set(scopes)),
        expires_at=None if expires_in is None else datetime.now(UTC) + expires_in,
        rate_limit=rate_limit,
    )
    payload = {"id": key.id, "name": name, "scopes": key.scopes, "rate_limit": rate_limit}
    await KeyRepository(session=session).add(key)
    session.add(new_event("key.created", key.id, CLI, payload))
    return token


async def rotate_key(
    session: AsyncSession, id_: str, *, secret: str | None = None, overlap: timedelta
) -> str | None:
    """Replace a key and return the new one, or None if the old one does not exist.

    The new key has the name, scopes, lifetime and rate limit of the old one, which expires after `overlap`.
    Raises `ValueError` if the old one is no longer valid or was replaced before.
    """
    key = await session.get(ApiKey, id_, with_for_update=True)
    if key is None:
        return None
    now = datetime.now(UTC)
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        raise ValueError(f"the API key {id_} is {_display_state(key)}; create a new one")
    if key.replaced_by is not None:
        raise ValueError(f"the API key {id_} was rotated before; rotate its successor {key.replaced_by}")
    token = await create_key(
        session,
        name=key.name,
        scopes=key.scopes,
        secret=secret,
        expires_in=None if key.expires_at is None else key.expires_at - key.created_at,
        rate_limit=key.rate_limit,
    )
    old_expiry, key.expires_at = key.expires_at, min(key.expires_at or now + overlap, now + overlap)
    changes = diff({"expires_at": _text(old_expiry)}, {"expires_at": _text(key.expires_at)})
    key.replaced_by = key_id(token)
    payload = {"id": id_, "name": key.name, "replaced_by": key.replaced_by, "changes": changes}
    session.add(new_event("key.rotated", id_, CLI, payload))
    return token


async def revoke_key(session: AsyncSession, key_id: str) -> bool:
    """Revoke a key; every process rejects it within a second. Return False if the key does not exist."""
    key = await KeyRepository(session=session).get_one_or_none(id=key_id)
    if key is not None and key.revoked_at is None:
        key.revoked_at = datetime.now(UTC)
        session.add(new_event("key.revoked", key_id, CLI, {"id": key_id, "name": key.name}))
    return key is not None


async def list_keys(session: AsyncSession) -> list[tuple[str, ...]]:
    """Return one row of text per key: id, name, scopes, creation time, state, last use and rate limit."""
    keys = await KeyRepository(session=session).get_many(order_by=ApiKey.created_at.asc())
    return [
        (
            key.id,
            key.name,
            " ".join(key.scopes),
            f"{key.created_at:{MINUTE}}",
            _display_state(key),
            "never" if key.last_used_at is None else f"{key.last_used_at:{MINUTE}}",
            key.rate_limit or "default",
        )
        for key in keys
    ]


def _check_rate(rate: str) -> None:
    try:
        msgspec.convert(rate, Rate)
    except msgspec.ValidationError:
        raise ValueError(f"the rate limit must be a rate such as 600/minute, not {rate!r}") from None


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _display_state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:{MINUTE}}"
    if key.expires_at is None:
        return "valid"
    state = "expired" if key.expires_at <= datetime.now(UTC) else "valid until"
    return f"{state} {key.expires_at:{MINUTE}}"
