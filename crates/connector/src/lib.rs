//! What a connector of vLLM's kind needs, without Python: cache layouts, rank maps, and the life of a request.
//!
//! A vLLM instance runs a connector in two halves. The *scheduler half* lives beside the scheduler, sees requests come and
//! go, and moves no byte: [`scheduler`] decides there, without I/O. The *worker half* lives in each rank, owns an engine
//! over that rank's KV cache and does what the scheduler half said: [`worker`]. Between them go small encoded messages,
//! [`meta`], and between instances the strings that ride in a request, [`params`].
//!
//! The producing instance shows its workers by [`table`], what both halves count is in [`stats`].
//!
//! What the cache looks like is said by [`layout`], whom a rank talks to by [`ranks`], whether two instances fit by
//! [`facts`], and what the user asked for by [`config`].
#![forbid(unsafe_code)]

pub mod config;
pub mod facts;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod ids;
pub mod layout;
pub mod listener;
pub mod meta;
pub mod params;
pub mod ranks;
pub mod reformat;
pub mod scheduler;
pub mod stats;
pub mod table;
pub mod worker;
