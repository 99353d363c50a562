//! The owner in a process of its own: does what it is told, a thread for each wish.

use std::collections::HashMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ropeway::{
    BlockId, Cache, Error, ErrorKind, Event, Lease, LeaseOptions, Limits, Result, Rights, Start,
    TransportKind,
};

use super::ask::{Answer, Ask, receive, send};
use crate::conformance::Api;
use crate::conformance::ground::{Ground, Part, Side};

/// The test of the binary that calls [`be_owner_if_asked`].
pub(super) const TEST: &str = "owner_process";
/// The environment variable that makes a test binary an owner; its value is the socket's name.
pub(super) const ASKED: &str = "ROPEWAY_TEST_OWNER";

/// In a process that was started to be an owner: never returns. Elsewhere: returns at once.
pub fn be_owner_if_asked() {
    let Ok(name) = std::env::var(ASKED) else { return };
    std::thread::spawn(|| {
        // The parent holds the other end: it is gone when this ends.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let listener = UnixListener::bind_addr(&address).expect("a socket of our own");
    let owner = Arc::new(Serving::default());
    for stream in listener.incoming() {
        let (owner, stream) = (Arc::clone(&owner), stream.expect("a connection"));
        std::thread::spawn(move || owner.serve(stream));
    }
}

#[derive(Default)]
struct Serving {
    things: Mutex<Things>,
}

type Freed = Box<dyn Fn() -> bool + Send>;

#[derive(Default)]
struct Things {
    side: Option<Arc<Side>>,
    freed: Option<Freed>,
    caches: HashMap<u64, Cache>,
    leases: HashMap<u64, Arc<Lease>>,
    events: HashMap<u64, Event>,
}

impl Serving {
    fn serve(&self, mut stream: UnixStream) {
        // A connection that says nothing was a look whether we listen.
        let Ok((ask, bytes)) = receive::<Ask>(&mut stream) else { return };
        let (answer, bytes) = match self.obey(ask, &bytes) {
            Ok(answered) => answered,
            Err(error) => (Answer::from(&error), Vec::new()),
        };
        let _ = send(&mut stream, &answer, &bytes);
    }

    fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn side(&self) -> Result<Arc<Side>> {
        let gone = || Error::new(ErrorKind::Closed, "owner", "the owner dropped everything");
        self.things().side.clone().ok_or_else(gone)
    }

    fn lease(&self, id: u64) -> Arc<Lease> {
        Arc::clone(&self.things().leases[&id])
    }

    fn event(&self, id: u64) -> Event {
        self.things().events[&id].clone()
    }

    fn obey(&self, ask: Ask, bytes: &[u8]) -> Result<(Answer, Vec<u8>)> {
        let answer = match ask {
            Ask::Read { at, len } => {
                let mut bytes = vec![0; len as usize];
                self.side()?.region.read(at, &mut bytes)?;
                return Ok((Answer::Done, bytes));
            }
            Ask::Write { at } => self.side()?.region.write(at, bytes).map(|()| Answer::Done)?,
            Ask::Open { .. } | Ask::DropAll | Ask::IsMemoryGone => self.live(ask)?,
            Ask::Forbid | Ask::Allow | Ask::CloseEngine { .. } | Ask::Descriptor | Ask::Peers => {
                self.whole(&ask)?
            }
            Ask::Len
            | Ask::Fill { .. }
            | Ask::CloseRegion { .. }
            | Ask::Suspend { .. }
            | Ask::Resume
            | Ask::Register { .. } => self.memory(&ask)?,
            Ask::Publish { .. } | Ask::PublishRaw { .. } | Ask::Grant { .. } | Ask::Exchange { .. } => {
                self.promise(ask)?
            }
            other => self.thing(&other),
        };
        Ok((answer, Vec::new()))
    }

    fn live(&self, ask: Ask) -> Result<Answer> {
        Ok(match ask {
            Ask::Open { kind, streams, c_api, bytes, limits } => {
                let mut ground = Ground { streams, ..Ground::of(kind_of(&kind)) };
                if c_api {
                    ground = ground.over(Api::C);
                }
                let side = ground.side(bytes, Part::Owner, limits_of(&limits));
                self.things().side = Some(Arc::new(side));
                Answer::Done
            }
            Ask::DropAll => {
                let (side, rest) = {
                    let mut things = self.things();
                    let rest = (
                        std::mem::take(&mut things.leases),
                        std::mem::take(&mut things.caches),
                        std::mem::take(&mut things.events),
                    );
                    (things.side.take(), rest)
                };
                drop(rest);
                let side = side.and_then(|side| Arc::try_unwrap(side).ok()).expect("nobody else uses it");
                self.things().freed = Some(Box::new(side.drop_all()));
                Answer::Done
            }
            _ => Answer::Truth(self.things().freed.as_ref().is_some_and(|freed| freed())),
        })
    }

    fn whole(&self, ask: &Ask) -> Result<Answer> {
        let side = self.side()?;
        Ok(match ask {
            Ask::Forbid => {
                side.forbid();
                Answer::Done
            }
            Ask::Allow => {
                side.allow();
                Answer::Done
            }
            Ask::CloseEngine { ms } => Answer::Texts(side.engine.close(Duration::from_millis(*ms))?.held),
            Ask::Descriptor => Answer::Text(side.engine.descriptor().to_string()),
            _ => Answer::Number(side.engine.peers().len() as u64),
        })
    }

    fn memory(&self, ask: &Ask) -> Result<Answer> {
        let side = self.side()?;
        match ask {
            Ask::Len => return Ok(Answer::Number(side.region.len())),
            Ask::Fill { at, len, byte } => side.region.fill(*at, *len, *byte),
            Ask::CloseRegion { ms } => side.region.close(Duration::from_millis(*ms)),
            Ask::Suspend { ms } => side.region.suspend(Duration::from_millis(*ms)),
            // SAFETY: the test never unmapped it.
            Ask::Resume => unsafe { side.region.resume() },
            Ask::Register { bytes } => side.engine.register(vec![0u8; *bytes as usize]).map(drop),
            _ => Ok(()),
        }?;
        Ok(Answer::Done)
    }

    fn promise(&self, ask: Ask) -> Result<Answer> {
        let side = self.side()?;
        match ask {
            Ask::Publish { id, name, layout } => {
                let cache = layout.publish(&name, &side.engine, &side.region)?;
                self.things().caches.insert(id, cache);
            }
            Ask::PublishRaw { id, name } => {
                let cache = side.engine.raw_cache(name, &side.region)?;
                self.things().caches.insert(id, cache);
            }
            Ask::Exchange { cache, exchange } => {
                let cache = self.things().caches[&cache].clone();
                exchange.run(&side.engine, &cache);
            }
            Ask::Grant { id, cache, ids, write, ttl, grace, event } => {
                let cache = self.things().caches[&cache].clone();
                let mut options = LeaseOptions::default();
                if let Some(ttl) = ttl {
                    options = options.ttl(Duration::from_millis(ttl));
                }
                if let Some(grace) = grace {
                    options = options.first_contact_grace(Duration::from_millis(grace));
                }
                if let Some(event) = event {
                    options = options.start(Start::AfterEvent(self.event(event)));
                }
                let ids: Vec<Vec<BlockId>> =
                    ids.into_iter().map(|ids| ids.into_iter().map(BlockId).collect()).collect();
                let lists: Vec<&[BlockId]> = ids.iter().map(Vec::as_slice).collect();
                let lease = cache.lease(&lists, if write { Rights::Write } else { Rights::Read }, options)?;
                let token = lease.token().to_string();
                self.things().leases.insert(id, Arc::new(lease));
                return Ok(Answer::Text(token));
            }
            other => unreachable!("{other:?}"),
        }
        Ok(Answer::Done)
    }

    /// Leases and events.
    fn thing(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::Revoke { lease } => self.lease(*lease).revoke(),
            Ask::WaitFree { lease, ms } => {
                let freed = self.lease(*lease).wait_free(Duration::from_millis(*ms));
                return Answer::Freed(freed.map(|freed| format!("{:?}", freed.outcome)));
            }
            Ask::Arrived { lease, sequence } => return Answer::Truth(self.lease(*lease).arrived(*sequence)),
            Ask::Failed { lease, sequence } => return Answer::Truth(self.lease(*lease).failed(*sequence)),
            Ask::Arrivals { lease } => return Answer::Number(self.lease(*lease).arrivals() as u64),
            Ask::WaitArrivals { lease, count, ms } => {
                let lease = self.lease(*lease);
                return Answer::Truth(lease.wait_arrivals(*count as _, Duration::from_millis(*ms)));
            }
            Ask::NewEvent { id } => drop(self.things().events.insert(*id, Event::new())),
            Ask::Fire { event } => self.event(*event).fire(),
            Ask::Fail { event, native } => {
                let error = Error::new(ErrorKind::Resource, "event", "failed by the test");
                self.event(*event).fail(error.with_native(*native));
            }
            Ask::Drop { id } => {
                let dropped = {
                    let mut things = self.things();
                    (things.leases.remove(id), things.caches.remove(id), things.events.remove(id))
                };
                drop(dropped);
            }
            other => unreachable!("{other:?}"),
        }
        Answer::Done
    }
}

fn kind_of(name: &str) -> TransportKind {
    use TransportKind::{Cma, Hccl, Hixl, Ipc, Loopback, Shm, Tcp};
    let known = [Loopback, Shm, Cma, Tcp, Hixl, Ipc, Hccl];
    known.into_iter().find(|kind| kind.name() == name).expect("a transport")
}

fn limits_of(words: &[(String, u64)]) -> Limits {
    let mut limits = Limits::default();
    for (name, value) in words {
        let small = *value as u32;
        limits = match name.as_str() {
            "transfers" => limits.with_transfers(small),
            "transfers_per_peer" => limits.with_transfers_per_peer(small),
            "regions" => limits.with_regions(small),
            "caches" => limits.with_caches(small),
            "leases" => limits.with_leases(small),
            "grants_per_peer" => limits.with_grants_per_peer(small),
            "peers" => limits.with_peers(small),
            "blocks_per_lease" => limits.with_blocks_per_lease(small),
            "completions" => limits.with_completions(small),
            other => panic!("{other} is no limit that facts set"),
        };
    }
    limits
}
