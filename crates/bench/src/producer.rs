//! The producer: owns the pool whose blocks are leased, and does what the consumer asks over the control channel.

use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ropeway::{Engine, Lease};

use crate::Failure;
use crate::cli::Op;
use crate::control::{self, Answer, Ask, Memory};
use crate::engine::{self, Published};
use crate::pool::Pool;
use crate::reference::{self, Desc};
use crate::replay::prefill::Prefill;
use crate::usage;
use crate::work::{self, Work};

/// Everything that one consumer has asked for so far.
pub(crate) struct Producer {
    engine: Engine,
    /// Where the reference listens.
    address: IpAddr,
    pool_max: u64,
    /// A stranger may not make us open further ports or map other processes' memory.
    local: bool,
    open: Option<Open>,
}

struct Open {
    work: Work,
    memory: Memory,
    op: Op,
    pool: Arc<Pool>,
    published: Option<Published>,
    leases: Vec<Lease>,
    leases_given: u64,
    replay: Option<Prefill>,
}

impl Producer {
    /// For a consumer on this host that started us.
    pub(crate) fn new(engine: Engine) -> Self {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { engine, address, pool_max: u64::MAX, local: true, open: None }
    }

    /// For a consumer anywhere: it may ask for at most `pool_max` bytes.
    pub(crate) fn remote(engine: Engine, address: IpAddr, pool_max: u64) -> Self {
        Self { engine, address, pool_max, local: false, open: None }
    }

    /// Answers until the other side closes.
    pub(crate) fn converse(&mut self, mut from: impl BufRead, mut to: impl Write) -> io::Result<()> {
        while let Some(ask) = control::receive(&mut from)? {
            let answer = self.answer(ask);
            control::send(&mut to, &answer)?;
        }
        Ok(())
    }

    pub(crate) fn answer(&mut self, ask: Ask) -> Answer {
        self.try_answer(ask).unwrap_or_else(|error| Answer::Failed { reason: error.to_string() })
    }

    /// The pool, for a consumer in this process.
    pub(crate) fn pool(&self) -> Option<Arc<Pool>> {
        self.open.as_ref().map(|open| Arc::clone(&open.pool))
    }

    fn try_answer(&mut self, ask: Ask) -> Result<Answer, Failure> {
        match ask {
            Ask::Hello => Ok(Answer::Hello {
                descriptor: self.engine.descriptor().to_string(),
                pid: std::process::id() as i32,
            }),
            Ask::Pool { spec, memory, op } => {
                self.close()?;
                let bytes = spec.pool_bytes()?;
                if bytes > self.pool_max {
                    return Err(format!("a pool of {bytes} bytes passes --pool-max {}", self.pool_max).into());
                }
                let open = Open::new(Work::new(&spec)?, memory, op)?;
                let answer = Answer::Pool {
                    base: open.pool.base() as u64,
                    file: open.pool.file().map(AsRawFd::as_raw_fd),
                    bytes,
                };
                self.open = Some(open);
                Ok(answer)
            }
            Ask::Cpu => Ok(Answer::Cpu { seconds: usage::cpu_seconds(None)? }),
            Ask::Close => self.close(),
            Ask::Stream { streams } if self.local || streams <= 64 => {
                let (pool, list) = self.open()?.list();
                self.listen(move |listener| serve(&listener, streams, &pool, &list))
            }
            Ask::Pong => self.listen(|listener| {
                let (socket, _) = listener.accept()?;
                reference::tune(&socket);
                reference::pong(&socket)
            }),
            ask => {
                let engine = self.engine.clone();
                self.open()?.answer(&engine, ask)
            }
        }
    }

    fn open(&mut self) -> Result<&mut Open, Failure> {
        self.open.as_mut().ok_or_else(|| "there is no pool yet".into())
    }

    fn close(&mut self) -> Result<Answer, Failure> {
        let Some(open) = self.open.take() else { return Ok(Answer::Ok) };
        let (peak_blocks, evicted) = open.replay.as_ref().map_or((0, 0), Prefill::peak_and_evicted);
        for lease in &open.leases {
            engine::settle(lease)?;
        }
        if let Some(replay) = open.replay {
            replay.settle()?;
        }
        if let Some(published) = open.published {
            published.close()?;
        }
        Ok(Answer::Closed { peak_blocks, evicted, leases: open.leases_given })
    }

    fn listen(
        &self,
        serve: impl FnOnce(TcpListener) -> io::Result<()> + Send + 'static,
    ) -> Result<Answer, Failure> {
        let listener = TcpListener::bind((self.address, 0))?;
        let port = listener.local_addr()?.port();
        std::thread::Builder::new().name("reference".to_owned()).spawn(move || serve(listener))?;
        Ok(Answer::Listening { port })
    }
}

impl Open {
    fn new(work: Work, memory: Memory, op: Op) -> io::Result<Self> {
        let pool = Arc::new(Pool::of(memory, work.pool_bytes)?);
        Ok(Self {
            work,
            memory,
            op,
            pool,
            published: None,
            leases: Vec::new(),
            leases_given: 0,
            replay: None,
        })
    }

    fn list(&self) -> (Arc<Pool>, Vec<Desc>) {
        (Arc::clone(&self.pool), self.work.merged())
    }

    fn published(&self) -> Result<&Published, Failure> {
        self.published.as_ref().ok_or_else(|| "the pool is not published".into())
    }

    fn answer(&mut self, engine: &Engine, ask: Ask) -> Result<Answer, Failure> {
        match ask {
            Ask::Publish => {
                self.published = Some(Published::new(engine, &self.pool, self.memory, &self.work.groups)?);
            }
            Ask::Fill { seed } => self.published()?.fill(&self.pool, seed)?,
            Ask::Poison => self.published()?.poison(&self.pool)?,
            Ask::Verify { seed } => {
                let list = self.work.list();
                self.published()?.verify(&self.pool, seed, &list, work::destination(self.op))?;
            }
            Ask::Lease { request } => {
                let published = self.published()?;
                let request = self.work.requests.get(request).ok_or("there is no such request")?;
                let lease = published.lease_request(request, self.op)?;
                let token = lease.token().to_string();
                self.leases.push(lease);
                self.leases_given += 1;
                return Ok(Answer::Lease { token });
            }
            Ask::Settle => {
                for lease in self.leases.drain(..) {
                    engine::settle(&lease)?;
                }
            }
            Ask::Replay { verify } => {
                self.replay = Some(Prefill::new(&self.work, Arc::clone(&self.pool), verify)?);
            }
            Ask::Prefill { id, wants, missing } => {
                let replay = self.replay.as_mut().ok_or("no replay was asked for")?;
                let published = self.published.as_ref().ok_or("the pool is not published")?;
                let answer = replay.prefill(published, id, &wants, &missing)?;
                self.leases_given += u64::from(matches!(answer, Answer::Prefilled { token: Some(_), .. }));
                return Ok(answer);
            }
            Ask::Done { id } => {
                self.replay.as_mut().ok_or("no replay was asked for")?.done(id)?;
            }
            ask => return Err(format!("{ask:?} is not for a pool").into()),
        }
        Ok(Answer::Ok)
    }
}

/// One thread per stream, each with its share of the list, until the consumer closes its sockets.
fn serve(listener: &TcpListener, streams: u32, pool: &Pool, list: &[Desc]) -> io::Result<()> {
    std::thread::scope(|scope| {
        for share in 0..streams {
            let (socket, _) = listener.accept()?;
            reference::tune(&socket);
            scope.spawn(move || reference::serve(&socket, share, streams, pool, list));
        }
        Ok(())
    })
}
