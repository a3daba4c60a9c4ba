"""The operator's command line. This release has no operator yet: the image and its entry point are all there is."""

import sys
from importlib.metadata import version


def main() -> int:
    """Say the version, or that there is nothing to run; the exit status."""
    if sys.argv[1:] == ["--version"]:
        print(f"dp-vllm-operator {version('dp-vllm')}")  # noqa: T201
        return 0
    print("dp-vllm-operator: this release has no operator yet", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
