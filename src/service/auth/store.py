"""Create, list and revoke API keys with an advanced-alchemy repository."""

from datetime import UTC, datetime, timedelta

from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy.ext.asyncio import AsyncSession

from service.auth.keys import SCOPES, derive_pepper, hash_key, key_id, mint
from service.auth.models import ApiKey, Secret
from service.events.journal import CLI
from service.events.models import new_event

NAME_MAX = 100


class KeyRepository(SQLAlchemyAsyncRepository[ApiKey]):
    model_type = ApiKey


async def create_key(
    session: AsyncSession,
    *,
    name: str,
    scopes: list[str],
    secret: str | None = None,
    expires_in: timedelta | None = None,
) -> str:
    """Store a new key and return it; it cannot be read again. Raises `ValueError` for a bad name or scope."""
    if not 1 <= len(name) <= NAME_MAX:
        raise ValueError(f"the name must have 1 to {NAME_MAX} characters")
    if unknown := set(scopes) - SCOPES:
        raise ValueError(f"unknown scope {', '.join(sorted(unknown))}; known: {', '.join(sorted(SCOPES))}")
    token = mint()
    id_ = str(key_id(token))
    pepper = derive_pepper(secret) or (await session.get_one(Secret, "pepper")).value
    await KeyRepository(session=session).add(
        ApiKey(
            id=id_,
            name=name,
            hash=hash_key(token, pepper),
            scopes=sorted(scopes),
            expires_at=expires_in and datetime.now(UTC) + expires_in,
        )
    )
    session.add(new_event("key.created", id_, CLI, {"id": id_, "name": name, "scopes": sorted(scopes)}))
    return token


async def revoke_key(session: AsyncSession, key_id: str) -> bool:
    """Revoke a key; every process rejects it within a second. Return False if the key does not exist."""
    key = await KeyRepository(session=session).get_one_or_none(id=key_id)
    if key is not None and key.revoked_at is None:
        key.revoked_at = datetime.now(UTC)
        session.add(new_event("key.revoked", key_id, CLI, {"id": key_id, "name": key.name}))
    return key is not None


async def list_keys(session: AsyncSession) -> list[tuple[str, ...]]:
    """Return one row of text per key: id, name, scopes, creation time and state."""
    keys = await KeyRepository(session=session).get_many(order_by=ApiKey.created_at.asc())
    return [
        (key.id, key.name, " ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}", _display_state(key))
        for key in keys
    ]


def _display_state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    if key.expires_at is None:
        return "valid"
    state = "expired" if key.expires_at <= datetime.now(UTC) else "valid until"
    return f"{state} {key.expires_at:%Y-%m-%d %H:%M}"
