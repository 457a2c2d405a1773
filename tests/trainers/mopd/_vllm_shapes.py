"""Answers in the shapes of vLLM's OpenAI server, put together from its field names: late 2026, an early one, and its errors."""

COMPLETION = r"""
{"id": "cmpl-5d2f", "object": "text_completion", "created": 1790000000, "model": "teacher",
 "choices": [
  {"index": 0, "text": " d", "logprobs": null, "finish_reason": "length", "stop_reason": null, "token_ids": null,
   "prompt_logprobs": [null,
     {"11": {"logprob": -0.25, "rank": 1, "decoded_token": " b"}, "4": {"logprob": -2.5, "rank": 2, "decoded_token": " e"}},
     {"7": {"logprob": -6.125, "rank": 31, "decoded_token": "\u00e4"}, "9": {"logprob": -0.5, "rank": 1, "decoded_token": ""},
      "4": {"logprob": -1.5, "rank": 2, "decoded_token": null}}],
   "prompt_token_ids": null, "routed_experts": null}],
 "service_tier": null, "system_fingerprint": "vllm-0.2x", "usage": {"prompt_tokens": 3, "total_tokens": 4, "completion_tokens": 1,
 "prompt_tokens_details": null}, "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null}
"""
EARLY_COMPLETION = r"""
{"id": "cmpl-1", "object": "text_completion", "created": 1720000000, "model": "teacher",
 "choices": [{"index": 0, "text": "d", "logprobs": null, "finish_reason": "length", "stop_reason": null, "prompt_logprobs": [null,
   {"11": {"logprob": -0.25, "rank": 1, "decoded_token": " b"}, "4": {"logprob": -2.5, "rank": 2, "decoded_token": " e"}},
   {"7": {"logprob": -6.125, "rank": 31, "decoded_token": "x"}, "9": {"logprob": -0.5, "rank": 1, "decoded_token": "y"},
    "4": {"logprob": -1.5, "rank": 2, "decoded_token": "z"}}]}],
 "usage": {"prompt_tokens": 3, "total_tokens": 4, "completion_tokens": 1}}
"""
MODELS = r"""
{"object": "list", "data": [{"id": "teacher", "object": "model", "created": 1790000000, "owned_by": "vllm", "root": "org/math-rl",
 "parent": null, "max_model_len": 4096, "permission": [{"id": "modelperm-1", "object": "model_permission", "allow_logprobs": true}]}]}
"""
TOO_MANY = {
    "error": {
        "message": "Requested prompt logprobs of 64, which is greater than max allowed: 20",
        "type": "BadRequestError",
        "param": "prompt_logprobs",
        "code": 400,
    }
}
TOO_LONG = {
    "object": "error",
    "message": "This model's maximum context length is 8 tokens. However, you requested 9 tokens.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
