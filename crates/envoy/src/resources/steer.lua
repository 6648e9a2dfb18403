-- Who stays with which release while two are judged beside each other: a browser keeps a place among 100, and the pools have the places
-- in the order in which they are listed: the candidate, the stable release, its baseline.
local COOKIE, PLACES = "bowline-release", 100

-- Every thread has a script of its own, and none of them begins as another one does.
math.randomseed(os.time() + tonumber(string.match(tostring({}), "0x(%x+)") or "0", 16) % 1000003)

-- The place that a browser brings, and its cookies without it.
local function cookie(headers)
  local place, others, own = nil, {}, false
  for i = 0, headers:getNumValues("cookie") - 1 do
    for pair in string.gmatch(headers:getAtIndex("cookie", i), "[^;]+") do
      local value = string.match(pair, "^%s*" .. string.gsub(COOKIE, "%-", "%%-") .. "=(.*)$")
      if value == nil then
        others[#others + 1] = string.match(pair, "^%s*(.-)%s*$")
      else
        own = true
        local number = string.match(value, "^%d+$") and tonumber(value)
        if place == nil and number and number < PLACES then place = number end
      end
    end
  end
  return place, others, own
end

local function holder(pools, place, turn)
  local total = 0
  for _, pool in ipairs(pools) do total = total + pool["weight"] end
  local at = math.floor((place + turn) % PLACES * total / PLACES)
  for _, pool in ipairs(pools) do
    if at < pool["weight"] then return pool["cluster"] end
    at = at - pool["weight"]
  end
  return nil
end

local function choose(handle)
  local context, headers = handle:filterContext(), handle:headers()
  local pools, memory = context:get("pools"), handle:streamInfo():dynamicMetadata()
  local place, others, own = cookie(headers)
  if own then
    headers:remove("cookie")
    if #others > 0 then headers:add("cookie", table.concat(others, "; ")) end
  end
  local look = headers:get("x-bowline-preview")
  if look ~= nil then
    memory:set("bowline.steer", "look", true)
    for _, pool in ipairs(pools) do
      if pool["look"] == look then return pool["cluster"] end
    end
    -- One that does not run is passed over.
    return holder(pools, math.random(0, PLACES - 1), 0)
  end
  if place == nil then
    place = math.random(0, PLACES - 1)
    if context:get("split") then
      local secure = headers:get("x-forwarded-proto") == "https" and "; Secure" or ""
      memory:set("bowline.steer", "cookie", COOKIE .. "=" .. place .. "; Path=/; HttpOnly; SameSite=Lax" .. secure)
    end
  end
  return holder(pools, place, context:get("turn"))
end

function envoy_on_request(handle)
  local ok, cluster = pcall(choose, handle)
  handle:headers():replace("bowline-pool", ok and cluster or "none")
end

function envoy_on_response(handle)
  local memory = handle:streamInfo():dynamicMetadata():get("bowline.steer")
  -- Of an answer of an instance alone: who was given none is not kept anywhere.
  if memory ~= nil and memory["cookie"] ~= nil and handle:headers():get("x-bowline-error") == nil then
    handle:headers():add("set-cookie", memory["cookie"])
  end
end
