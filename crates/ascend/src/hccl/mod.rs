//! Ranks of a two-rank communicator: matched sends and receives, only when asked for.
