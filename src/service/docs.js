// The page fills in the ids of what it has seen: after "create an item", each item_id is that item's.
const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  persistAuthorization: true,
  responseInterceptor: (reply) => {
    if (reply.url.endsWith("/openapi.json")) reply.text = withRecentTimes(reply.text);
    else if (reply.ok) fillIn(reply);
    return reply;
  },
});
let paths = {};

function withRecentTimes(text) {
  const midnight = (daysAgo) => new Date(Date.now() - daysAgo * 86400000).toISOString().slice(0, 10) + "T00:00:00Z";
  const recent = { from: midnight(1), to: midnight(0) };
  const isTime = (value) => typeof value === "string" && value.endsWith("T00:00:00Z");
  const document = JSON.parse(text, (name, value) => (name in recent && isTime(value) ? recent[name] : value));
  paths = document.paths;
  return JSON.stringify(document);
}

function fillIn(reply) {
  const path = reply.headers.location ?? new URL(reply.url).pathname;
  const collection = /\/([a-z]+)s(?:\/[^/]+)?$/.exec(path)?.[1];
  const id = reply.body?.id ?? reply.body?.data?.[0]?.id;
  if (!collection || !id) return;
  const parameter = collection.replace(/ie$/, "y") + "_id";
  for (const [path, methods] of Object.entries(paths)) {
    if (!path.includes(`{${parameter}}`)) continue;
    for (const method of Object.keys(methods)) ui.specActions.changeParam([path, method], parameter, "path", id, false);
  }
}
