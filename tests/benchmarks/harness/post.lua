-- wrk: POST the given files in turn; the last line of the output is what was counted, as JSON.
-- Arguments: how many files, the files, then the names and values of headers.
local bodies, turn = {}, 0

function init(args)
   local count = tonumber(args[1])
   for number = 1, count do
      local file = assert(io.open(args[1 + number], "rb"))
      bodies[number] = file:read("*a")
      file:close()
   end
   local headers = {}
   for at = count + 2, #args, 2 do headers[args[at]] = args[at + 1] end
   for number = 1, count do bodies[number] = wrk.format("POST", nil, headers, bodies[number]) end
end

function request()
   turn = turn % #bodies + 1
   return bodies[turn]
end

function done(summary, latency, requests)
   local lost = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
   local told = '\n{"requests": %d, "us": %d, "status": %d, "socket": %d}\n'
   io.write(told:format(summary.requests, summary.duration, summary.errors.status, lost))
end
