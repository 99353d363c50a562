//! How ranks find one another: the process that made the root info keeps a list until all have come.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::abi::RootInfo;
use super::result::{INTERNAL, PARA, TCP_CONNECT, TIMEOUT};
use crate::hixl::wire::{decode, encode};
use crate::net::{Channel, Handler, Server};
use crate::topology::DeviceKey;

/// What root info says.
#[derive(Serialize, Deserialize)]
struct Root {
    /// Marks it as this library's.
    simulated_root: u64,
    at: SocketAddr,
}

/// One rank, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// Its number.
    pub(super) rank: u32,
    /// Where it takes messages.
    pub(super) at: SocketAddr,
    /// Its device.
    pub(super) device: DeviceKey,
}

#[derive(Serialize, Deserialize)]
struct Join {
    ranks: u32,
    member: Member,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    /// Not all are there.
    Wait,
    /// All, by rank.
    All(Vec<Member>),
    /// The number of ranks or the rank does not fit.
    Wrong,
}

/// The list of one communicator.
#[derive(Default)]
struct List {
    inner: Mutex<(u32, HashMap<u32, Member>)>,
}

impl Handler for List {
    fn answer(&self, _: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let Join { ranks, member } = decode(frame)?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (wanted, members) = &mut *inner;
        if *wanted == 0 {
            *wanted = ranks;
        }
        let taken = members.get(&member.rank).is_some_and(|other| *other != member);
        // A communicator cannot hold one NPU twice.
        let twice = members.values().any(|other| other.rank != member.rank && other.device == member.device);
        if *wanted != ranks || member.rank >= ranks || taken || twice {
            return Some(encode(&Answer::Wrong));
        }
        members.insert(member.rank, member);
        if members.len() < ranks as usize {
            return Some(encode(&Answer::Wait));
        }
        let mut all: Vec<Member> = members.values().cloned().collect();
        all.sort_by_key(|member| member.rank);
        Some(encode(&Answer::All(all)))
    }

    fn closed(&self, _: u64) {}
}

/// Lists that this process keeps: a rank may come late, so they stay until it ends.
static LISTS: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// Makes root info and starts to keep its list.
pub(super) fn open() -> Outcome<RootInfo> {
    let server =
        Server::open((Ipv4Addr::LOCALHOST, 0).into(), Arc::<List>::default()).map_err(|_| INTERNAL)?;
    let root = Root { simulated_root: std::process::id().into(), at: server.at() };
    LISTS.lock().unwrap_or_else(PoisonError::into_inner).push(server);
    let mut info = RootInfo { internal: [0; 4108] };
    for (to, from) in info.internal.iter_mut().zip(encode(&root)) {
        *to = from;
    }
    Ok(info)
}

/// Joins, and waits until all have.
pub(super) fn join(info: &RootInfo, ranks: u32, member: &Member, limit: Duration) -> Outcome<Vec<Member>> {
    let end = info.internal.iter().position(|byte| *byte == 0).unwrap_or(info.internal.len());
    let root: Root = decode(&info.internal[..end]).ok_or(PARA)?;
    let deadline = Instant::now() + limit;
    let mut channel = Channel::open(root.at, deadline).map_err(|_| TCP_CONNECT)?;
    let ask = encode(&Join { ranks, member: member.clone() });
    loop {
        let answer = channel.ask(&ask, deadline).map_err(|_| TIMEOUT)?;
        match decode(&answer).ok_or(INTERNAL)? {
            Answer::All(all) => return Ok(all),
            Answer::Wrong => return Err(PARA),
            Answer::Wait if Instant::now() >= deadline => return Err(TIMEOUT),
            Answer::Wait => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
