//! What the user asked for: vLLM's `kv_transfer_config` and the connector's own keys in it.
