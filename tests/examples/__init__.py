"""The files in examples/: a real API server takes them, and what they say of each other and of us is so."""
