-- What every load script shares: the items' ids, requests built before the clock runs, one line of figures.

local requests = {}

-- The id of the n-th item, as stage.py numbers them; 0 is the hot one.
function item(n)
  return string.format("01900000-0000-7000-8000-%012d", n)
end

function line(n, quantity)
  return string.format('{"item_id":"%s","quantity":%d}', item(n), quantity)
end

function order(...)
  local body = string.format('{"customer_id":"c-1","lines":[%s]}', table.concat({...}, ","))
  return wrk.format("POST", "/orders", nil, body)
end

-- Formatting a request costs wrk more than sending it, and wrk shares the cores with what it measures.
function prepare(count, build)
  math.randomseed(20260101) -- every peer gets the same requests
  wrk.headers["Content-Type"] = "application/json"
  for n = 1, count do requests[n] = build(n) end
end

function prepared()
  return requests
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"non_2xx":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
