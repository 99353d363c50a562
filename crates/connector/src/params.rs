//! What rides in a request from the producer to the consumer: `kv_transfer_params`.
