-- Any of the 1,000 items.
require("common")

function init()
  prepare(1000, function(n) return wrk.format("GET", "/items/" .. item(n)) end)
end
