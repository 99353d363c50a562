//! What the scheduler half tells the workers, step by step, as bytes.
