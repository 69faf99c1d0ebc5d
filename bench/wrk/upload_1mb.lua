-- The same with 1,000,000 bytes.
SIZE = 1000000
require("upload_5mib")
