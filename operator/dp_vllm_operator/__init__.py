"""Makes a Kubernetes cluster match its DPModel objects."""
