"""What a DPModel becomes: its replica pods, its gateway and all that stands beside them, as plain JSON. Pure."""
