-- What wrk sends, from the arguments behind "--" (requests pipelined at a time, bytes of a POSTed body), and its
-- figures as one line of JSON, exact where its printed summary is rounded.

function init(arguments)
  local depth, bytes = tonumber(arguments[1]), tonumber(arguments[2])
  if bytes > 0 then
    wrk.method = "POST"
    wrk.body = string.rep("x", bytes)
  end
  if depth > 1 then -- only then: a request() that wrk must call costs the load generator time
    local several = string.rep(wrk.format(), depth)
    request = function() return several end
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
