"""HTTP endpoint of API keys. Keys are managed on the command line (`depot keys`)."""

from typing import Annotated

from litestar import Controller, get
from msgspec import Meta, Struct

from service.auth.keys import ANY_SCOPE
from service.http.operation import operation
from service.http.request import StrictRequest
from service.values import Timestamp


class ApiKey(Struct):
    id: Annotated[str, Meta(examples=["3kTb9ZxQ1aLw"])]
    name: Annotated[str, Meta(examples=["shop"])]
    scopes: Annotated[list[str], Meta(examples=[["items:read", "orders:write"]])]
    expires_at: Annotated[Timestamp | None, Meta(description="Null if the key does not expire.")]
    rate_limit: Annotated[
        str | None,
        Meta(
            description="The limit that applies to the key, such as `600/minute`. Null if there is none.",
            examples=["600/minute"],
        ),
    ]


class KeyController(Controller):
    path = "/key"
    tags = ["Keys"]

    @get(opt=operation(scope=ANY_SCOPE), sync_to_thread=False)
    def get_key(self, request: StrictRequest) -> ApiKey:
        """Get the API key of this request"""
        key = request.user
        return ApiKey(key.id, key.name, sorted(key.scopes), key.expires_at, key.rate_limit)
