"""HTTP endpoints of users' actions."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, PathParameter

from service.database.session import Session
from service.errors import CursorExpired, InvalidCursor, NotFound
from service.events.pruned import check_list_cursor
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, tagged_reply
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS
from service.users import actions
from service.users.schemas import USER_ID, Action, ActionCompleted, ActionCreate, KnownUserId

UserId = Annotated[KnownUserId, PathParameter(pattern=USER_ID, description="Client-chosen id of the user.")]


class UserController(Controller):
    path = "/users"
    tags = ["Users"]

    @post("/{user_id:str}/actions", opt=operation(scope="users:write", faults=IDEMPOTENCY_FAULTS))
    async def record_action(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        user_id: UserId,
        data: JSONBody[ActionCreate],
    ) -> Reply[ActionCompleted]:
        """Record a user action

        Webhooks subscribed to `user.action` are notified after the reply.
        """
        async with hold_claim(request) as claim:
            completed = await actions.record_action(session, user_id, data, request.author, claim)
        return Reply(completed, headers={"Location": actions.location(user_id, completed.id)})

    @get(
        "/{user_id:str}/actions/{action_id:str}",
        opt=operation(scope="users:read", faults=[NotFound], conditional=True),
    )
    async def get_action(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        user_id: UserId,
        action_id: FromPath[UUID],
    ) -> Reply[Action]:
        """Read one of a user's actions"""
        return tagged_reply(request, await actions.read_action(session, user_id, action_id))

    @get("/{user_id:str}/actions", opt=operation(scope="users:read", faults=[InvalidCursor, CursorExpired]))
    async def list_actions(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        user_id: UserId,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Action]:
        """List a user's actions, newest first"""
        pager = Pager[UUID](request, limit, cursor, UUID)
        page = await actions.list_actions(session, user_id, pager.after, pager.fetch_limit)
        if not page:
            await check_list_cursor(session, pager.after)
        return pager.page(page, lambda action: action.id)
