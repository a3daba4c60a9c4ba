"""Commands that look at a run and change it from another terminal: they ask the run's supervisor and its gateway."""
