//! Frames: a length, a version, a kind, and the message. They are cut into encrypted records and put together again by
//! the session's transport, so the decoder takes bytes in whatever pieces they come.

use bytes::{Buf, BufMut, BytesMut};

use super::{Message, Reader, WireError};

/// Bytes of the frame header: length u32 (of what follows it), version u8, kind u8.
pub const FRAME_HEADER_BYTES: usize = 6;

/// Appends `message` as one frame. Handshake messages carry version 0: their layout is the same for all versions.
pub fn encode_frame(message: &Message, version: u8, out: &mut BytesMut) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(if message.is_handshake() { 0 } else { version });
    out.put_u8(message.kind());
    message.encode_body(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Puts frames together from pieces. Holds at most `limit` bytes and what the last piece brought.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    limit: u32,
    version: u8,
    broken: Option<WireError>,
}

impl FrameDecoder {
    /// A decoder for frames of at most `limit` bytes (`Limits::control_frame_bytes`).
    pub fn new(limit: u32) -> Self {
        Self { buffer: BytesMut::new(), limit, version: 0, broken: None }
    }

    /// From here on, messages other than the handshake's must carry `version`. Before, none is accepted.
    pub fn set_version(&mut self, version: u8) {
        self.version = version;
    }

    /// Adds received bytes.
    ///
    /// # Errors
    /// [`WireError::TooLong`] when the frame that they begin passes the limit: nothing more is stored.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.buffer.extend_from_slice(bytes);
        self.frame_len().map(|_| ())
    }

    /// The next whole message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What is wrong with the frame. The stream is of no use afterwards: each later call gives the same error.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        let Some(len) = self.frame_len()? else {
            return Ok(None);
        };
        if self.buffer.len() < 4 + len {
            return Ok(None);
        }
        self.buffer.advance(4);
        let frame = self.buffer.split_to(len);
        self.decode(&frame).map(Some).map_err(|error| self.fail(error))
    }

    fn decode(&self, frame: &[u8]) -> Result<Message, WireError> {
        let mut from = Reader::new(frame);
        let (version, kind) = (from.u8()?, from.u8()?);
        let message = Message::decode_body(kind, &mut from)?;
        from.finish()?;
        let expected = if message.is_handshake() { 0 } else { self.version };
        if version != expected || (version == 0) != message.is_handshake() {
            return Err(WireError::Unknown { what: "frame version", value: version.into() });
        }
        Ok(message)
    }

    fn frame_len(&mut self) -> Result<Option<usize>, WireError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let Some((len, _)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*len);
        match len {
            0..2 => Err(self.fail(WireError::Value { what: "frame length" })),
            len if len > self.limit => {
                Err(self.fail(WireError::TooLong { what: "frame", limit: self.limit.into() }))
            }
            len => Ok(Some(len as usize)),
        }
    }

    fn fail(&mut self, error: WireError) -> WireError {
        self.broken = Some(error);
        self.buffer = BytesMut::new();
        error
    }
}
