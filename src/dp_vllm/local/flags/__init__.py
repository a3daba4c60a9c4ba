"""The flags of `dp-vllm serve`: which are the endpoint's own, what they may be, and how the engine's are told apart."""
