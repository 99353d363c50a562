"""A process with vllm-ascend's own connector in it, on a machine without an NPU. See ../../README.md."""
