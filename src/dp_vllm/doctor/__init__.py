"""`dp-vllm doctor`: whether a start will work, and what is wrong after one that did not.

Facts are gathered at the edge (`look`, `nvml`, `hub`, `checkpoint`, `installed`), and judged by functions that wait for
nothing (`of_*`): each makes findings that say what was found and what to do.
"""
