"""Connector modules for `kv_connector_module_path`: stock connectors made to run, or to fail, for the proof."""
