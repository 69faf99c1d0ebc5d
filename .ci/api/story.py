"""A scenario with the client that openapi-python-client generates."""

import os
from io import BytesIO
from pathlib import Path

from depot_client import AuthenticatedClient
from depot_client.api.documents import store_document
from depot_client.api.items import create_item, get_item, update_item
from depot_client.api.orders import place_order
from depot_client.api.reports import get_financial_report
from depot_client.models import (
    Document,
    Error,
    ErrorCode,
    Financial,
    Item,
    ItemCreate,
    ItemMergePatch,
    ItemMergePatchAttributesType0,
    ItemPatch,
    ItemPatchAttributesType0,
    Order,
    OrderCreate,
    OrderLineCreate,
    StoreDocumentBody,
)
from depot_client.types import File

client = AuthenticatedClient(os.environ["DEPOT_URL"], os.environ["DEPOT_KEY"])

bolt = ItemCreate(sku="PY-BOLT", name="Bolt", price="9.99", quantity=5, description="Steel")
item = create_item.sync(client=client, body=bolt)
assert isinstance(item, Item), item

renamed = update_item.sync(item.id, client=client, body=ItemPatch(name="Bolt M8"))
assert isinstance(renamed, Item) and (renamed.name, renamed.description) == ("Bolt M8", "Steel"), renamed
cleared = update_item.sync(item.id, client=client, body=ItemPatch(description=None))
assert isinstance(cleared, Item) and (cleared.name, cleared.description) == ("Bolt M8", None), cleared

as_sent = ItemPatchAttributesType0.from_dict({"color": "red"})
replaced = update_item.sync(item.id, client=client, body=ItemPatch(attributes=as_sent))
merging = ItemMergePatchAttributesType0.from_dict({"size": 8})
merged = update_item.sync(item.id, client=client, body=ItemMergePatch(attributes=merging))
assert isinstance(merged, Item) and merged.attributes, merged
assert merged.attributes.to_dict() == {"color": "red", "size": 8}, merged
as_sent = ItemPatchAttributesType0.from_dict({"length": 40})
replaced = update_item.sync(item.id, client=client, body=ItemPatch(attributes=as_sent))
assert isinstance(replaced, Item) and replaced.attributes, replaced
assert replaced.attributes.to_dict() == {"length": 40}, replaced

order = OrderCreate(customer_id="c-1", lines=[OrderLineCreate(sku=item.sku, quantity=2)])
placed = place_order.sync(client=client, body=order, idempotency_key="py-1")
assert isinstance(placed, Order) and placed.total == "19.98", placed
assert place_order.sync(client=client, body=order, idempotency_key="py-1") == placed

too_many = OrderCreate(customer_id="c-2", lines=[OrderLineCreate(item_id=item.id, quantity=4)])
refused = place_order.sync(client=client, body=too_many)
assert isinstance(refused, Error) and refused.error.code is ErrorCode.INSUFFICIENT_STOCK, refused
(shortage,) = refused.error.details or []
assert shortage["available"] == 3, shortage

left = get_item.sync(item.id, client=client)
assert isinstance(left, Item) and left.quantity == 3, left

picture = File(BytesIO(Path(os.environ["DEPOT_PICTURE"]).read_bytes()), "cat.png", "image/png")
document = store_document.sync(client=client, body=StoreDocumentBody(picture))
assert isinstance(document, Document) and document.filename == "cat.png", document

report = get_financial_report.sync(client=client)
assert isinstance(report, Financial) and report.report.top_items, report
print("done")
