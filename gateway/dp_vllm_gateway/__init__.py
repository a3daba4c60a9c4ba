"""Sends an OpenAI request to one of many engines and streams the answer back."""
