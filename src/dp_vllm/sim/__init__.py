"""The simulated engine: a program with vLLM's flags, routes and metrics that needs no GPU and never claims to be a model."""
