-- W3C Trace Context, as the embedded edge has it: a trace goes on or is begun, and if Envoy is a span of it, the instance is told of that span.
-- Before this stands FROM: of a trace that begins here the last 56 bits, in digits, from which on it is recorded; nil: Envoy is a span of none.

-- What one request needs, and how many of them are read at once.
local ID, SPAN, REQUESTS = 16, 8, 170

local DIGITS = string.rep("%02x", ID + SPAN)

local bytes, at = "", 1

-- Ids must differ from those of all other threads and machines: what math.random is seeded with here does not.
local function random()
  if at > #bytes then
    local file = assert(io.open("/dev/urandom", "rb"))
    bytes, at = file:read(REQUESTS * (ID + SPAN)), 1
    file:close()
  end
  local digits = string.format(DIGITS, string.byte(bytes, at, at + ID + SPAN - 1))
  at = at + ID + SPAN
  return string.sub(digits, 1, 2 * ID), string.sub(digits, 2 * ID + 1)
end

-- Trace, parent and flags (3.2 and 4.3). Of two nobody knows which is meant; a later version than 00 may go on behind another "-".
local function given(headers)
  local text = headers:get("traceparent")
  if text == nil or headers:getNumValues("traceparent") ~= 1 then return nil end
  local version, id, parent, flags, more = string.match(text, "^(%x%x)%-(%x+)%-(%x+)%-(%x%x)(.*)$")
  if version == nil or version == "ff" or #id ~= 2 * ID or #parent ~= 2 * SPAN then return nil end
  if string.find(string.sub(text, 1, #text - #more), "%u") then return nil end
  if not string.find(id, "[^0]") or not string.find(parent, "[^0]") then return nil end
  if more ~= "" and (version == "00" or string.sub(more, 1, 1) ~= "-") then return nil end
  -- Sampled, and that the id is random: the others are not known.
  return id, parent, tonumber(string.sub(flags, 2), 16) % 4
end

function envoy_on_request(handle)
  local headers, memory = handle:headers(), handle:streamInfo():dynamicMetadata()
  local id, parent, flags = given(headers)
  local goes_on = id ~= nil
  if goes_on and (FROM == nil or flags % 2 == 0) then
    memory:set("bowline.trace", "trace_id", id)
    return
  end
  local own, span = random()
  local recorded = goes_on
  if not goes_on then
    id, recorded = own, FROM ~= nil and string.sub(own, -14) >= FROM
    -- Who asks no collector leaves it to the app.
    flags = FROM == nil and 1 or recorded and 3 or 2
    -- It was said of another trace.
    headers:remove("tracestate")
  end
  headers:replace("traceparent", "00-" .. id .. "-" .. span .. "-0" .. flags)
  memory:set("bowline.trace", "trace_id", id)
  if recorded then
    memory:set("bowline.trace", "span_id", span)
    if goes_on then memory:set("bowline.trace", "parent_span_id", parent) end
    if flags >= 2 then memory:set("bowline.trace", "trace_random", true) end
  end
end
