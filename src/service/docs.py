"""The OpenAPI document, and a UI for it that works offline."""

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from litestar import Controller, Litestar, Request, Response, Router, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.params import FromPath

from service.errors import NotFound
from service.http.json_schema import REF, schema_name
from service.http.openapi import complete_document
from service.jobs.kinds import Kind, KindRegistry

DESCRIPTION = """Inventory and orders. Stock is never oversold; a PATCH changes only the fields that are sent.

Every 4xx and 5xx reply has the schema `Error`, or RFC 9457 problem details if the client accepts
`application/problem+json`. `code` is stable; `message` is for people.
Authenticate with `Authorization: Bearer <API key>`.
Mutable resources carry an `ETag`. Send it back as `If-Match` to change only the version you have read."""

PAGE = b"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Depot API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css"></head><body><div id="ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", persistAuthorization: true})</script>
</body></html>"""

ASSETS = {
    "swagger-ui.css": ("stylesheets", "text/css"),
    "swagger-ui-bundle.js": ("javascripts", "text/javascript"),
}


class NoRoutes(Router):
    """Discards the routes at which Litestar would serve the document: their 404 is HTML."""

    def register(self, value: Any) -> list[Any]:  # the signature is Litestar's
        return []


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Depot",
        version=version("depot"),
        description=DESCRIPTION,
        use_handler_docstrings=True,
        operation_id_creator=lambda handler, _method, _path: camel_case(handler.handler_name),
        openapi_router=NoRoutes("/unrouted", route_handlers=[]),
        components=Components(
            security_schemes={
                "apiKey": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    bearer_format="depot_<id>_<secret>",
                    description="An API key.",
                )
            }
        ),
        tags=[
            Tag("Items", "Items and their stock."),
            Tag("Orders", "Orders. All lines of an order are placed, or none."),
            Tag("Documents", "PNG, JPEG and PDF files, validated during the upload."),
            Tag("Resources", "Simple records under client-chosen ids."),
            Tag("Jobs", "Long-running work: start a job, follow its progress, fetch its result."),
            Tag("Users", "User actions."),
            Tag("Reports", "Financial reports computed from the ledger."),
            Tag("Audit", "The audit trail: who changed what, and when."),
            Tag("Webhooks", "Webhook subscriptions and their deliveries."),
            Tag("Health", "Health checks for load balancers and operators; metrics."),
        ],
    )


class DocsController(Controller):
    opt = {"public": True}
    include_in_schema = False

    @get("/openapi.json", media_type="application/json", sync_to_thread=False)
    def document(self, request: Request[Any, Any, Any]) -> bytes:
        return encode_document(request.app)

    @get("/docs", media_type="text/html", sync_to_thread=False)
    def ui(self) -> bytes:
        return PAGE

    @get("/docs/assets/{name:str}", sync_to_thread=False)
    def asset(self, name: FromPath[str]) -> Response[bytes]:
        if name not in ASSETS:
            raise NotFound
        content, media_type = read_asset(name)
        return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})


@cache
def encode_document(app: Litestar) -> bytes:
    return msgspec.json.format(msgspec.json.encode(build_document(app)), indent=1)


def build_document(app: Litestar) -> dict[str, Any]:
    kinds: KindRegistry = app.state.kinds
    described = complete_document(app, app.openapi_schema.to_schema(), [kind.payload for kind in kinds])
    described["components"]["schemas"] |= job_request_schemas(kinds)
    return described


def job_request_schemas(kinds: KindRegistry) -> dict[str, Any]:
    """Return the request schemas of jobs: one per kind, discriminated by `kind`."""
    requests = {kind.name: f"New{schema_name(kind.payload)}Job" for kind in kinds}
    references = {kind: REF + request for kind, request in requests.items()}
    new_job = {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "kind", "mapping": references},
    }
    return {"NewJob": new_job, **{requests[kind.name]: job_request_schema(kind) for kind in kinds}}


def job_request_schema(kind: Kind) -> dict[str, Any]:
    payload = {"$ref": REF + schema_name(kind.payload)}
    return {
        "type": "object",
        "properties": {"kind": {"type": "string", "enum": [kind.name]}, "payload": payload},
        "required": ["kind", "payload"],
        "additionalProperties": False,
    }


@cache
def read_asset(name: str) -> tuple[bytes, str]:
    """Read a Swagger UI file from the package mkdocs-swagger-ui-tag, which is not imported."""
    spec = find_spec("mkdocs_swagger_ui_tag")
    folder, media_type = ASSETS[name]
    package = Path(spec.origin or "") if spec else Path()
    return (package.parent / "swagger-ui" / folder / name).read_bytes(), media_type


def camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
