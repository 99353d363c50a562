"""The proof bed: real vLLM on the CPU, tiny models made on the spot, a verdict for each way that KV can travel.

Only the standard library is used here; `models` alone runs inside the virtual environment of a vLLM version.
"""
