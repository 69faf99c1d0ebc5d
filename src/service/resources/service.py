"""Operations on resources. They show how to use advanced-alchemy's repository and service in one session."""

from datetime import UTC, datetime
from typing import Any

from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from msgspec import UNSET
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from service.errors import Detail, NoFields, NotFound, PreconditionFailed, ValidationFailed
from service.events.journal import Author, diff
from service.events.models import new_event
from service.http.merge import merge_patch
from service.resources.models import Resource, Tombstone
from service.resources.schemas import METADATA_BYTES_MAX, ResourcePatch, ResourcePut
from service.values import size_problem


class ResourceRepository(SQLAlchemyAsyncRepository[Resource]):
    model_type = Resource


class ResourceService(SQLAlchemyAsyncRepositoryService[Resource, ResourceRepository]):
    repository_type = ResourceRepository

    async def read(self, resource_id: str) -> Resource:
        resource = await self.get_one_or_none(id=resource_id)
        if resource is None:
            raise NotFound
        return resource

    async def get_for_update(self, resource_id: str, versions: list[int] | None) -> Resource:
        """Return the row, locked until the transaction ends.

        Raises `PreconditionFailed` if it has another version.
        """
        resource = await self.get_one_or_none(id=resource_id, with_for_update=True)
        if resource is None:
            raise NotFound
        if versions is not None and resource.version not in versions:
            raise PreconditionFailed(resource.version)
        return resource

    async def put(
        self,
        resource_id: str,
        data: ResourcePut,
        author: Author,
        *,
        versions: list[int] | None,
        must_exist: bool,
        must_not_exist: bool,
    ) -> tuple[Resource, bool]:
        """Create or replace a resource. Return it, and whether it is new."""
        while True:
            if not must_exist and (created := await self._insert(resource_id, data)):
                self._record("resource.created", resource_id, author, event_payload(created))
                return created, True
            try:
                resource = await self.get_for_update(resource_id, versions)
            except NotFound:
                if must_exist:
                    raise PreconditionFailed(None) from None
                continue  # deleted after the insert conflicted with it
            if must_not_exist:
                raise PreconditionFailed(resource.version)
            fields = {"status": data.status, "metadata_": data.metadata}
            return await self._update(resource, author, fields), False

    async def patch(
        self,
        resource_id: str,
        data: ResourcePatch,
        author: Author,
        *,
        versions: list[int] | None,
        merge: bool,
    ) -> Resource:
        """Set the fields that were sent; `merge` merges `metadata` (RFC 7396) instead of replacing it."""
        if data.status is UNSET and data.metadata is UNSET:
            raise NoFields
        fields: dict[str, Any] = {}
        resource = await self.get_for_update(resource_id, versions)
        if isinstance(data.status, str):
            fields["status"] = data.status
        if isinstance(data.metadata, dict | None):
            fields["metadata_"] = _merged(resource, data.metadata) if merge else data.metadata
        return await self._update(resource, author, fields)

    async def remove(self, resource_id: str, author: Author, *, versions: list[int] | None) -> None:
        resource = await self.get_for_update(resource_id, versions)
        self._record("resource.deleted", resource_id, author, event_payload(resource))
        await self.delete(resource_id)
        await self._store_tombstone(resource)

    async def page(self, after: str | None, limit: int) -> list[Resource]:
        following = [] if after is None else [Resource.id > after]
        rows = await self.get_many(*following, LimitOffset(limit, 0), OrderBy("id", "asc"))
        return list(rows)

    async def _insert(self, resource_id: str, data: ResourcePut) -> Resource | None:
        now = datetime.now(UTC)
        new = {
            "id": resource_id,
            "status": data.status,
            "metadata_": data.metadata,
            "version": 1,
            "created_at": now,
            "updated_at": now,
        }
        # PostgreSQL's ON CONFLICT: the repository detects duplicates by the text of the driver's error.
        statement = insert(Resource).values(new).on_conflict_do_nothing().returning(Resource)
        created: Resource | None = await self.repository.session.scalar(statement)
        if created is not None:
            # A separate statement: the insert may have waited for a deletion whose tombstone it cannot see.
            last_version = await self.repository.session.scalar(
                select(Tombstone.version).where(Tombstone.id == resource_id)
            )
            created.version += last_version or 0
        return created

    async def _store_tombstone(self, resource: Resource) -> None:
        new = insert(Tombstone).values(id=resource.id, version=resource.version)
        statement = new.on_conflict_do_update(index_elements=["id"], set_={"version": new.excluded.version})
        await self.repository.session.execute(statement)

    async def _update(self, resource: Resource, author: Author, fields: dict[str, Any]) -> Resource:
        before = event_payload(resource)
        for name, value in fields.items():
            setattr(resource, name, value)
        resource.version += 1
        resource.updated_at = datetime.now(UTC)
        changes = diff(before, event_payload(resource))
        payload = {"id": resource.id, "version": resource.version, "changes": changes}
        self._record("resource.updated", resource.id, author, payload)
        await self.repository.session.flush()
        return resource

    def _record(self, type_: str, resource_id: str, author: Author, payload: dict[str, Any]) -> None:
        self.repository.session.add(new_event(type_, resource_id, author, payload))


def event_payload(resource: Resource) -> dict[str, Any]:
    """Return the fields for the journal."""
    return {"id": resource.id, "status": resource.status, "metadata": resource.metadata_}


def _merged(resource: Resource, patch: dict[str, Any] | None) -> Any:
    merged = merge_patch(resource.metadata_, patch)
    if problem := size_problem(merged, METADATA_BYTES_MAX):
        raise ValidationFailed([Detail("/metadata", problem)])
    return merged
