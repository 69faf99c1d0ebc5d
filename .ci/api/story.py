"""A scenario with the client that openapi-python-client generates."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

from depot_client import AuthenticatedClient
from depot_client.api.documents import get_document, store_document
from depot_client.api.events import list_events
from depot_client.api.items import adjust_stock, adjust_stocks, create_item, get_item, list_items, update_item
from depot_client.api.jobs import process, request_job_cancellation
from depot_client.api.keys import get_key
from depot_client.api.orders import cancel_order, fulfill_order, list_orders, place_order, update_order
from depot_client.api.reports import get_financial_report
from depot_client.api.users import get_action, record_action
from depot_client.api.webhooks import create_webhook, replay_webhook
from depot_client.models import (
    Action,
    ActionCompleted,
    ActionCreate,
    ApiKey,
    Document,
    Error,
    ErrorCode,
    EventFeed,
    EventType,
    Financial,
    Item,
    ItemCreate,
    ItemMergePatch,
    ItemMergePatchAttributesType0,
    ItemPage,
    ItemPatch,
    ItemPatchAttributesType0,
    ItemStockChange,
    ItemStocks,
    Job,
    Order,
    OrderCancel,
    OrderCreate,
    OrderLineCreate,
    OrderMergePatch,
    OrderMergePatchMetadataType0,
    OrderPage,
    OrderPatch,
    OrderPatchMetadataType0,
    OrdersExport,
    OrdersExportJobCreate,
    OrdersExportJobCreateKind,
    Queued,
    ReplayCreate,
    StockChange,
    StockChanges,
    StoreDocumentBody,
    Webhook,
    WebhookCreate,
)
from depot_client.models import WebhookCreateEventsItemType1 as AllEvents
from depot_client.types import File

client = AuthenticatedClient(os.environ["STORY_URL"], os.environ["STORY_KEY"])

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

picture = File(BytesIO(Path(os.environ["STORY_PICTURE"]).read_bytes()), "cat.png", "image/png")
document = store_document.sync(client=client, body=StoreDocumentBody(picture))
assert isinstance(document, Document) and document.filename == "cat.png", document

report = get_financial_report.sync(client=client)
assert isinstance(report, Financial) and report.report.top_items, report

# Find: by several SKUs and ids, by low stock, by reference and by time.
nut = create_item.sync(
    client=client, body=ItemCreate(sku="PY-NUT", name="Nut", price="0.10", low_stock_at=None)
)
assert isinstance(nut, Item) and nut.low_stock_at is None, nut
both = list_items.sync(client=client, sku=["PY-BOLT", "PY-NUT"], id=[item.id, nut.id])
assert isinstance(both, ItemPage) and {found.id for found in both.data} == {item.id, nut.id}, both
low = list_items.sync(client=client, low_stock=True)
assert isinstance(low, ItemPage) and [found.sku for found in low.data] == ["PY-BOLT"], low

# Change an order: the reference and the metadata, as a patch and as a merge patch.
gift = OrderPatchMetadataType0.from_dict({"gift": True})
changed = update_order.sync(placed.id, client=client, body=OrderPatch(reference="PO-1", metadata=gift))
assert isinstance(changed, Order) and changed.reference == "PO-1", changed
carrier = OrderMergePatchMetadataType0.from_dict({"carrier": "DHL"})
changed = update_order.sync(placed.id, client=client, body=OrderMergePatch(metadata=carrier))
assert isinstance(changed, Order) and changed.metadata, changed
assert changed.metadata.to_dict() == {"gift": True, "carrier": "DHL"}, changed
assert changed.updated_at > placed.updated_at, changed
hour = timedelta(hours=1)
since, until = placed.created_at - hour, placed.created_at + hour
orders = list_orders.sync(client=client, reference="PO-1", from_=since, to=until)
assert isinstance(orders, OrderPage) and [found.id for found in orders.data] == [placed.id], orders
sent = fulfill_order.sync(placed.id, client=client)
assert isinstance(sent, Order) and sent.fulfilled_at, sent
late = cancel_order.sync(placed.id, client=client, body=OrderCancel(reason="too late"))
assert isinstance(late, Error) and late.error.code is ErrorCode.INVALID_STATE, late
assert late.error.details and late.error.details[0]["status"] == "fulfilled", late

# Count while selling: one item, then several, all or none.
counted = adjust_stock.sync(item.id, client=client, body=StockChange(quantity=10, expected=3))
assert isinstance(counted, Item) and counted.quantity == 10, counted
changes = [
    ItemStockChange(sku="PY-BOLT", quantity=12, expected=3),
    ItemStockChange(item_id=nut.id, delta=100),
]
moved = adjust_stocks.sync(client=client, body=StockChanges(changes=changes))
assert isinstance(moved, Error) and moved.error.code is ErrorCode.QUANTITY_CHANGED, moved
changes[0].expected = 10
stocks = adjust_stocks.sync(client=client, body=StockChanges(changes=changes, reason="count"))
assert isinstance(stocks, ItemStocks) and [stock.quantity for stock in stocks.data] == [12, 100], stocks

# Withdraw an item from sale.
archived = update_item.sync(nut.id, client=client, body=ItemPatch(archived=True))
assert isinstance(archived, Item) and archived.archived, archived
nuts = OrderCreate(customer_id="c-1", lines=[OrderLineCreate(sku="PY-NUT", quantity=1)])
withdrawn = place_order.sync(client=client, body=nuts)
assert isinstance(withdrawn, Error) and withdrawn.error.code is ErrorCode.ITEM_ARCHIVED, withdrawn

# Follow the feed of events from the beginning to the end, and continue there.
types, after = [], None
while (
    (feed := list_events.sync(client=client, limit=5, cursor=after))
    and isinstance(feed, EventFeed)
    and feed.data
):
    types += [event.type_ for event in feed.data]
    after = feed.next_cursor
    stocked = [event.data["stock"][0]["quantity"] for event in feed.data if event.type_ == "order.placed"]
    assert stocked in ([], [3]), feed
assert types.count("order.placed") == types.count("order.fulfilled") == 1, types
action = record_action.sync("ann", client=client, body=ActionCreate(action="login"))
assert isinstance(action, ActionCompleted), action
while (
    (feed := list_events.sync(client=client, cursor=after)) and isinstance(feed, EventFeed) and not feed.data
):
    pass  # an event appears when all earlier transactions have ended
assert isinstance(feed, EventFeed) and [event.type_ for event in feed.data] == ["user.action"], feed
read = get_action.sync("ann", action.id, client=client)
assert isinstance(read, Action) and read.action == "login", read

# Deliver a period again, and cancel a job that no worker has started.
hook = create_webhook.sync(
    client=client, body=WebhookCreate(url="https://shop.example/", events=[AllEvents("*")])
)
assert isinstance(hook, Webhook), hook
period = ReplayCreate(from_=since, to=datetime.now(UTC), events=[EventType.ORDER_PLACED])
replay = replay_webhook.sync(hook.id, client=client, body=period)
assert isinstance(replay, Queued), replay
export = OrdersExportJobCreate(
    OrdersExportJobCreateKind.ORDERS_EXPORT, OrdersExport(since.isoformat(), until.isoformat())
)
queued = process.sync(client=client, body=export)
assert isinstance(queued, Queued), queued
stopped = request_job_cancellation.sync(queued.id, client=client)
assert isinstance(stopped, Job) and stopped.status == "cancelled", stopped
unchanged = get_document.sync_detailed(document.id, client=client, if_none_match=f'"{document.status}"')
assert unchanged.status_code in (200, 304), unchanged

# Rotate the key: the old one works until the overlap ends, and the new one has the same scopes.
mine = get_key.sync(client=client)
assert isinstance(mine, ApiKey) and mine.scopes == ["admin"] and mine.expires_at is None, mine
rotate = [os.environ["STORY_DEPOT"], "keys", "rotate", mine.id, "--overlap", "1h"]
rotated = subprocess.run(rotate, check=True, capture_output=True, text=True).stdout.strip()
new = get_key.sync(client=AuthenticatedClient(os.environ["STORY_URL"], rotated))
assert isinstance(new, ApiKey) and (new.id != mine.id, new.scopes) == (True, mine.scopes), new
old = get_key.sync(client=client)
assert isinstance(old, ApiKey) and old.expires_at, old
assert {ErrorCode.TIMED_OUT, ErrorCode.OVERLOADED} <= set(ErrorCode)
print("done")
