"""Where endpoints come from: a static list, or a file that the supervisor writes."""
