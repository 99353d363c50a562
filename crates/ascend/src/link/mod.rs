//! What the device transports share: one link engine over several native ways to a peer.
