"""What all tests share."""

pytest_plugins = ("left_out", "cluster.fixtures", "kubelet.fixtures")
