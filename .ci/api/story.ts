// The same story by openapi-fetch, with the types that openapi-typescript generates.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type ErrorCode = components["schemas"]["ErrorCode"];
type OrderCreate = components["schemas"]["OrderCreate"];

const client = createClient<paths>({
  baseUrl: process.env.STORY_URL!,
  headers: { Authorization: `Bearer ${process.env.STORY_KEY}` },
});

const { data: item } = await client.POST("/items", {
  body: { sku: "TS-BOLT", name: "Bolt", price: "9.99", quantity: 5, description: "Steel", currency: "USD" },
});
assert(item);
const here = { params: { path: { item_id: item.id } } };

const renamed = await client.PATCH("/items/{item_id}", { ...here, body: { name: "Bolt M8" } });
assert.deepEqual([renamed.data?.name, renamed.data?.description], ["Bolt M8", "Steel"]);
const cleared = await client.PATCH("/items/{item_id}", { ...here, body: { description: null } });
assert.deepEqual([cleared.data?.name, cleared.data?.description], ["Bolt M8", null]);

const merge = { headers: { "Content-Type": "application/merge-patch+json" } };
await client.PATCH("/items/{item_id}", { ...here, body: { attributes: { color: "red" } } });
const merged = await client.PATCH("/items/{item_id}", { ...here, ...merge, body: { attributes: { size: 8 } } });
assert.deepEqual(merged.data?.attributes, { color: "red", size: 8 });
const replaced = await client.PATCH("/items/{item_id}", { ...here, body: { attributes: { length: 40 } } });
assert.deepEqual(replaced.data?.attributes, { length: 40 });

const order: OrderCreate = { customer_id: "c-1", lines: [{ sku: item.sku, quantity: 2 }] };
const once = { params: { header: { "Idempotency-Key": "ts-1" } }, body: order };
const placed = await client.POST("/orders", once);
assert.equal(placed.data?.total, "19.98");
const again = await client.POST("/orders", once);
assert.deepEqual(again.data, placed.data);
assert.equal(again.response.headers.get("Idempotent-Replayed"), "true");

const refused = await client.POST("/orders", {
  body: { customer_id: "c-2", lines: [{ item_id: item.id, quantity: 4 }] },
});
assert.equal(refused.response.status, 409);
assert(refused.error && "error" in refused.error); // or it would be a problem of RFC 9457, which was not asked for
assert.equal(refused.error.error.code, "INSUFFICIENT_STOCK");
assert.equal(refused.error.error.details?.[0]?.available, 3);

const left = await client.GET("/items/{item_id}", here);
assert.equal(left.data?.quantity, 3);

const form = new FormData();
form.append("file", new Blob([new Uint8Array(await readFile(process.env.STORY_PICTURE!))], { type: "image/png" }), "cat.png");
const stored = await client.POST("/documents", { body: { file: "" }, bodySerializer: () => form });
assert.equal(stored.data?.filename, "cat.png");

const report = await client.GET("/reports/financial");
assert(typeof report.data === "object" && report.data.report.top_items.length > 0); // or it would be CSV

/** Return the code of a refusal. Its body is in the format of the API's errors, not a problem of RFC 9457. */
const code = (error: components["schemas"]["Error"] | components["schemas"]["Problem"] | undefined): ErrorCode | undefined =>
  error && "error" in error ? error.error.code : undefined;

// Find: by several SKUs and ids, by low stock, by reference and by time.
const { data: nut } = await client.POST("/items", {
  body: { sku: "TS-NUT", name: "Nut", price: "0.10", currency: "USD", quantity: 0, low_stock_at: null },
});
assert(nut && nut.low_stock_at === null);
const both = await client.GET("/items", { params: { query: { sku: ["TS-BOLT", "TS-NUT"], id: [item.id, nut.id] } } });
assert(typeof both.data === "object"); // or it would be CSV
assert.equal(both.data.data.length, 2);
const low = await client.GET("/items", { params: { query: { low_stock: true } } });
assert(typeof low.data === "object");
assert.deepEqual(low.data.data.map((found) => found.sku), ["TS-BOLT"]);

// Change an order: the reference and the metadata, as a patch and as a merge patch.
assert(placed.data);
const one = { params: { path: { order_id: placed.data.id } } };
await client.PATCH("/orders/{order_id}", { ...one, body: { reference: "PO-1", metadata: { gift: true } } });
const changed = await client.PATCH("/orders/{order_id}", { ...one, ...merge, body: { metadata: { carrier: "DHL" } } });
assert.deepEqual(changed.data?.metadata, { gift: true, carrier: "DHL" });
const period = { from: placed.data.created_at, to: new Date(Date.now() + 3_600_000).toISOString() };
const orders = await client.GET("/orders", { params: { query: { reference: "PO-1", ...period } } });
assert.deepEqual(orders.data?.data.map((found) => found.id), [placed.data.id]);
const sent = await client.POST("/orders/{order_id}/fulfill", one);
assert(sent.data?.fulfilled_at);
const late = await client.POST("/orders/{order_id}/cancel", { ...one, body: { reason: "too late" } });
assert.equal(code(late.error), "INVALID_STATE");

// Count while selling: one item, then several, all or none.
const counted = await client.POST("/items/{item_id}/stock", { ...here, body: { quantity: 10, expected: 3 } });
assert.equal(counted.data?.quantity, 10);
const count = (expected: number) =>
  client.POST("/stock", { body: { changes: [{ sku: "TS-BOLT", quantity: 12, expected }, { item_id: nut.id, delta: 100 }] } });
assert.equal(code((await count(3)).error), "QUANTITY_CHANGED");
assert.deepEqual((await count(10)).data?.data.map((stock) => stock.quantity), [12, 100]);

// Withdraw an item from sale.
const archived = await client.PATCH("/items/{item_id}", { params: { path: { item_id: nut.id } }, body: { archived: true } });
assert.equal(archived.data?.archived, true);
const withdrawn = await client.POST("/orders", { body: { customer_id: "c-1", lines: [{ sku: "TS-NUT", quantity: 1 }] } });
assert.equal(code(withdrawn.error), "ITEM_ARCHIVED");

// Follow the feed of events from the beginning to the end, and continue there.
const types: string[] = [];
let query: { limit: number; cursor?: string } = { limit: 5 };
for (;;) {
  const { data: feed } = await client.GET("/events", { params: { query } });
  assert(feed);
  if (feed.data.length === 0) break;
  types.push(...feed.data.map((event) => event.type));
  query = { limit: 5, cursor: feed.next_cursor };
}
assert.equal(types.filter((type) => type === "order.placed").length, 1);
const ann = { user_id: "ann" };
const action = await client.POST("/users/{user_id}/actions", { params: { path: ann }, body: { action: "login" } });
assert(action.data);
let news: components["schemas"]["FeedEvent"][] = [];
while (news.length === 0) { // an event appears when all earlier transactions have ended
  news = (await client.GET("/events", { params: { query } })).data!.data;
}
assert.deepEqual(news.map((event) => event.type), ["user.action"]);
const path = { ...ann, action_id: action.data.id };
const read = await client.GET("/users/{user_id}/actions/{action_id}", { params: { path } });
assert.equal(read.data?.action, "login");

// Deliver a period again, and cancel a job that no worker has started.
const hook = await client.POST("/webhooks", { body: { url: "https://shop.example/", events: ["*"] } });
assert(hook.data);
const replay = { params: { path: { webhook_id: hook.data.id } }, body: period };
assert.equal((await client.POST("/webhooks/{webhook_id}/replay", replay)).data?.status, "queued");
const queued = await client.POST("/process", { body: { kind: "orders.export", payload: period } });
assert(queued.data);
const job = { params: { path: { job_id: queued.data.id } } };
assert.equal((await client.POST("/jobs/{job_id}/cancel", job)).data?.status, "cancelled");

// Rotate the key: the old one works until the overlap ends, and the new one has the same scopes.
const mine = await client.GET("/key");
assert(mine.data && mine.data.expires_at === null);
const rotated = execFileSync(process.env.STORY_DEPOT!, ["keys", "rotate", mine.data.id, "--overlap", "1h"], { encoding: "utf8" });
const renewed = await client.GET("/key", { headers: { Authorization: `Bearer ${rotated.trim()}` } });
assert.deepEqual([renewed.data?.scopes, renewed.data?.id === mine.data.id], [mine.data.scopes, false]);
assert((await client.GET("/key")).data?.expires_at);
const temporary: ErrorCode[] = ["TIMED_OUT", "OVERLOADED"]; // the compiler checks that they are known
console.log("done", temporary.length);
