-- Sends every radiograph that arrives to the gateway, and nothing else: results that the gateway sends here are no CR or DX.
-- A film that could not be sent (the gateway was down) is tried again when a study has become stable; sending it twice is harmless,
-- because the gateway knows a film by its SOP Instance UID and its bytes.

local FORWARDED = {CR = true, DX = true}
local failed = {}

function OnStoredInstance(instance, tags, metadata, origin)
  if FORWARDED[tags['Modality']] then
    RestApiPost('/modalities/gateway/store', DumpJson({
      Resources = {instance},
      Asynchronous = true,
      Synchronous = false,
      Permissive = false
    }, true))
  end
end

function OnJobFailure(job)
  failed[job] = true
end

function OnStableStudy(study, tags, metadata)
  local again = failed
  failed = {}
  for job, _ in pairs(again) do
    RestApiPost('/jobs/' .. job .. '/resubmit', '')
  end
end
