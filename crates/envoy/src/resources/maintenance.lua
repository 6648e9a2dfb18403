-- The filter before has looked whether the client is among those who still get in; where there are none, it is not there.
function envoy_on_request(handle)
  local seen = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.rbac")
  if seen ~= nil and seen["maintenance_shadow_engine_result"] == "allowed" then return end
  handle:respond({
    [":status"] = "503",
    ["content-type"] = "text/plain; charset=utf-8",
    ["cache-control"] = "no-store",
    ["retry-after"] = "60",
    ["x-bowline-error"] = "maintenance",
  }, "The app is being worked on and will be back.\n")
end
