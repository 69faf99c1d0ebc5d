// Depot in JavaScript, for Node 20 or newer. Run: node quickstart.mjs http://127.0.0.1:8000 "$(cat .depot/api-key)"

import { createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const [url, key] = process.argv.slice(2);

/** Send a request, and repeat it while Depot asks for that. The key makes this safe for a POST. */
async function call(method, path, { headers = {}, body } = {}) {
  const options = {
    method,
    headers: {
      Authorization: `Bearer ${key}`,
      "Content-Type": "application/json",
      "Idempotency-Key": randomUUID(),
      ...headers,
    },
    body: body && JSON.stringify(body),
  };
  for (let attempt = 0; attempt < 10; attempt++) {
    let reply;
    try {
      reply = await fetch(url + path, options);
    } catch {
      await sleep(1000);
      continue;
    }
    if (reply.ok || !reply.headers.has("Retry-After")) return reply;
    await sleep(1000 * Number(reply.headers.get("Retry-After")));
  }
  throw new Error(`${method} ${path} failed ten times`);
}

/** Return the JSON of a reply. Throw if it is an error. */
async function json(reply) {
  const content = await reply.json();
  if (!reply.ok) throw new Error(`${content.error.code}: ${content.error.message}`);
  return content;
}

/** Yield the entries of a list, page by page. */
async function* pages(path, filters) {
  const query = new URLSearchParams(filters);
  while (true) {
    const page = await json(await call("GET", `${path}?${query}`));
    yield* page.data;
    if (page.next_cursor === null) return;
    query.set("cursor", page.next_cursor);
  }
}

/** Return whether Depot sent this body recently. `secret` starts with whsec_. */
function isGenuine(secret, headers, body, toleranceSeconds = 300) {
  const timestamp = headers["webhook-timestamp"];
  const digest = createHmac("sha256", Buffer.from(secret.replace(/^whsec_/, ""), "base64"))
    .update(`${headers["webhook-id"]}.${timestamp}.`)
    .update(body)
    .digest("base64");
  const expected = Buffer.from(`v1,${digest}`);
  const isRecent = Math.abs(Date.now() / 1000 - Number(timestamp)) <= toleranceSeconds;
  const signatures = headers["webhook-signature"].split(" ").map((one) => Buffer.from(one));
  return isRecent && signatures.some((one) => one.length === expected.length && timingSafeEqual(one, expected));
}

// Create an item.
const sku = `BOLT-${randomUUID().slice(0, 8)}`;
const customer = `customer-${randomUUID().slice(0, 8)}`;
const bolt = { sku, name: "Bolt", price: "9.99", quantity: 5, description: "Steel" };
const created = await call("POST", "/items", { body: bolt });
const item = await json(created);
console.log(`created: ${item.quantity} bolts at ${item.price} ${item.currency}`);

// Change one of its fields, if no other client has changed the item. Null clears a field.
const path = `/items/${item.id}`;
const unchanged = { "If-Match": created.headers.get("ETag") };
const patched = await json(await call("PATCH", path, { headers: unchanged, body: { description: null } }));
console.log(`patched: version ${patched.version}, description ${patched.description}`);
const late = await call("PATCH", path, { headers: unchanged, body: { name: "Late" } });
console.log(`rejected: ${late.headers.get("X-Error-Code")}`);

// Receive webhooks: answer 2xx to genuine ones, and process them later.
let webhook, deliver;
const received = new Promise((resolve) => (deliver = resolve));
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const genuine = isGenuine(webhook.secret, request.headers, body);
  response.writeHead(genuine ? 204 : 401).end();
  if (genuine) deliver(JSON.parse(body));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const target = `http://127.0.0.1:${server.address().port}/`;
webhook = await json(await call("POST", "/webhooks", { body: { url: target, events: ["order.placed"] } }));

// Place an order, and repeat it with the same key, as after a lost connection.
const order = { customer_id: customer, lines: [{ sku, quantity: 2 }] };
const once = { "Idempotency-Key": randomUUID() };
const placed = await json(await call("POST", "/orders", { headers: once, body: order }));
console.log(`ordered: ${placed.lines[0].quantity} bolts for ${placed.total} ${placed.currency}`);
const again = await call("POST", "/orders", { headers: once, body: order });
const same = (await json(again)).id === placed.id;
console.log(`repeated: same order ${same}, replayed ${again.headers.get("Idempotent-Replayed")}`);
const event = await received;
console.log(`webhook: ${event.type}, same order ${event.data.id === placed.id}`);
await call("DELETE", `/webhooks/${webhook.id}`);
server.close();
server.closeAllConnections();

// Order more than there is.
await json(await call("POST", "/orders", { body: order }));
const { error } = await (await call("POST", "/orders", { body: order })).json();
console.log(`rejected: ${error.code}, available ${error.details[0].available}`);

// Read all pages of a list.
const ids = [];
for await (const { id } of pages("/orders", { customer_id: customer, limit: 1 })) ids.push(id);
console.log(`listed: ${ids.length} orders`);

// Start a job, follow it to its end, and fetch its result.
const started = await call("POST", "/process", { body: { kind: "report.export", payload: {} } });
const jobPath = started.headers.get("Location");
let reply, job;
while (true) {
  reply = await call("GET", jobPath);
  job = await json(reply);
  if (!["queued", "running"].includes(job.status)) break;
  await sleep(1000 * Number(reply.headers.get("Retry-After")));
}
const csv = await (await call("GET", `${jobPath}/output`)).text();
console.log(`job: ${job.status}, ${csv.split(/\r?\n/)[0]}`);
