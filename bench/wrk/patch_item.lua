-- A new name and a new price for any of the 1,000 items.
require("common")

function init()
  prepare(4000, function(n)
    local cents = math.random(100, 99999)
    local body = string.format('{"name":"Item at %d cents","price":"%d.%02d"}', cents, cents / 100, cents % 100)
    return wrk.format("PATCH", "/items/" .. item(n % 1000 + 1), nil, body)
  end)
end
