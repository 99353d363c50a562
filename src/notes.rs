//! Notes: small texts that an engine shows to its peers by name.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ropeway_core::machine::session::Command;
use ropeway_core::wire::message::{MAX_NOTE_BYTES, MAX_NOTE_NAME_BYTES, Why};
use ropeway_core::{Error, ErrorKind, Result};

use crate::control::Waiting;
use crate::peer::{Peer, PeerInner};
use crate::pending::{Pending, pending};
use crate::shared::Shared;

/// Notes that an engine may show.
const MAX_NOTES: usize = 64;

impl Shared {
    pub(crate) fn write_note(&self, name: String, bytes: Bytes) -> Result<()> {
        if name.len() > MAX_NOTE_NAME_BYTES || bytes.len() > MAX_NOTE_BYTES {
            let text = format!(
                "note {name:?} of {} bytes; a name may have {MAX_NOTE_NAME_BYTES}, a note {MAX_NOTE_BYTES}",
                bytes.len()
            );
            return Err(Error::new(ErrorKind::ApiMisuse, "note", text));
        }
        let mut notes = self.notes.write().unwrap_or_else(PoisonError::into_inner);
        if notes.len() >= MAX_NOTES && !notes.contains_key(&name) {
            let text = format!("{MAX_NOTES} notes are shown; the limit is {MAX_NOTES}");
            return Err(Error::new(ErrorKind::Full, "note", text));
        }
        notes.insert(name, bytes);
        Ok(())
    }

    pub(crate) fn note_asked(self: &Arc<Self>, peer: &Arc<PeerInner>, request: u32, name: &str) {
        let notes = crate::shared::read(&self.notes);
        let result = notes.get(name).cloned().ok_or(Why::NotFound);
        drop(notes);
        let _ = peer.session.say(self, peer, Command::TellNote { request, result });
    }

    pub(crate) fn read_note(
        self: &Arc<Self>,
        handle: &Peer,
        name: &str,
        timeout: Duration,
    ) -> Result<Pending<Bytes>> {
        let peer = &handle.0.inner;
        let (answer, answered) = pending();
        let waiting = Waiting::Note { answer, until: crate::deadline::after(timeout) };
        peer.session.ask(self, peer, Command::ReadNote { name: name.to_owned() }, waiting)?;
        Ok(answered)
    }
}

/// The peer does not show the note.
pub(crate) fn not_noted(why: Why, text: &str) -> Error {
    let reason = match why {
        Why::NotFound => "the peer shows no note of that name",
        _ => "the peer refused",
    };
    Error::new(why.kind(), "note", format!("{text}: {reason}"))
}
