-- An order of two different items among the 1,000.
require("common")

function init()
  prepare(4000, function(n)
    local first = n % 1000 + 1
    local second = (first + math.random(1, 999) - 1) % 1000 + 1
    return order(line(first, 1), line(second, math.random(1, 3)))
  end)
end
