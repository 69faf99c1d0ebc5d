"""The OpenAPI document, and a UI for it that works offline."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from litestar import Controller, Litestar, Request, Response, Router, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.params import FromPath
from litestar.response import Redirect

from service.errors import NotFound
from service.event_schemas import EVENTS, webhooks
from service.http.json_schema import REF, schema_name
from service.http.openapi import add_examples, complete_document
from service.http.reply import negotiate
from service.http.request import StrictRequest
from service.jobs.kinds import Kind, KindRegistry
from service.version import API_VERSION, VERSION

DESCRIPTION = """Inventory and orders. Stock is never oversold; a PATCH changes only the fields that are sent.

Every 4xx and 5xx reply has the schema `Error`, or RFC 9457 problem details if the client accepts
`application/problem+json`. `code` is stable; `message` is for people.
Authenticate with `Authorization: Bearer <API key>`.
Mutable resources carry an `ETag`. Send it back as `If-Match` to change only the version you have read."""

PAGE = b"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Depot API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="stylesheet" href="/docs/assets/docs.css"></head><body><div id="ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/docs.js"></script>
</body></html>"""
SCRIPT = Path(__file__).with_name("docs.js").read_bytes()
STYLE = b"""@media (prefers-color-scheme: dark) {
  html { background: #111; }
  #ui { filter: invert(88%) hue-rotate(180deg); }
  #ui .highlight-code, #ui .microlight, #ui img { filter: invert(100%) hue-rotate(180deg); }
}"""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""The page takes API keys: no foreign script runs in it, and no other page frames it."""


ASSETS = {
    "swagger-ui.css": ("stylesheets", "text/css"),
    "swagger-ui-bundle.js": ("javascripts", "text/javascript"),
}
OWN_ASSETS = {"docs.css": (STYLE, "text/css"), "docs.js": (SCRIPT, "text/javascript")}


class NoRoutes(Router):
    """Discards the routes at which Litestar would serve the document: their 404 is HTML."""

    def register(self, value: Any) -> list[Any]:  # the signature is Litestar's
        return []


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Depot",
        version=VERSION,
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
                    description="An API key, without `Bearer`. `make run` prints one and stores it in "
                    "`$DEPOT_HOME/api-key`; `depot keys create` makes others.",
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
            Tag("Keys", "API keys. `depot keys` creates, rotates and revokes them."),
            Tag("Events", "The feed of events, for consumers that poll."),
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

    @get("/", sync_to_thread=False)
    def root(self, request: StrictRequest) -> Redirect:
        if negotiate(request, "application/json", "text/html") != "text/html":
            raise NotFound
        return Redirect("/docs", headers={"Vary": "Accept"})

    @get("/docs", media_type="text/html", sync_to_thread=False)
    def ui(self) -> Response[bytes]:
        return Response(PAGE, headers=PAGE_HEADERS)

    @get("/docs/assets/{name:str}", sync_to_thread=False)
    def asset(self, name: FromPath[str]) -> Response[bytes]:
        if name not in ASSETS | OWN_ASSETS:
            raise NotFound
        content, media_type = OWN_ASSETS.get(name) or read_asset(name)
        return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})


@cache
def encode_document(app: Litestar) -> bytes:
    return msgspec.json.format(msgspec.json.encode(build_document(app)), indent=1)


def build_document(app: Litestar) -> dict[str, Any]:
    kinds: KindRegistry = app.state.components.kinds.startable
    document = complete_document(
        app,
        app.openapi_schema.to_schema(),
        request_types=[kind.payload for kind in kinds],
        reply_types=[payload for _, payload in EVENTS.values()],
    )
    document["components"]["schemas"] |= job_request_schemas(kinds)
    document["info"]["x-depot-api-version"] = API_VERSION
    document["webhooks"] = webhooks()
    add_examples(document)
    return document


def job_request_schemas(kinds: KindRegistry) -> dict[str, Any]:
    """Return the request schemas of jobs: one per kind, discriminated by `kind`."""
    requests = {kind.name: f"{schema_name(kind.payload)}JobCreate" for kind in kinds}
    references = {kind: REF + request for kind, request in requests.items()}
    job_create = {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "kind", "mapping": references},
    }
    return {"JobCreate": job_create, **{requests[kind.name]: job_request_schema(kind) for kind in kinds}}


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
