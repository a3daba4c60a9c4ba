"""Which replica a request goes to, and what that decision has to know. Nothing here waits or does I/O."""
