-- Everybody wants the same item.
require("common")

function init()
  prepare(1, function() return order(line(0, 1)) end)
end
