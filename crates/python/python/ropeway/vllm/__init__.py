"""vLLM on Ropeway: ``--kv-transfer-config '{"kv_connector": "RopewayConnector", ...}'``.

Importing this imports neither vLLM nor torch. vLLM calls :func:`register` in each of its processes, through the entry point
`vllm.general_plugins` of this package.
"""

__all__ = ["register"]

_NAME = "RopewayConnector"


def register() -> None:
    """Makes the connector known to vLLM by its name. Called twice, it counts once."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    try:
        KVConnectorFactory.register_connector(_NAME, "ropeway.vllm.connector", _NAME)
    except ValueError:
        # vLLM refuses a name that it knows; its plugins may be loaded more than once.
        pass
