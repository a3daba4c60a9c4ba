"""What `--help` says."""

from dp_vllm.sim import faults, settings

_HEAD = """usage: dp-vllm sim MODEL [any flag of vllm serve] [--sim-...]

A simulated vLLM: its flags, routes, streams, metrics and signals, and no model. Every answer says so.
Flags of vllm serve that change something here, the others are read and ignored:
  --config --host --port --uds --root-path --api-key --served-model-name --lora-modules --enable-lora --max-loras --seed
  --max-num-seqs --max-num-batched-tokens --max-model-len --max-num-queued-reqs
  --block-size --num-gpu-blocks-override --enable-prefix-caching --enable-prompt-tokens-details
  --runner --convert --shutdown-timeout --sse-keep-alive-interval --enable-force-include-usage
  --enable-request-id-headers --enable-server-load-tracking --enable-tokenizer-info-endpoint
  --allowed-origins --allowed-methods --allowed-headers --allow-credentials --max-logprobs
  --enable-scale-out --tokens-only
  --disable-log-stats --disable-fastapi-docs --disable-uvicorn-access-log --disable-access-log-for-endpoints
and variables: VLLM_API_KEY, VLLM_HTTP_TIMEOUT_KEEP_ALIVE, VLLM_SERVER_DEV_MODE,
  VLLM_ENABLE_RESPONSES_API_STORE, VLLM_ALLOW_RUNTIME_LORA_UPDATING
Tools are called with arguments that fit their schemas: with tool_choice "required" or a named tool, and with "auto" if
a word of the tool's name is in the last message and that is the user's; so a tool's result is answered in prose. (vLLM
takes "auto" only with --enable-auto-tool-choice and --tool-call-parser.) response_format and structured_outputs (json,
json_object, choice, simple regex) are kept to; what is not simulated of a schema is answered 400.
"""

_HOST = """  --sim-host DIRECTORY
      engines that name the same one share what is downloaded, read and compiled, as those of one host do
"""

_FAULTS = """
Faults: --sim-fault KIND or JSON (several; or DP_VLLM_SIM_FAULT), while it runs POST, GET and DELETE /sim/fault:
  {"kind": "cut", "after": 3, "count": 1, "path": "/v1/chat"}
A fault strikes every request that needs the engine, unless `path` (a beginning of paths) or `count` says otherwise.
"""


def text() -> str:
    """The whole help."""
    lines = [_HEAD, "Settings of the simulation (flag, variable, default):"]
    for setting in settings.SETTINGS:
        lines.append(f"  {setting.flag} N   {setting.variable}   {setting.default:g} {setting.unit}")
        lines.append(f"      {setting.help}")
    lines.append(_HOST + _FAULTS.rstrip())
    for title, kinds in (
        ("at the start", faults.BOOT),
        ("of the server", faults.SERVER),
        ("of an answer's head", faults.HEAD),
        ("of an answer's body", faults.BODY),
    ):
        lines.append(f"  {title}:")
        lines += [f"    {kind:<16} {meaning}" for kind, meaning in kinds.items()]
    return "\n".join(lines)
