//! Connections: ordered frames with delays, cut at any moment, noticed by each side in its own time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ropeway_core::machine::directory::Change;
use ropeway_core::machine::lease::{Arrival, Claim, Proof};
use ropeway_core::machine::session::{Command, Event as Heard, Output, Session, SessionConfig, Side};
use ropeway_core::wire::message::Why;
use ropeway_core::wire::{FrameDecoder, Hello, HostIdentity, PeerLimits, encode_frame};
use ropeway_core::{GrantId, Incarnation, PeerId, RemoteDirectory, Rights};

use super::Mutation;
use super::engine::Peer;
use super::world::{Event, World, ms};

/// A control session and the data link beside it.
pub(super) struct Conn {
    pub(super) lives: [usize; 2],
    pub(super) peers: [PeerId; 2],
    /// Same host: the initiator touches the owner's memory itself, behind fence words and cells.
    pub(super) one_sided: bool,
    /// By initiator: which lease each of its running copies names.
    pub(super) cells: [BTreeMap<usize, GrantId>; 2],
    /// By owner: whether the other side may begin anything.
    pub(super) gate: [bool; 2],
    /// By side: the connection is over, as far as it knows.
    pub(super) cut: [bool; 2],
    /// By side: the data link alone is over.
    pub(super) data_cut: [bool; 2],
    /// By receiving side: when the last frame arrives.
    last: [Duration; 2],
}

impl World {
    /// Connects to the engine that lives at a node now, whoever it is.
    pub(super) fn connect(&mut self, life: usize, node: usize, expects: Incarnation) -> Option<PeerId> {
        let remote = self.nodes[node];
        if !self.lives[remote].alive || remote == life {
            return None;
        }
        let lives = [life, remote];
        let conn = self.conns.len();
        let mut peers = [PeerId { slot: 0, generation: 1 }; 2];
        for side in 0..2 {
            let hello = self.hello(lives[side], (side == 0).then_some(expects));
            let role = if side == 0 { Side::Client } else { Side::Server };
            let mut config = SessionConfig::new(role, hello, &self.limits);
            config.handshake = ms(200);
            let session = Session::new(config, self.now).expect("a hello within the wire's limits");
            let engine = &mut self.lives[lives[side]].engine;
            engine.last_peer += 1;
            peers[side] = PeerId { slot: engine.last_peer, generation: 1 };
            let peer = Peer {
                session,
                decoder: FrameDecoder::new(1 << 20),
                conn,
                side,
                asked: BTreeMap::new(),
                remote: RemoteDirectory::new(&self.limits),
                over: false,
            };
            engine.peers.insert(peers[side], peer);
        }
        let hosts = [self.lives[life].node, node].map(|node| self.hosts[node]);
        self.conns.push(Conn {
            lives,
            peers,
            one_sided: hosts[0] == hosts[1],
            cells: [BTreeMap::new(), BTreeMap::new()],
            gate: [true; 2],
            cut: [false; 2],
            data_cut: [false; 2],
            last: [self.now; 2],
        });
        // The server's handshake timer runs, too.
        self.at(self.now + ms(200), Some(remote), Event::Wake);
        Some(peers[0])
    }

    fn hello(&self, life: usize, expects: Option<Incarnation>) -> Hello {
        Hello {
            // Every other life is of the version before: N speaks N - 1.
            version_min: 1,
            version_max: 1 + (life % 2) as u8,
            incarnation: self.lives[life].engine.incarnation,
            expects,
            capabilities: 0,
            host: HostIdentity::default(),
            build: "simulated".into(),
            limits: PeerLimits {
                control_frame_bytes: 1 << 20,
                grants_per_peer: self.limits.grants_per_peer(),
                served_requests: 1,
                served_bytes: 1,
                heartbeat_ms: 80,
            },
            offers: Vec::new(),
        }
    }

    /// Frames and events of one session. `true` if there were any.
    pub(super) fn drain_session(&mut self, life: usize, id: PeerId) -> bool {
        let mut any = false;
        while let Some(peer) = self.lives[life].engine.peers.get_mut(&id) {
            let Some(output) = peer.session.poll_output() else { break };
            any = true;
            match output {
                Output::Send(message) => {
                    let (mut frame, version) = (BytesMut::new(), peer.session.version());
                    encode_frame(&message, version, &mut frame);
                    let (conn, side) = (peer.conn, 1 - peer.side);
                    self.post(conn, side, frame.freeze());
                }
                Output::Event(event) => self.heard(life, id, event),
            }
        }
        any
    }

    fn post(&mut self, index: usize, side: usize, bytes: Bytes) {
        let delay = ms(if self.rng.chance(5) { self.rng.below(120) } else { self.rng.below(6) });
        let conn = &mut self.conns[index];
        if conn.cut[1 - side] {
            return;
        }
        // In order within the connection; connections overtake each other.
        let at = conn.last[side].max(self.now + delay);
        conn.last[side] = at;
        let life = conn.lives[side];
        self.at(at, Some(life), Event::Deliver { conn: index, side, bytes });
    }

    pub(super) fn deliver(&mut self, life: usize, conn: usize, side: usize, bytes: &[u8]) {
        if self.conns[conn].cut[side] {
            return;
        }
        let (id, now) = (self.conns[conn].peers[side], self.now);
        let Some(peer) = self.lives[life].engine.peers.get_mut(&id) else { return };
        peer.decoder.set_version(peer.session.version());
        if peer.decoder.push(bytes).is_err() {
            return self.fail("a frame of ours was refused".into());
        }
        // Each delivery is one frame; the version may change between two.
        match peer.decoder.next_message() {
            Ok(Some(message)) => peer.session.handle(message, now),
            other => self.fail(format!("a frame of ours came as {other:?}")),
        }
    }

    pub(super) fn cut(&mut self, life: usize, conn: usize, side: usize) {
        if std::mem::replace(&mut self.conns[conn].cut[side], true) {
            return;
        }
        let id = self.conns[conn].peers[side];
        if let Some(peer) = self.lives[life].engine.peers.get_mut(&id) {
            peer.session.connection_lost("the connection was cut");
        }
    }

    fn heard(&mut self, life: usize, peer: PeerId, event: Heard) {
        let now = self.now;
        match event {
            Heard::Established { .. } => self.peer_ready(life, peer),
            Heard::ClaimAsked { cache, grant, secret, .. } => {
                self.stats.claims += 1;
                let result = match self.lives[life].engine.leases.claim(peer, cache, grant, secret.0, now) {
                    Ok(Claim::Pending) => return,
                    Ok(Claim::Ready(info)) => Ok(info),
                    Err(why) => Err(why),
                };
                if self.rng.chance(10) {
                    return self.later(
                        0,
                        4,
                        Some(life),
                        Event::Decide { peer, grant, result: Box::new(result) },
                    );
                }
                self.call(life, peer, Command::Decide { grant, result });
            }
            Heard::ClaimAnswered { request, grant, result } => {
                self.claim_answered(life, peer, request, grant, result.ok());
            }
            Heard::Released { grant } => self.lives[life].engine.leases.release(peer, grant, now),
            Heard::Forsaken { grant } => self.lives[life].engine.leases.forsaken(peer, grant, now),
            Heard::Revoked { grant } => self.lives[life].engine.grants.revoked(peer, grant),
            Heard::Renewed => self.lives[life].engine.leases.renew(peer, now),
            Heard::Confirmed { sent } => self.lives[life].engine.grants.renewed_at(peer, sent),
            Heard::LookupAsked { request, name, known } => {
                let result = self.lives[life].engine.directory.lookup(&name, known);
                self.call(life, peer, Command::Answer { request, result });
            }
            Heard::LookupAnswered { name, result, .. } => {
                let found = result.ok().and_then(|info| {
                    self.lives[life].engine.peers.get_mut(&peer)?.remote.found(&name, info).ok()
                });
                if found.is_none() && name == "kv" {
                    self.fail("the cache was not found".into());
                }
                self.claim_waiting(life, peer);
            }
            Heard::Notified { grant, sequence, failed } => self.notified(life, peer, grant, sequence, failed),
            Heard::Silent { .. } => {
                self.call(life, peer, Command::Goodbye { why: Why::Silent, text: String::new() });
            }
            Heard::Closed { why, .. } => {
                self.stats.stale_incarnations += u64::from(why == Why::StaleIncarnation);
                if why == Why::Protocol {
                    self.fail("a session of ours broke the protocol".into());
                }
                self.peer_closed(life, peer);
            }
            Heard::NotifyRefused { .. } => {}
            Heard::CacheChanged { cache, version, live, name } => {
                self.cache_changed(life, peer, &Change { cache, version, live, name });
            }
            other => self.fail(format!("unexpected {other:?}")),
        }
    }

    fn notified(&mut self, life: usize, peer: PeerId, grant: GrantId, sequence: u32, failed: bool) {
        let double = self.broken(Mutation::DoubleCountArrivals);
        let engine = &mut self.lives[life].engine;
        let result = engine.leases.notify(peer, grant, sequence, failed);
        let Some(offered) = engine.offers.get_mut(&grant) else { return };
        match result {
            Ok(Arrival::New { arrived }) => {
                offered.arrived = if double { offered.arrived + 1 } else { arrived }
            }
            Ok(Arrival::Duplicate) => {
                self.stats.duplicates += 1;
                offered.arrived += u32::from(double);
            }
            Ok(_) => {}
            Err(why) => {
                self.call(life, peer, Command::RefuseNotify { grant, sequence, why });
                return;
            }
        }
        let offered = offered.clone();
        if offered.rights == Rights::Write && offered.arrived as usize == offered.blocks.len() {
            let memory = &self.lives[life].memory;
            let missing =
                offered.blocks.iter().find(|id| memory[**id as usize].iter().any(|w| *w != offered.tenant));
            if let Some(block) = missing {
                self.fail(format!("all of lease {grant} was counted as arrived, block {block} was not"));
            }
        }
    }

    /// The session is over: revoke, end what waits, and start to close the link, which alone proves anything.
    fn peer_closed(&mut self, life: usize, id: PeerId) {
        let (now, trust) = (self.now, self.broken(Mutation::TrustLostSessions));
        let engine = &mut self.lives[life].engine;
        let Some(peer) = engine.peers.get_mut(&id) else { return };
        if std::mem::replace(&mut peer.over, true) {
            return;
        }
        let (conn, side) = (peer.conn, peer.side);
        engine.leases.peer_lost(id, now);
        if trust {
            engine.leases.prove(Proof::LinkClosed { peer: id }, now);
        }
        engine.grants.peer_lost(id);
        self.conns[conn].gate[side] = false;
        self.end_jobs_of(life, id);
        self.later(1, 4, Some(life), Event::CloseLink(id));
        let other = self.conns[conn].lives[1 - side];
        self.conns[conn].last[1 - side] += ms(1);
        let at = self.conns[conn].last[1 - side].max(now + ms(1));
        self.at(at, Some(other), Event::Cut { conn, side: 1 - side });
    }

    /// Closes the link when nothing of it runs any more, on this side or, in our memory, on the other.
    pub(super) fn close_link(&mut self, life: usize, id: PeerId) {
        let Some(peer) = self.lives[life].engine.peers.get(&id) else { return };
        let (conn, side) = (peer.conn, peer.side);
        self.end_waiting(conn, side);
        let other = &self.lives[self.conns[conn].lives[1 - side]];
        let dead = !other.alive && self.now >= other.died + ms(5);
        let theirs = !self.conns[conn].cells[1 - side].is_empty() && !dead;
        if theirs || self.busy(conn, side) {
            self.later(2, 8, Some(life), Event::CloseLink(id));
            return;
        }
        let now = self.now;
        let drop_proofs = self.broken(Mutation::DropProofs);
        let engine = &mut self.lives[life].engine;
        if !drop_proofs {
            engine.leases.prove(
                if dead { Proof::ProcessGone { peer: id } } else { Proof::LinkClosed { peer: id } },
                now,
            );
        }
        engine.grants.link_closed(id);
        engine.quarantine.link_closed(id, 0);
        engine.peers.remove(&id);
    }
}
