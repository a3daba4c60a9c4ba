"""The simulated engine: a program with vLLM's flags, routes, streams, metrics and signals, and no model.

It serves the demo, the tests, the benchmarks and the cluster's end-to-end runs. Its answers say that they are
simulated. It knows nothing of gateways or supervisors: all that reaches it is what reaches a real engine, plus
`--sim-...` flags and the `/sim/fault` route.
"""
