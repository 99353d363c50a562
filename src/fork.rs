//! A forked child has the engine's tables but none of its threads: its calls are refused before they take a lock (the
//! parent may have held it), and its drops do nothing.

pub(crate) use ropeway_transport::memory::fork::Origin;
