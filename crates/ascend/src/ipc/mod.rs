//! NPUs of one host: exported keys and copies on streams.
