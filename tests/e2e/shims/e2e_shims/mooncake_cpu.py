"""vLLM's MooncakeConnector on machines without an accelerator.

Its worker asks `torch.accelerator.current_device_index()`, which raises there although nothing uses the answer on the
CPU. That one call is answered with 0; nothing else is changed.
"""

import torch

if not torch.accelerator.is_available():
    torch.accelerator.current_device_index = lambda: 0

from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.mooncake_connector import (  # noqa: E402
    MooncakeConnector,
)

__all__ = ["MooncakeConnector"]
