// The same story by openapi-fetch, with the types that openapi-typescript generates.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type OrderCreate = components["schemas"]["OrderCreate"];

const client = createClient<paths>({
  baseUrl: process.env.DEPOT_URL!,
  headers: { Authorization: `Bearer ${process.env.DEPOT_KEY}` },
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
form.append("file", new Blob([new Uint8Array(await readFile(process.env.DEPOT_PICTURE!))], { type: "image/png" }), "cat.png");
const stored = await client.POST("/documents", { body: { file: "" }, bodySerializer: () => form });
assert.equal(stored.data?.filename, "cat.png");

const report = await client.GET("/reports/financial");
assert(typeof report.data === "object" && report.data.report.top_items.length > 0); // or it would be CSV
console.log("done");
