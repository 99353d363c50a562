//! Events that other processes wait for.

use std::ffi::c_char;

use super::cells::Cell;
use super::event::{EVENTS, Event, IPC};
use crate::context;
use crate::fail::{Done, Fail, code};
use crate::ffi::Out;
use crate::runtime::runtime;

/// `aclrtIpcEventHandle`: passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    bytes: [c_char; 64],
}

impl Default for Handle {
    fn default() -> Self {
        Self { bytes: [0; 64] }
    }
}

const MAGIC: &str = "RPWSIMEV";

crate::export! {
    /// `aclrtIpcGetEventHandle`: of an event made with the flag IPC.
    fn sim_aclrtIpcGetEventHandle(event: usize, handle: Out<Handle>) {
        let event = EVENTS.get(event)?;
        let cell = event.cell.as_ref().filter(|_| !event.foreign);
        let cell = cell.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, "the event was not made with the flag IPC"))?;
        let (index, generation) = cell.name(runtime()?)?;
        let mut answer = Handle::default();
        Out::from(&mut answer.bytes[..]).set_text(&format!("{MAGIC} {index} {generation}"), 64)?;
        handle.set(answer)
    }

    /// `aclrtIpcOpenEventHandle`: the handle comes by value.
    fn sim_aclrtIpcOpenEventHandle(handle: Handle, event: Out<usize>) {
        event.check()?;
        context::current()?;
        let cell = Cell::open(runtime()?, parse(&handle)?)?;
        event.set(EVENTS.add(|handle| Event::new(handle, IPC, false, Some(cell), true)).handle)
    }
}

fn parse(handle: &Handle) -> Done<(usize, u64)> {
    let bytes: Vec<u8> = handle.bytes.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.split(' ');
    let name = (words.next() == Some(MAGIC))
        .then(|| Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?)));
    name.flatten().ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, "no handle of an event"))
}
