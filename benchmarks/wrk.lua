-- What wrk sends, from the arguments behind "--" (requests pipelined at a time, bytes of a POSTed body, how many
-- browsers to pass for), and its figures as one line of JSON, exact where its printed summary is rounded.

local fields_of_a_browser = {
  ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
  ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
  ["Accept-Language"] = "en-US,en;q=0.5",
  ["Accept-Encoding"] = "gzip, deflate, br, zstd",
  ["Connection"] = "keep-alive",
  ["Upgrade-Insecure-Requests"] = "1",
  ["Sec-Fetch-Dest"] = "document",
  ["Sec-Fetch-Mode"] = "navigate",
  ["Sec-Fetch-Site"] = "same-origin",
}

function init(arguments)
  local depth, bytes, browsers = tonumber(arguments[1]), tonumber(arguments[2]), tonumber(arguments[3])
  if bytes > 0 then
    wrk.method = "POST"
    wrk.body = string.rep("x", bytes)
  end
  if depth > 1 then -- only then: a request() that wrk must call costs the load generator time
    local several = string.rep(wrk.format(), depth)
    request = function() return several end
  end
  if browsers > 0 then
    local turns, turn = {}, 0
    for number = 1, browsers do
      wrk.headers["Cookie"] = string.format("session=%032d; theme=dark", number)
      for name, value in pairs(fields_of_a_browser) do wrk.headers[name] = value end
      turns[number] = wrk.format()
    end
    request = function()
      turn = turn % browsers + 1
      return turns[turn]
    end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "bytes": %d, "errors": '
      .. '{"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
    summary.requests, summary.duration, summary.bytes,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
