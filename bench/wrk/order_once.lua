-- The orders of order_spread, each under an Idempotency-Key of its own.
require("order_spread")

local build, heads, tails, count = init, {}, {}, 0

function init()
  wrk.headers["Idempotency-Key"] = "KEY"
  build()
  run = string.format("%d-", os.time()) -- the warm-up had keys too
  for n, text in ipairs(prepared()) do
    heads[n], tails[n] = text:match("^(.*)KEY(.*)$")
  end
end

function request()
  local n = math.random(#heads)
  count = count + 1
  return heads[n] .. run .. count .. tails[n]
end
