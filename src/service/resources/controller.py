"""HTTP endpoints of resources."""

from typing import Annotated

from litestar import Controller, delete, get, patch, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, PathParameter
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import InvalidCursor, NoFields, NotFound, PreconditionFailed
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, if_match_versions, versioned_reply
from service.http.request import StrictRequest
from service.resources import models
from service.resources.schemas import (
    RESOURCE_ID,
    Resource,
    ResourceId,
    ResourcePatch,
    ResourcePut,
    ResourceUpdated,
    Updated,
)
from service.resources.service import ResourceService
from service.values import reply_headers

PathId = Annotated[ResourceId, PathParameter(pattern=RESOURCE_ID, description="Client-chosen id.")]


class ResourceController(Controller):
    path = "/resources"
    tags = ["Resources"]

    @put(
        "/{resource_id:str}",
        responses={201: ResponseSpec(Resource, generate_examples=False, description="Created.")},
        opt=operation(scope="resources:write", faults=[PreconditionFailed]),
    )
    async def put_resource(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        resource_id: PathId,
        data: JSONBody[ResourcePut],
    ) -> Reply[Resource]:
        """Create or replace a resource

        The client chooses the id. Returns 201 if it was created, 200 if replaced.
        """
        record, created = await ResourceService(session).put(
            resource_id,
            data,
            request.author,
            versions=if_match_versions(request),
            must_exist=request.header(b"if-match") is not None,
            must_not_exist=request.header(b"if-none-match") == "*",
        )
        reply = versioned_reply(
            request, to_schema(record), location=f"/resources/{record.id}" if created else None
        )
        reply.status_code = 201 if created else 200
        return reply

    @get("/{resource_id:str}", opt=operation(scope="resources:read", faults=[NotFound]))
    async def get_resource(
        self, session: NamedDependency[AsyncSession], request: StrictRequest, resource_id: PathId
    ) -> Reply[Resource]:
        """Get a resource"""
        return versioned_reply(request, to_schema(await ResourceService(session).read(resource_id)))

    @get(opt=operation(scope="resources:read", faults=[InvalidCursor]))
    async def list_resources(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Resource]:
        """List resources, ordered by id"""
        pager = Pager[str](request, limit, cursor, ResourceId)
        records = await ResourceService(session).page(pager.after, pager.fetch_limit)
        return pager.page([to_schema(record) for record in records], lambda resource: resource.id)

    @patch(
        "/{resource_id:str}",
        opt=operation(scope="resources:write", faults=[NoFields, NotFound, PreconditionFailed]),
    )
    async def update_resource(
        self,
        session: NamedDependency[AsyncSession],
        request: StrictRequest,
        resource_id: PathId,
        data: JSONBody[ResourcePatch],
    ) -> Reply[ResourceUpdated]:
        """Update a resource

        Only the fields that are sent change; null clears `metadata`. With `application/merge-patch+json`,
        `metadata` is merged (RFC 7396).
        """
        record = await ResourceService(session).patch(
            resource_id,
            data,
            request.author,
            versions=if_match_versions(request),
            merge=request.is_merge_patch,
        )
        resource = to_schema(record)
        updated = Updated(
            status=UNSET if data.status is UNSET else resource.status,
            metadata=UNSET if data.metadata is UNSET else resource.metadata,
        )
        return Reply(ResourceUpdated(updated, resource), headers=reply_headers(resource.version))

    @delete(
        "/{resource_id:str}", opt=operation(scope="resources:write", faults=[NotFound, PreconditionFailed])
    )
    async def delete_resource(
        self, session: NamedDependency[AsyncSession], request: StrictRequest, resource_id: PathId
    ) -> None:
        """Delete a resource"""
        await ResourceService(session).remove(
            resource_id, request.author, versions=if_match_versions(request)
        )


def to_schema(record: models.Resource) -> Resource:
    return Resource(
        id=record.id,
        status=record.status,
        metadata=record.metadata_,
        version=record.version,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )
