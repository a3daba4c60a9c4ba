"""Where endpoints come from: a static list, a file that the supervisor writes, or the pods of a Kubernetes cluster."""
