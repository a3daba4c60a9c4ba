"""Runs a deployment on this machine: plans it, starts engines and the gateway, keeps them running, ends them."""
