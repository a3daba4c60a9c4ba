"""Replays what was asked: traces of requests, and what would have become of them."""
