//! Two transports in one process over real loopback sockets, with a small stand-in for the engine on each side; and
//! strangers at the port.

mod ends;
mod engine;
mod hostile;
mod moves;
mod revoke;
mod staged;
mod stranger;

use engine::{Engine, GRANT, copies, eventually, pair, pair_with, wait};
use stranger::{Port, Stranger};
