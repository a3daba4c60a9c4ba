"""Runs in Slurm jobs: which nodes and GPUs a job has, and how one run spans several nodes."""
