"""How the GPUs of a machine are joined, and which are best taken together. It knows neither engines nor runs."""
