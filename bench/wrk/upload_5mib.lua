-- A JPEG of 5 MiB unless SIZE says otherwise; never the same one twice: nothing is saved by having it already.
require("common")

SIZE = SIZE or 5 * 1024 * 1024
local HEAD = "\255\216\255\192\0\11\8\0\1\0\1\1\1\17\0\255\218\0\8\1\1\0\0\63\0"
local BLOCK = 65536
local BOUNDARY = "------------------------d74496d66958873e" -- as curl's: parsers search for a short one far longer
local count = os.time() * 1e6 -- the warm-up has sent others
local open, scan, close

function init()
  math.randomseed(20260101)
  local bytes = {}
  for n = 1, BLOCK do
    local byte = math.random(0, 255)
    bytes[n] = byte == 255 and "\255\0" or string.char(byte) -- as an encoder writes 255
  end
  open = '--' .. BOUNDARY .. '\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n' .. HEAD
  scan = string.rep(table.concat(bytes), math.ceil(SIZE / BLOCK)):sub(1, SIZE - #HEAD - 2 - 16)
  close = "\255\217\r\n--" .. BOUNDARY .. "--\r\n"
  wrk.headers["Content-Type"] = "multipart/form-data; boundary=" .. BOUNDARY
end

function request()
  count = count + 1
  return wrk.format("POST", "/documents", nil, open .. string.format("%016d", count) .. scan .. close)
end
