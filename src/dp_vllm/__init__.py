"""One LLM served by many vLLM replicas behind one OpenAI endpoint.

This package says what a deployment is and runs it on one machine. The gateway (`dp_vllm_gateway`) and the operator
(`dp_vllm_operator`) are packages of their own that meet only here.
"""

from importlib.metadata import version

__version__ = version("dp-vllm")
