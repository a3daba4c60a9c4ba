"""One gateway in several processes, a *worker* each, that share its sockets and tell each other what they do."""
