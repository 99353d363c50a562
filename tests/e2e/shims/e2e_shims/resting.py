"""RopewayConnector in a vLLM whose processes rest for an instant where they would spin.

Workers of a tensor-parallel instance and its scheduler wait for each other by `sched_yield` in a loop. On two cores, with
more spinning processes than cores, Linux 6.18 was seen to leave threads of the other instance without a core for 15 to 30
seconds: longer than blocks stay lent. Nothing else is changed.
"""

import time

from ropeway.vllm.connector import RopewayConnector
from vllm.distributed.device_communicators import shm_broadcast

REST_SECONDS = 0.0002

shm_broadcast.sched_yield = lambda: time.sleep(REST_SECONDS)

__all__ = ["RopewayConnector"]
