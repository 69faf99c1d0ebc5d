-- An order of two different items among the `ITEMS` ones that `depot demo` made: in stock, and in dollars.
require("common")

local items = tonumber(os.getenv("ITEMS"))

local function some()
  local n
  repeat n = math.random(0, items - 1) until n % 50 ~= 49 and math.floor(n / 3) % 10 ~= 9
  return n
end

local function sku_line(n)
  return string.format('{"sku":"DEMO-%07d","quantity":1}', n)
end

function init()
  prepare(60000, function()
    local first, second = some(), some()
    while second == first do second = some() end
    return order(sku_line(first), sku_line(second))
  end)
end
