"""Plain record keeping, the example of it: advanced-alchemy's repository and service, one session."""

from datetime import UTC, datetime
from typing import Any

from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from msgspec import UNSET
from sqlalchemy.dialects.postgresql import insert

from service.errors import Detail, NoFields, NotFound, PreconditionFailed, ValidationFailed
from service.events.journal import Author, diff
from service.events.models import new_event
from service.http.merge import merge_patch
from service.resources.models import Resource
from service.resources.schemas import ResourcePatch, ResourcePut, metadata_problem


class ResourceRepository(SQLAlchemyAsyncRepository[Resource]):
    model_type = Resource


class ResourceService(SQLAlchemyAsyncRepositoryService[Resource, ResourceRepository]):
    repository_type = ResourceRepository

    async def read(self, resource_id: str) -> Resource:
        found = await self.get_one_or_none(id=resource_id)
        if found is None:
            raise NotFound
        return found

    async def locked(self, resource_id: str, versions: list[int] | None) -> Resource:
        """The row, nobody else's until the end of the transaction. Raises `PreconditionFailed` if stale."""
        found = await self.get_one_or_none(id=resource_id, with_for_update=True)
        if found is None:
            raise NotFound
        if versions is not None and found.version not in versions:
            raise PreconditionFailed(found.version)
        return found

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
        """Create or replace; tells whether it was created."""
        while True:
            if not must_exist and (created := await self._insert(resource_id, data)):
                self._record("resource.created", resource_id, author, event_payload(created))
                return created, True
            try:
                found = await self.locked(resource_id, versions)
            except NotFound:
                if must_exist:
                    raise PreconditionFailed(None) from None
                continue  # deleted since the insert found it
            if must_not_exist:
                raise PreconditionFailed(found.version)
            fields = {"status": data.status, "metadata_": data.metadata}
            return await self._update(found, author, fields), False

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
        found = await self.locked(resource_id, versions)
        if isinstance(data.status, str):
            fields["status"] = data.status
        if isinstance(data.metadata, dict | None):
            fields["metadata_"] = _merged(found, data.metadata) if merge else data.metadata
        return await self._update(found, author, fields)

    async def remove(self, resource_id: str, author: Author, *, versions: list[int] | None) -> None:
        found = await self.locked(resource_id, versions)
        self._record("resource.deleted", resource_id, author, event_payload(found))
        await self.delete(resource_id)

    async def page(self, after: str | None, limit: int) -> list[Resource]:
        newer = [] if after is None else [Resource.id > after]
        rows = await self.get_many(*newer, LimitOffset(limit, 0), OrderBy("id", "asc"))
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
        # In PostgreSQL's words: the repository tells a duplicate key by the text of the driver's error
        statement = insert(Resource).values(new).on_conflict_do_nothing().returning(Resource)
        created: Resource | None = await self.repository.session.scalar(statement)
        return created

    async def _update(self, found: Resource, author: Author, fields: dict[str, Any]) -> Resource:
        before = event_payload(found)
        for name, value in fields.items():
            setattr(found, name, value)
        found.version += 1
        found.updated_at = datetime.now(UTC)
        changed = {"id": found.id, "version": found.version, "changes": diff(before, event_payload(found))}
        self._record("resource.updated", found.id, author, changed)
        await self.repository.session.flush()
        return found

    def _record(self, type_: str, resource_id: str, author: Author, payload: dict[str, Any]) -> None:
        self.repository.session.add(new_event(type_, resource_id, author, payload))


def event_payload(resource: Resource) -> dict[str, Any]:
    """What the journal tells of a resource."""
    return {"id": resource.id, "status": resource.status, "metadata": resource.metadata_}


def _merged(found: Resource, patch: dict[str, Any] | None) -> Any:
    merged = merge_patch(found.metadata_, patch)
    if problem := metadata_problem(merged):
        raise ValidationFailed([Detail("/metadata", problem)])
    return merged
