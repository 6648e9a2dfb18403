-- Tokens, bearer tokens and passwords: a proof is one if the SHA-256 of salt and proof is among the digests. No secret comes here.
local bit = require("bit")
local band, bxor, bnot, rshift, ror, tobit = bit.band, bit.bxor, bit.bnot, bit.rshift, bit.ror, bit.tobit

-- FIPS 180-4, 4.2.2 and 5.3.3: the first 32 bits of the fractional parts of cube and square roots of primes.
local K, START = {}, {}
do
  local function fraction(x) return tobit(math.floor((x - math.floor(x)) * 4294967296)) end
  local found, n = 0, 2
  while found < 64 do
    local prime = true
    for d = 2, math.floor(math.sqrt(n)) do
      if n % d == 0 then prime = false break end
    end
    if prime then
      found = found + 1
      K[found] = fraction(n ^ (1 / 3))
      if found <= 8 then START[found] = fraction(n ^ 0.5) end
    end
    n = n + 1
  end
end

local function sha256(text)
  local length = #text
  local zeros = (55 - length) % 64
  local size = string.char(0, 0, 0, band(math.floor(length / 536870912), 255), band(rshift(length, 21), 255),
    band(rshift(length, 13), 255), band(rshift(length, 5), 255), band(length * 8, 255))
  text = text .. "\128" .. string.rep("\0", zeros) .. size
  local h = {unpack(START)}
  local w = {}
  for at = 1, #text, 64 do
    for i = 1, 16 do
      local a, b, c, d = string.byte(text, at + i * 4 - 4, at + i * 4 - 1)
      w[i] = tobit(a * 16777216 + b * 65536 + c * 256 + d)
    end
    for i = 17, 64 do
      local x, y = w[i - 15], w[i - 2]
      local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
      local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
      w[i] = tobit(w[i - 16] + s0 + w[i - 7] + s1)
    end
    local a, b, c, d, e, f, g, i = unpack(h)
    for round = 1, 64 do
      local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
      local t1 = tobit(i + s1 + bxor(band(e, f), band(bnot(e), g)) + K[round] + w[round])
      local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
      local t2 = tobit(s0 + bxor(band(a, b), band(a, c), band(b, c)))
      i, g, f, e, d, c, b, a = g, f, e, tobit(d + t1), c, b, a, tobit(t1 + t2)
    end
    for j, x in ipairs({a, b, c, d, e, f, g, i}) do h[j] = tobit(h[j] + x) end
  end
  for j = 1, 8 do h[j] = bit.tohex(h[j]) end
  return table.concat(h)
end

local function bytes(hex)
  return (string.gsub(hex, "..", function(pair) return string.char(tonumber(pair, 16)) end))
end

-- A longer field, in bytes, proves nothing: it would be computed with before anybody is known.
local LONGEST = 4096

-- What a byte of base64 stands for.
local SEXTETS = {}
do
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  for at = 1, #alphabet do SEXTETS[string.byte(alphabet, at)] = at - 1 end
end

local function unbase64(text)
  if #text % 4 ~= 0 or not string.find(text, "^[%w+/]*=?=?$") then return nil end
  local out, value, bits = {}, 0, 0
  for i = 1, #text do
    local sextet = SEXTETS[string.byte(text, i)]
    if sextet then
      value = (value * 64 + sextet) % 16777216
      bits = bits + 6
      if bits >= 8 then
        bits = bits - 8
        out[#out + 1] = string.char(math.floor(value / 2 ^ bits) % 256)
      end
    end
  end
  return table.concat(out)
end

-- The value of a field that is there once: of two, the app might believe the other one.
local function sole(headers, name)
  if headers:getNumValues(name) ~= 1 then return nil end
  local value = headers:get(name)
  if #value > LONGEST then return nil end
  return value
end

-- Without white space around it. A pattern would try each of a thousand blanks as the first one of the end.
local function trimmed(text)
  local first, last = string.find(text, "%S"), #text
  if first == nil then return "" end
  while string.find(text, "^%s", last) do last = last - 1 end
  return string.sub(text, first, last)
end

local function credentials(headers, scheme)
  local value = sole(headers, "authorization")
  if value == nil or string.lower(string.sub(value, 1, #scheme + 1)) ~= scheme .. " " then return nil end
  return trimmed(string.sub(value, #scheme + 2))
end

local function proven(handle)
  local context, headers = handle:filterContext(), handle:headers()
  local kind, proof = context:get("kind"), nil
  if kind == "header" then
    proof = sole(headers, context:get("name"))
  elseif kind == "bearer" then
    proof = credentials(headers, "bearer")
  elseif kind == "basic" then
    local encoded = credentials(headers, "basic")
    proof = encoded and unbase64(encoded)
  end
  if proof == nil then return false end
  local digest, found = sha256(bytes(context:get("salt")) .. proof), false
  for _, known in ipairs(context:get("digests")) do found = found or known == digest end
  -- A password is not for the app; tokens go on, since apps that hold the same token may look at it again.
  if found and kind == "basic" then headers:remove("authorization") end
  return found
end

local REFUSALS = {
  header = {"403", "token-refused", nil, "This address wants a token, and the request has none or another one."},
  bearer = {"401", "bearer-wanted", "Bearer realm=\"restricted\"", "This address wants a bearer token."},
  basic = {"401", "basic-wanted", "Basic realm=\"restricted\", charset=\"UTF-8\"", "This address wants a name and a password."},
}

function envoy_on_request(handle)
  -- A fault of this script must let nobody in.
  local ok, found = pcall(proven, handle)
  if ok and found then return end
  local refusal = REFUSALS[handle:filterContext():get("kind")] or REFUSALS.header
  local headers = {
    [":status"] = refusal[1],
    ["content-type"] = "text/plain; charset=utf-8",
    ["cache-control"] = "no-store",
    ["x-bowline-error"] = refusal[2],
  }
  if refusal[3] then headers["www-authenticate"] = refusal[3] end
  handle:respond(headers, refusal[4] .. "\n")
end
