-- The 50 newest of the 1,000 items.
require("common")

function init()
  prepare(1, function() return wrk.format("GET", "/items?limit=50") end)
end
