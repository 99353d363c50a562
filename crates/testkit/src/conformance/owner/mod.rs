//! The owner's side of a pair: in this process, or in another one that is told what to do over a socket.
//!
//! Facts use one set of names for both. What they look at on the importer's side is always in this process.

mod ask;
mod far;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use ropeway::{
    BlockId, Cache, Descriptor, Engine, Error, Event, GrantId, Lease, LeaseOptions, Op, Outcome, Region,
    Result, Rights, Start, Strided, Token,
};

use super::ground::Side;
use crate::oracle::Bytes;
use ask::{Answer, Ask};
use far::{Far, Object};

pub use serve::be_owner_if_asked;

/// What a cache is made of: groups with their ratio, parts with their place in the one region.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Layout {
    groups: Vec<(String, u32, Vec<LayoutPart>)>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct LayoutPart {
    name: String,
    offset: u64,
    stride: u64,
    block_bytes: u64,
    blocks: u32,
}

impl Layout {
    /// One group, one part.
    pub fn of(strided: Strided) -> Self {
        Self::default().group("g0", 1).part("p", strided)
    }

    /// Adds a group.
    pub fn group(mut self, name: &str, ratio: u32) -> Self {
        self.groups.push((name.to_owned(), ratio, Vec::new()));
        self
    }

    /// Adds a part to the last group.
    pub fn part(mut self, name: impl Into<String>, strided: Strided) -> Self {
        let Strided { offset, stride, block_bytes, blocks } = strided;
        let (_, _, parts) = self.groups.last_mut().expect("a group comes first");
        parts.push(LayoutPart { name: name.into(), offset, stride, block_bytes, blocks });
        self
    }

    /// Publishes it.
    ///
    /// # Errors
    /// What the engine said.
    pub fn publish(&self, name: &str, engine: &Engine, region: &Region) -> Result<Cache> {
        let mut builder = engine.cache(name);
        for (group, ratio, parts) in &self.groups {
            builder = builder.group(group, *ratio);
            for LayoutPart { name, offset, stride, block_bytes, blocks } in parts {
                let (offset, stride, block_bytes, blocks) = (*offset, *stride, *block_bytes, *blocks);
                builder = builder.part(name, region, Strided { offset, stride, block_bytes, blocks });
            }
        }
        builder.publish()
    }
}

/// A thing of the owner's: here, or the number under which the other process has it.
enum At<T> {
    Here(T),
    There(Object),
}

impl<T> At<T> {
    fn ask<R>(&self, here: impl FnOnce(&T) -> R, there: impl FnOnce(&Object) -> R) -> R {
        match self {
            Self::Here(thing) => here(thing),
            Self::There(object) => there(object),
        }
    }
}

/// The side that gives out leases on its blocks.
pub struct Owner {
    /// Its engine.
    pub engine: OwnerEngine,
    /// Its region.
    pub region: OwnerRegion,
    side: At<Side>,
}

/// The owner's engine.
pub struct OwnerEngine(At<Engine>);

/// The owner's region.
pub struct OwnerRegion(At<Region>);

/// A cache of the owner's.
pub struct OwnerCache(At<Cache>);

/// A lease as its owner holds it.
pub struct OwnerLease {
    lease: At<Lease>,
    token: Token,
}

/// An event of the owner's.
pub struct OwnerEvent(At<Event>);

/// What a lease may ask for beyond blocks and rights.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    ttl: Option<Duration>,
    grace: Option<Duration>,
    event: Option<&'a OwnerEvent>,
}

impl<'a> Terms<'a> {
    /// How long it lives without a renewal.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How long it waits for its first holder.
    pub fn first_contact_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// When its blocks are complete.
    pub fn after(mut self, event: &'a OwnerEvent) -> Self {
        self.event = Some(event);
        self
    }
}

impl Owner {
    pub(super) fn here(side: Side) -> Self {
        let (engine, region) = (side.engine.clone(), side.region.clone());
        Self {
            engine: OwnerEngine(At::Here(engine)),
            region: OwnerRegion(At::Here(region)),
            side: At::Here(side),
        }
    }

    pub(super) fn there(ground: &super::Ground, bytes: u64, limits: &ropeway::Limits) -> Self {
        let far = Arc::new(Far::start(ground, bytes, limits));
        let object = || At::There(Object::root(&far));
        Self {
            engine: OwnerEngine(At::There(Object::root(&far))),
            region: OwnerRegion(At::There(Object::root(&far))),
            side: object(),
        }
    }

    /// Publishes a cache.
    ///
    /// # Errors
    /// What the engine said.
    pub fn publish(&self, name: &str, layout: &Layout) -> Result<OwnerCache> {
        match &self.side {
            At::Here(side) => Ok(OwnerCache(At::Here(layout.publish(name, &side.engine, &side.region)?))),
            At::There(far) => {
                let object = far.fresh();
                far.done(Ask::Publish { id: object.id(), name: name.to_owned(), layout: layout.clone() })?;
                Ok(OwnerCache(At::There(object)))
            }
        }
    }

    /// Publishes the whole region as one block.
    ///
    /// # Errors
    /// What the engine said.
    pub fn publish_raw(&self, name: &str) -> Result<OwnerCache> {
        match &self.side {
            At::Here(side) => Ok(OwnerCache(At::Here(side.engine.raw_cache(name, &side.region)?))),
            At::There(far) => {
                let object = far.fresh();
                far.done(Ask::PublishRaw { id: object.id(), name: name.to_owned() })?;
                Ok(OwnerCache(At::There(object)))
            }
        }
    }

    /// Publishes `kv`: one group, one dense part over the whole region.
    pub fn dense(&self, block: u64) -> OwnerCache {
        let layout = Layout::of(Strided::dense(0, block, (self.region.len() / block) as u32));
        self.publish("kv", &layout).expect("published")
    }

    /// An event of its process.
    pub fn event(&self) -> OwnerEvent {
        match &self.side {
            At::Here(_) => OwnerEvent(At::Here(Event::new())),
            At::There(far) => {
                let object = far.fresh();
                far.done(Ask::NewEvent { id: object.id() }).expect("an event");
                OwnerEvent(At::There(object))
            }
        }
    }

    /// Connects to another engine and moves blocks under its lease, `rounds` times.
    pub fn exchange(&self, cache: &OwnerCache, exchange: &Exchange) {
        match (&self.side, &cache.0) {
            (At::Here(side), At::Here(cache)) => exchange.run(&side.engine, cache),
            (At::There(far), At::There(cache)) => {
                let ask = Ask::Exchange { cache: cache.id(), exchange: exchange.clone() };
                far.done(ask).expect("exchanged");
            }
            _ => unreachable!("a cache lives where its owner does"),
        }
    }

    /// Drops every handle. What comes back tells whether the region's memory was let go of.
    pub fn drop_all(self) -> Box<dyn Fn() -> bool> {
        let Self { engine, region, side } = self;
        drop((engine, region));
        match side {
            At::Here(side) => Box::new(side.drop_all()),
            At::There(far) => {
                far.done(Ask::DropAll).expect("dropped");
                Box::new(move || far.truth(Ask::IsMemoryGone))
            }
        }
    }

    /// From here on a touch of the region's pages is a crash (where the test owns them).
    pub fn forbid(&self) {
        self.side.ask(Side::forbid, |far| far.done(Ask::Forbid).expect("forbidden"));
    }

    /// Lets the test look at the pages again.
    pub fn allow(&self) {
        self.side.ask(Side::allow, |far| far.done(Ask::Allow).expect("allowed"));
    }
}

impl OwnerEngine {
    /// What a peer needs to connect.
    pub fn descriptor(&self) -> Descriptor {
        self.0.ask(Engine::descriptor, |far| far.text(Ask::Descriptor).parse().expect("a descriptor"))
    }

    /// Registers memory that is dropped at once.
    ///
    /// # Errors
    /// What the engine said.
    pub fn register(&self, bytes: u64) -> Result<()> {
        self.0.ask(
            |engine| engine.register(vec![0u8; bytes as usize]).map(drop),
            |far| far.done(Ask::Register { bytes }),
        )
    }

    /// How many peers it has.
    pub fn peers(&self) -> usize {
        self.0.ask(|engine| engine.peers().len(), |far| far.number(Ask::Peers) as usize)
    }

    /// Closes it; what is still held.
    pub fn close(&self, timeout: Duration) -> Vec<String> {
        self.0.ask(
            |engine| engine.close(timeout).expect("close").held,
            |far| far.texts(Ask::CloseEngine { ms: timeout.as_millis() as u64 }),
        )
    }
}

impl Bytes for OwnerRegion {
    fn size(&self) -> u64 {
        self.0.ask(Region::len, |far| far.number(Ask::Len))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        match &self.0 {
            At::Here(region) => region.read(at, into),
            At::There(far) => far.read(at, into),
        }
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        match &self.0 {
            At::Here(region) => region.write(at, from),
            At::There(far) => far.write(at, from),
        }
    }
}

impl OwnerRegion {
    /// Bytes.
    pub fn len(&self) -> u64 {
        Bytes::size(self)
    }

    /// Sets bytes.
    ///
    /// # Errors
    /// What the region said.
    pub fn fill(&self, at: u64, len: u64, byte: u8) -> Result<()> {
        self.0.ask(|region| region.fill(at, len, byte), |far| far.done(Ask::Fill { at, len, byte }))
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// What the region said.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        Bytes::read(self, at, into)
    }

    /// Closes it.
    ///
    /// # Errors
    /// What the region said.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        let ms = timeout.as_millis() as u64;
        self.0.ask(|region| region.close(timeout), |far| far.done(Ask::CloseRegion { ms }))
    }

    /// Suspends it.
    ///
    /// # Errors
    /// What the region said.
    pub fn suspend(&self, timeout: Duration) -> Result<()> {
        let ms = timeout.as_millis() as u64;
        self.0.ask(|region| region.suspend(timeout), |far| far.done(Ask::Suspend { ms }))
    }

    /// Resumes it.
    ///
    /// # Errors
    /// What the region said.
    ///
    /// # Safety
    /// As `Region::resume` asks.
    pub unsafe fn resume(&self) -> Result<()> {
        match &self.0 {
            // SAFETY: the caller's promise.
            At::Here(region) => unsafe { region.resume() },
            At::There(far) => far.done(Ask::Resume),
        }
    }
}

impl OwnerCache {
    /// Leases blocks, one list per group.
    ///
    /// # Errors
    /// What the cache said.
    pub fn lease(&self, ids: &[&[BlockId]], rights: Rights, terms: Terms<'_>) -> Result<OwnerLease> {
        match &self.0 {
            At::Here(cache) => {
                let mut options = LeaseOptions::default();
                if let Some(ttl) = terms.ttl {
                    options = options.ttl(ttl);
                }
                if let Some(grace) = terms.grace {
                    options = options.first_contact_grace(grace);
                }
                if let Some(OwnerEvent(At::Here(event))) = terms.event {
                    options = options.start(Start::AfterEvent(event.clone()));
                }
                let lease = cache.lease(ids, rights, options)?;
                Ok(OwnerLease { token: lease.token(), lease: At::Here(lease) })
            }
            At::There(cache) => {
                let lease = cache.fresh();
                let event = terms.event.and_then(|event| match &event.0 {
                    At::There(event) => Some(event.id()),
                    At::Here(_) => None,
                });
                let millis = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
                let answer = cache.ask(Ask::Grant {
                    id: lease.id(),
                    cache: cache.id(),
                    ids: ids.iter().map(|ids| ids.iter().map(|id| id.0).collect()).collect(),
                    write: rights == Rights::Write,
                    ttl: millis(terms.ttl),
                    grace: millis(terms.grace),
                    event,
                })?;
                let Answer::Text(token) = answer else { panic!("no token: {answer:?}") };
                let token = token.parse().expect("a token");
                Ok(OwnerLease { lease: At::There(lease), token })
            }
        }
    }
}

/// How a lease became free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerFreed {
    /// Why it ended.
    pub outcome: Outcome,
}

impl OwnerLease {
    /// Its id.
    pub fn id(&self) -> GrantId {
        self.token.grant
    }

    /// The string that lets a peer claim it.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Ends the promise.
    pub fn revoke(&self) {
        self.lease.ask(Lease::revoke, |far| far.done(Ask::Revoke { lease: far.id() }).expect("revoked"));
    }

    /// Whether the blocks may be reused.
    pub fn is_free(&self) -> bool {
        self.wait_free(Duration::ZERO).is_some()
    }

    /// Waits until the blocks may be reused.
    pub fn wait_free(&self, timeout: Duration) -> Option<OwnerFreed> {
        let outcome = self.lease.ask(
            |lease| lease.wait_free(timeout).map(|freed| freed.outcome),
            |far| far.freed(Ask::WaitFree { lease: far.id(), ms: timeout.as_millis() as u64 }),
        );
        outcome.map(|outcome| OwnerFreed { outcome })
    }

    /// Whether a sequence arrived.
    pub fn arrived(&self, sequence: u32) -> bool {
        self.lease
            .ask(|lease| lease.arrived(sequence), |far| far.truth(Ask::Arrived { lease: far.id(), sequence }))
    }

    /// Whether a sequence failed.
    pub fn failed(&self, sequence: u32) -> bool {
        self.lease
            .ask(|lease| lease.failed(sequence), |far| far.truth(Ask::Failed { lease: far.id(), sequence }))
    }

    /// How many sequences arrived.
    pub fn arrivals(&self) -> usize {
        let there = |far: &Object| far.number(Ask::Arrivals { lease: far.id() }) as usize;
        self.lease.ask(|lease| lease.arrivals() as usize, there)
    }

    /// Waits until so many sequences arrived.
    pub fn wait_arrivals(&self, count: u32, timeout: Duration) -> bool {
        let ms = timeout.as_millis() as u64;
        self.lease.ask(
            |lease| lease.wait_arrivals(count as _, timeout),
            |far| far.truth(Ask::WaitArrivals { lease: far.id(), count, ms }),
        )
    }
}

impl OwnerEvent {
    /// Fires it.
    pub fn fire(&self) {
        self.0.ask(Event::fire, |far| far.done(Ask::Fire { event: far.id() }).expect("fired"));
    }

    /// Makes it fail.
    pub fn fail(&self, error: Error) {
        let native = error.native().unwrap_or(0);
        self.0.ask(
            |event| event.fail(error),
            |far| far.done(Ask::Fail { event: far.id(), native }).expect("failed"),
        );
    }
}

/// What one engine does as the importer of another: claims, routes, moves.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Exchange {
    /// The other engine.
    pub descriptor: String,
    /// Its lease.
    pub token: String,
    /// Whether blocks are written.
    pub write: bool,
    /// Our blocks.
    pub local: Vec<u32>,
    /// Its blocks.
    pub remote: Vec<u32>,
    /// How often.
    pub rounds: u32,
}

impl Exchange {
    /// Does it.
    pub fn run(&self, engine: &Engine, cache: &Cache) {
        use crate::watchdog::WAIT;
        let blocks = |ids: &[u32]| -> Vec<BlockId> { ids.iter().copied().map(BlockId).collect() };
        let (local, remote) = (blocks(&self.local), blocks(&self.remote));
        let op = if self.write { Op::Write } else { Op::Read };
        let descriptor = self.descriptor.parse().expect("a descriptor");
        let peer = engine.connect(&descriptor, WAIT).expect("connect").wait().expect("connected");
        let route = peer.route(cache, "kv", WAIT).expect("route").wait().expect("routed");
        let token = self.token.parse().expect("a token");
        let grant = peer.claim(&token, WAIT).expect("claim").wait().expect("claimed");
        for _ in 0..self.rounds {
            let plan = route.plan(op, &grant, None, &[&local], &[&remote]).expect("planned");
            let ended = plan.submit(ropeway::Submit::default()).expect("submitted").wait(WAIT);
            ended.expect("ends").expect("moved");
        }
    }
}
