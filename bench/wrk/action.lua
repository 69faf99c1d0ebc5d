-- One of 1,000 users does something.
require("common")

function init()
  prepare(1000, function(n)
    local body = '{"action":"login","metadata":{"ip":"192.0.2.7","agent":"wrk"}}'
    return wrk.format("POST", string.format("/users/u-%d/actions", n), nil, body)
  end)
end
