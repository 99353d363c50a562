//! What the scheduler half tells the workers, step by step, as bytes.
//!
//! vLLM carries the bytes to every worker of the instance. They are compact, since each step pays for them: block ids as
//! differences, since neighbours are common. The decoder takes any bytes, allocates no more than they can stand for, and
//! knows its limits.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use ropeway::{Auth, Incarnation, LeaseName, Secret};

use crate::params::{BLOCKS_MAX, GROUPS_MAX, Owner};

/// A request's passage through one half, told apart from an earlier one of the same id. Counted up by the scheduler half.
pub type Ticket = u64;

/// Something for the workers to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A prompt is computed: keep its blocks open under this name.
    Lend {
        /// The passage.
        ticket: Ticket,
        /// The request, as vLLM names it in results.
        request: String,
        /// The lease's name.
        lease: LeaseName,
        /// The manager's block ids per group, null ids kept.
        blocks: Vec<Vec<u32>>,
    },
    /// A request has come whose prompt was computed elsewhere: claim its blocks.
    Track {
        /// The passage.
        ticket: Ticket,
        /// The request, as vLLM names it in results.
        request: String,
        /// Who lent the blocks.
        owner: Owner,
        /// Under which name.
        lease: LeaseName,
    },
    /// It has blocks of its own now, and vLLM waits for them to be filled.
    Pull {
        /// The passage.
        ticket: Ticket,
        /// The request, as vLLM names it in results.
        request: String,
        /// Our manager's block ids per group, null ids kept.
        local: Vec<Vec<u32>>,
        /// The producer's.
        remote: Vec<Vec<u32>>,
        /// Which tokens to load.
        tokens: Range<u64>,
    },
    /// Nobody wants the producer's blocks any more: stop, and let them go.
    Drop {
        /// The passage.
        ticket: Ticket,
    },
    /// A request has blocks of its own, and a producer will write them: keep them open under this name.
    Expect {
        /// The passage.
        ticket: Ticket,
        /// The request, as vLLM names it in results.
        request: String,
        /// The lease's name.
        lease: LeaseName,
        /// Our manager's block ids per group.
        local: Vec<Vec<u32>>,
        /// Which tokens are to be written.
        tokens: Range<u64>,
    },
    /// No producer will come: the metaserver could not be told.
    Refuse {
        /// The passage.
        ticket: Ticket,
    },
    /// A prompt is to be computed whose KV goes to another instance as it is computed: claim its blocks.
    Aim {
        /// The passage.
        ticket: Ticket,
        /// Who waits for it.
        owner: Owner,
        /// Under which name.
        lease: LeaseName,
        /// The consumer's block ids per group.
        remote: Vec<Vec<u32>>,
        /// The first token that it lacks.
        from: u64,
    },
    /// This step computes a part of it.
    Step {
        /// The passage.
        ticket: Ticket,
        /// Our manager's block ids per group, beyond those that were told before.
        more: Vec<Vec<u32>>,
        /// Once the step is done, so many tokens have been computed.
        end: u64,
    },
    /// It is over here.
    End {
        /// The passage.
        ticket: Ticket,
        /// The request, as vLLM names it in results.
        request: String,
        /// All of it was computed, and is to arrive; otherwise nothing more may be read here.
        complete: bool,
        /// vLLM keeps the blocks until they are reported as sent. Otherwise it takes them now.
        keeps: bool,
    },
}

impl Message {
    /// The passage that it is about.
    pub fn ticket(&self) -> Ticket {
        match self {
            Self::Lend { ticket, .. }
            | Self::Track { ticket, .. }
            | Self::Pull { ticket, .. }
            | Self::Drop { ticket }
            | Self::Expect { ticket, .. }
            | Self::Refuse { ticket }
            | Self::Aim { ticket, .. }
            | Self::Step { ticket, .. }
            | Self::End { ticket, .. } => *ticket,
        }
    }
}

/// Messages of one step.
pub const MESSAGES_MAX: usize = 65_536;

/// Bytes of a request's id.
pub const REQUEST_BYTES_MAX: usize = 4_096;

/// Addresses of one owner.
const ADDRESSES_MAX: usize = 8;

/// Bytes that are not the messages of a scheduler half of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the scheduler half's messages cannot be read: {what} at byte {at}")]
pub struct MetaError {
    /// What is wrong.
    pub what: &'static str,
    /// Where.
    pub at: usize,
}

const MAGIC: &[u8; 4] = b"RWM2";
const LEND: u8 = 1;
const TRACK: u8 = 2;
const PULL: u8 = 3;
const DROP: u8 = 4;
const EXPECT: u8 = 5;
const REFUSE: u8 = 6;
const AIM: u8 = 7;
const STEP: u8 = 8;
const END: u8 = 9;

/// Encodes the messages of one step. No messages are no bytes.
pub fn encode(messages: &[Message]) -> Vec<u8> {
    if messages.is_empty() {
        return Vec::new();
    }
    let mut to = Vec::with_capacity(64);
    to.extend_from_slice(MAGIC);
    number(&mut to, messages.len() as u64);
    messages.iter().for_each(|message| put(&mut to, message));
    to
}

fn put(to: &mut Vec<u8>, message: &Message) {
    match message {
        Message::Lend { ticket, request, lease, blocks } => {
            head(to, LEND, *ticket);
            text(to, request);
            name(to, lease);
            groups(to, blocks);
        }
        Message::Track { ticket, request, owner, lease } => {
            head(to, TRACK, *ticket);
            text(to, request);
            put_owner(to, owner);
            name(to, lease);
        }
        Message::Pull { ticket, request, local, remote, tokens } => {
            head(to, PULL, *ticket);
            text(to, request);
            groups(to, local);
            groups(to, remote);
            number(to, tokens.start);
            number(to, tokens.end);
        }
        Message::Drop { ticket } => head(to, DROP, *ticket),
        Message::Expect { ticket, request, lease, local, tokens } => {
            head(to, EXPECT, *ticket);
            text(to, request);
            name(to, lease);
            groups(to, local);
            number(to, tokens.start);
            number(to, tokens.end);
        }
        Message::Refuse { ticket } => head(to, REFUSE, *ticket),
        Message::Aim { ticket, owner, lease, remote, from } => {
            head(to, AIM, *ticket);
            put_owner(to, owner);
            name(to, lease);
            groups(to, remote);
            number(to, *from);
        }
        Message::Step { ticket, more, end } => {
            head(to, STEP, *ticket);
            groups(to, more);
            number(to, *end);
        }
        Message::End { ticket, request, complete, keeps } => {
            head(to, END, *ticket);
            text(to, request);
            to.push(u8::from(*complete) | u8::from(*keeps) << 1);
        }
    }
}

fn head(to: &mut Vec<u8>, kind: u8, ticket: Ticket) {
    to.push(kind);
    number(to, ticket);
}

/// Seven bits a byte, low ones first.
fn number(to: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn text(to: &mut Vec<u8>, text: &str) {
    number(to, text.len() as u64);
    to.extend_from_slice(text.as_bytes());
}

fn name(to: &mut Vec<u8>, lease: &LeaseName) {
    to.extend_from_slice(&lease.key.to_le_bytes());
    to.extend_from_slice(&lease.secret.to_le_bytes());
}

fn put_owner(to: &mut Vec<u8>, owner: &Owner) {
    to.extend_from_slice(&owner.incarnation.get().to_le_bytes());
    match &owner.auth {
        Auth::Secret(secret) => {
            to.push(1);
            to.extend_from_slice(secret.expose());
        }
        Auth::ClusterKey => to.push(2),
        Auth::Insecure => to.push(3),
    }
    let addresses = &owner.addresses[..owner.addresses.len().min(ADDRESSES_MAX)];
    to.push(addresses.len() as u8);
    for address in addresses {
        match address.ip() {
            IpAddr::V4(ip) => {
                to.push(4);
                to.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                to.push(6);
                to.extend_from_slice(&ip.octets());
            }
        }
        to.extend_from_slice(&address.port().to_le_bytes());
    }
}

/// Each id as its difference from the one before, the sign in the lowest bit: a run of neighbours is a run of twos.
fn groups(to: &mut Vec<u8>, groups: &[Vec<u32>]) {
    number(to, groups.len() as u64);
    for ids in groups {
        number(to, ids.len() as u64);
        let mut before = 0;
        for id in ids {
            let step = i64::from(*id) - before;
            number(to, ((step << 1) ^ (step >> 63)) as u64);
            before = i64::from(*id);
        }
    }
}

/// Decodes the messages of one step.
///
/// # Errors
/// Bytes that [`encode`] did not make, or that pass a limit.
pub fn decode(bytes: &[u8]) -> Result<Vec<Message>, MetaError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut from = Reader { bytes, at: 0 };
    if from.take(MAGIC.len())? != MAGIC {
        return Err(MetaError { what: "another version", at: 0 });
    }
    let count = from.count(MESSAGES_MAX, "too many messages")?;
    let messages = (0..count).map(|_| from.message()).collect::<Result<_, _>>()?;
    if from.at != bytes.len() {
        return Err(from.wrong("bytes are left"));
    }
    Ok(messages)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn message(&mut self) -> Result<Message, MetaError> {
        let kind = self.byte()?;
        let ticket = self.number()?;
        Ok(match kind {
            LEND => Message::Lend {
                ticket,
                request: self.text()?,
                lease: self.name()?,
                blocks: self.groups(BLOCKS_MAX)?,
            },
            TRACK => {
                Message::Track { ticket, request: self.text()?, owner: self.owner()?, lease: self.name()? }
            }
            PULL => Message::Pull {
                ticket,
                request: self.text()?,
                // As many as vLLM gave it; what is read of them is limited by the producer's lease.
                local: self.groups(self.bytes.len())?,
                remote: self.groups(BLOCKS_MAX)?,
                tokens: self.number()?..self.number()?,
            },
            DROP => Message::Drop { ticket },
            EXPECT => Message::Expect {
                ticket,
                request: self.text()?,
                lease: self.name()?,
                local: self.groups(BLOCKS_MAX)?,
                tokens: self.number()?..self.number()?,
            },
            REFUSE => Message::Refuse { ticket },
            AIM => Message::Aim {
                ticket,
                owner: self.owner()?,
                lease: self.name()?,
                remote: self.groups(BLOCKS_MAX)?,
                from: self.number()?,
            },
            STEP => Message::Step { ticket, more: self.groups(self.bytes.len())?, end: self.number()? },
            END => {
                let request = self.text()?;
                match self.byte()? {
                    flags @ 0..4 => {
                        Message::End { ticket, request, complete: flags & 1 == 1, keeps: flags & 2 == 2 }
                    }
                    _ => return Err(self.wrong("unknown flags")),
                }
            }
            _ => return Err(self.wrong("an unknown message")),
        })
    }

    fn owner(&mut self) -> Result<Owner, MetaError> {
        let incarnation = Incarnation::new(u64::from_le_bytes(self.array()?));
        let incarnation = incarnation.ok_or_else(|| self.wrong("no incarnation"))?;
        let auth = match self.byte()? {
            1 => Auth::Secret(Secret::new(self.array()?)),
            2 => Auth::ClusterKey,
            3 => Auth::Insecure,
            _ => return Err(self.wrong("an unknown authentication")),
        };
        let count = self.count(ADDRESSES_MAX, "too many addresses")?;
        let addresses = (0..count).map(|_| self.address()).collect::<Result<_, _>>()?;
        Ok(Owner { addresses, incarnation, auth })
    }

    fn address(&mut self) -> Result<SocketAddr, MetaError> {
        let ip: IpAddr = match self.byte()? {
            4 => self.array::<4>()?.into(),
            6 => self.array::<16>()?.into(),
            _ => return Err(self.wrong("an unknown address family")),
        };
        Ok(SocketAddr::new(ip, u16::from_le_bytes(self.array()?)))
    }

    fn name(&mut self) -> Result<LeaseName, MetaError> {
        Ok(LeaseName { key: u64::from_le_bytes(self.array()?), secret: u128::from_le_bytes(self.array()?) })
    }

    fn text(&mut self) -> Result<String, MetaError> {
        let length = self.count(REQUEST_BYTES_MAX, "a request id that is too long")?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.wrong("a request id that is no text"))
    }

    fn groups(&mut self, mut left: usize) -> Result<Vec<Vec<u32>>, MetaError> {
        let count = self.count(GROUPS_MAX, "too many groups")?;
        (0..count)
            .map(|_| {
                let length = self.count(left, "too many blocks")?;
                left -= length;
                let mut id = 0;
                (0..length).map(|_| self.id(&mut id)).collect()
            })
            .collect()
    }

    fn id(&mut self, id: &mut i64) -> Result<u32, MetaError> {
        let folded = self.number()?;
        let step = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        let next = id.checked_add(step).and_then(|next| u32::try_from(next).ok());
        let next = next.ok_or_else(|| self.wrong("no block id"))?;
        *id = i64::from(next);
        Ok(next)
    }

    /// A length: within `max`, and of no more items than bytes are left for.
    fn count(&mut self, max: usize, what: &'static str) -> Result<usize, MetaError> {
        let count = self.number()?;
        let fits = count <= max as u64 && count <= (self.bytes.len() - self.at) as u64;
        if fits { Ok(count as usize) } else { Err(self.wrong(what)) }
    }

    fn number(&mut self) -> Result<u64, MetaError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.wrong("a number that is too large"))
    }

    fn byte(&mut self) -> Result<u8, MetaError> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], MetaError> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..length));
        let taken = taken.ok_or_else(|| self.wrong("an early end"))?;
        self.at += length;
        Ok(taken)
    }

    fn wrong(&self, what: &'static str) -> MetaError {
        MetaError { what, at: self.at }
    }
}

#[cfg(test)]
mod tests;
