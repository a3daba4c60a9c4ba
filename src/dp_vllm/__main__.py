"""`python -m dp_vllm` is `dp-vllm`."""

import sys

from dp_vllm.cli import main

sys.exit(main())
