"""A connector whose received KV is spoiled, named by ROPEWAY_E2E_SPOILS as `module:Class`.

When a receive ends, every byte of the decode instance's KV changes its sign: what a transfer to wrong addresses or a
read of reused blocks would look like. A proof that passes over this connector proves nothing.
"""

import importlib
import os

MODULE, NAME = os.environ["ROPEWAY_E2E_SPOILS"].split(":")
Base = getattr(importlib.import_module(MODULE), NAME)


class Spoiled(Base):
    def register_kv_caches(self, kv_caches):
        # Layers of different groups may lie over each other: each place once.
        self.spoilt = list({cache.data_ptr(): cache for cache in kv_caches.values()}.values())
        return super().register_kv_caches(kv_caches)

    def spoil(self, received):
        if received:
            for cache in self.spoilt:
                cache.neg_()

    def get_finished(self, finished_req_ids):
        sent, received = super().get_finished(finished_req_ids)
        # The newer call below may be built on this one: only one of the two spoils.
        if not hasattr(Base, "get_transfer_results"):
            self.spoil(received)
        return sent, received

    if hasattr(Base, "get_transfer_results"):

        def get_transfer_results(self, finished_req_ids):
            results = super().get_transfer_results(finished_req_ids)
            self.spoil(results.finished_recving)
            return results


def __getattr__(name):
    """The class answers to the name that the configuration gives, whichever that is."""
    if name == NAME:
        return Spoiled
    raise AttributeError(name)
