"""`dp-vllm batch`: asks an endpoint everything that is in a file, and can be killed and started again at any time.

The files are OpenAI's: a line of `custom_id`, `method`, `url` and `body` in, one of `custom_id`, `response` and `error`
out. The answers' file is the only memory: what stands there is not asked again.
"""
