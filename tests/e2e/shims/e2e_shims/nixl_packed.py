"""NixlConnector of vLLM 0.23 on the CPU.

The CPU's attention keeps K and V of a token in one row: a cache has four dimensions, blocks first. That release knows only
five, takes such a cache for a pair of K and V, and cannot start. It is told that blocks come first; a block is then moved in
two halves, and nothing else is changed.
"""

from vllm.distributed.kv_transfer.kv_connector.utils import TransferTopology
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import NixlConnector

known = TransferTopology.__post_init__


def packed(self) -> None:
    known(self)
    self._is_kv_layout_blocks_first = not self.is_mla


TransferTopology.__post_init__ = packed

__all__ = ["NixlConnector"]
