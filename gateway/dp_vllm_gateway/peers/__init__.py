"""Several gateways before the same replicas, *peers*, that tell each other what the workers of one do."""
