//! Engines.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ropeway::{Descriptor, Error, ErrorKind, Host};

use crate::buffer::{self, Span};
use crate::cache::{Cache, CacheBuilder};
use crate::completion::Completions;
use crate::event::Event;
use crate::exit;
use crate::fault::{Result, misuse};
use crate::keep_alive::KeepAlive;
use crate::limits;
use crate::log;
use crate::npu::Npu;
use crate::opening::{Opening, open};
use crate::peer::Peer;
use crate::pending::Pending;
use crate::process::Process;
use crate::quarantined::Quarantined;
use crate::region::Region;
use crate::seconds::duration;
use crate::wait::aside;

/// An engine: one per worker process is usual, several are fine. Without arguments it is reached from this process only, and
/// can itself connect anywhere.
///
/// listen, advertise: "host:port" of the control port (0: a free one), and what peers are told instead.
/// data_port: the port of data connections; a free one unless said.
/// cluster_key, cluster_key_file: a key that all engines of a cluster share, in the place of the descriptor's secret.
/// insecure: lets in whoever reaches the port.
/// transports: those to offer and use ("shm", "cma", "tcp", "loopback", "hixl", "ipc", "hccl"); all that there are unless said.
/// npu: an Npu, for memory in HBM and links between devices.
/// limits: changes to the limits, by name; times in seconds.
///
/// It is closed by `close()`, at the end of a `with` block, with the last reference, or when the interpreter ends.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Engine {
    inner: Arc<ropeway::Engine>,
    process: Process,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        *, listen = None, advertise = None, data_port = 0, cluster_key = None, cluster_key_file = None,
        insecure = false, transports = None, npu = None, limits = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, which Python names")]
    fn new(
        py: Python<'_>,
        listen: Option<String>,
        advertise: Option<String>,
        data_port: u16,
        cluster_key: Option<Vec<u8>>,
        cluster_key_file: Option<PathBuf>,
        insecure: bool,
        transports: Option<Vec<String>>,
        npu: Option<PyRef<'_, Npu>>,
        limits: Option<Bound<'_, PyDict>>,
    ) -> Result<Self> {
        let limits = limits::parse(limits.as_ref())?;
        let npu = npu.map(|npu| npu.0.clone());
        let opening = Opening {
            listen,
            advertise,
            data_port,
            cluster_key,
            cluster_key_file,
            insecure,
            transports,
            npu,
            limits,
        };
        // What opening has to say waits for the thread that is started below.
        log::keep_log();
        let inner = Arc::new(py.detach(|| open(opening))?);
        exit::remember(py, &inner)?;
        // After it, so that at the end of the interpreter it ends before the engines are closed: their last words are noise.
        py.import("ropeway._log")?.call_method0("start")?;
        Ok(Self { inner, process: Process::here() })
    }

    /// The random number of this engine's life.
    #[getter]
    fn incarnation(&self) -> String {
        self.inner.incarnation().to_string()
    }

    /// The limits that it was opened with, times in seconds.
    #[getter]
    fn limits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        limits::as_dict(py, self.inner.limits())
    }

    /// Where it is reached, best first, as "host:port".
    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.inner.descriptor().addresses.iter().map(ToString::to_string).collect()
    }

    /// What a peer needs to connect, as a string. It holds the secret: carry it over a channel that you trust.
    fn descriptor(&self) -> String {
        self.inner.descriptor().to_string()
    }

    /// Allocates a region: "shared" (peers of this host map it: the quickest there), "private", or, with an NPU, "npu" (in its
    /// memory) or "pinned" (of the host).
    #[pyo3(signature = (nbytes, kind = "shared"))]
    fn alloc(&self, py: Python<'_>, nbytes: u64, kind: &str) -> Result<Region> {
        let engine = &self.inner;
        let region = py.detach(|| match kind {
            "shared" => engine.alloc(Host::shared(nbytes)),
            "private" => engine.alloc(Host::private(nbytes)),
            "npu" => engine.alloc_npu(nbytes),
            "pinned" => engine.alloc_pinned(nbytes),
            other => {
                let text =
                    format!("kind {other:?}; there are \"shared\", \"private\", \"npu\" and \"pinned\"");
                Err(Error::new(ErrorKind::ApiMisuse, "alloc", text))
            }
        })?;
        Ok(if kind == "npu" { Region::npu(region, None) } else { Region::host(region) })
    }

    /// Makes a memfd a region, whole: another allocator's memory, without a copy. It is sealed against being cut; the
    /// descriptor stays the caller's.
    fn adopt_memfd(&self, py: Python<'_>, fd: i32) -> Result<Region> {
        if fd < 0 {
            return Err(misuse("alloc", format!("{fd} is no descriptor")));
        }
        // SAFETY: a borrowed number, cloned at once by the kernel, which refuses one that is not open.
        let descriptor = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
        let descriptor = descriptor.map_err(|error| Error::os("alloc", format!("descriptor {fd}"), error))?;
        Ok(Region::host(py.detach(|| self.inner.alloc(Host::memfd(descriptor)))?))
    }

    /// Registers the memory of a writable, contiguous buffer (bytearray, numpy array, mmap). The object is kept, and cannot be
    /// resized, until nothing uses the region any more. Peers may read and write the bytes under a lease.
    fn register(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> Result<Region> {
        self.adopt(py, buffer::exported(buffer)?)
    }

    /// Registers the whole storage of a torch tensor, on the host or the NPU; see `Region.offset_of` for where the tensor
    /// begins in it. The storage is kept until nothing uses the region any more: do not `resize_` it meanwhile.
    fn register_tensor(&self, py: Python<'_>, tensor: &Bound<'_, PyAny>) -> Result<Region> {
        self.adopt(py, buffer::tensor(tensor)?)
    }

    /// Registers memory by address, on "cpu" or "npu". `keep_alive` is kept until nothing uses the region any more. Nothing
    /// checks the range: until `keep_alive` is dropped, `nbytes` bytes from `address` on must stay mapped, readable and
    /// writable, with the same backing.
    #[pyo3(signature = (address, nbytes, keep_alive, device = "cpu"))]
    fn register_address(
        &self,
        py: Python<'_>,
        address: u64,
        nbytes: u64,
        keep_alive: Bound<'_, PyAny>,
        device: &str,
    ) -> Result<Region> {
        let device = match device {
            "cpu" => false,
            "npu" => true,
            other => {
                return Err(misuse("register", format!("device {other:?}; there are \"cpu\" and \"npu\"")));
            }
        };
        self.adopt(py, Span { address, bytes: nbytes, owner: keep_alive, device })
    }

    /// Starts describing a cache.
    fn cache(&self, name: String) -> CacheBuilder {
        CacheBuilder::new(self.inner.cache(name))
    }

    /// Publishes a whole region as one block of raw bytes, for `Route.read_raw`.
    fn raw_cache(&self, py: Python<'_>, name: String, region: &Region) -> Result<Cache> {
        Ok(Cache(py.detach(|| self.inner.raw_cache(name, &region.inner))?))
    }

    /// Shows peers a note: up to 256 KiB under a name, replaced by the next of that name.
    fn show_note(&self, py: Python<'_>, name: String, note: Vec<u8>) -> Result<()> {
        Ok(py.detach(|| self.inner.show_note(name, note))?)
    }

    /// Connects to the engine that a descriptor names, within `timeout` seconds.
    #[pyo3(signature = (descriptor, timeout = 30.0))]
    fn connect(&self, py: Python<'_>, descriptor: &str, timeout: f64) -> Result<Pending> {
        let descriptor: Descriptor = descriptor
            .parse()
            .map_err(|error| misuse("connect", format!("this is no engine's descriptor: {error}")))?;
        let timeout = duration("timeout", timeout)?;
        let pending = py.detach(|| self.inner.connect(&descriptor, timeout))?;
        Ok(Pending::new(pending, Peer))
    }

    /// Connected peers, also those that connected to us.
    fn peers(&self) -> Vec<Peer> {
        self.inner.peers().into_iter().map(Peer).collect()
    }

    /// Memory of ours that something that has ended may still touch. Empty is what it should be.
    fn quarantined(&self) -> Vec<Quarantined> {
        self.inner.quarantined().into_iter().map(Quarantined::from).collect()
    }

    /// The queue of ends.
    #[getter]
    fn completions(&self) -> Completions {
        Completions::new(Arc::clone(&self.inner), self.process)
    }

    /// An event that fires when `event`, an `aclrtEvent` recorded on a compute stream of the engine's NPU, has passed; given
    /// as a number, which must stay one until `keep_alive` is dropped.
    fn npu_event(&self, py: Python<'_>, event: u64, keep_alive: Bound<'_, PyAny>) -> Result<Event> {
        let keep_alive = Box::new(KeepAlive::new(keep_alive));
        let watch = || {
            let raw = event as usize as *mut c_void;
            // SAFETY: the caller gives a recorded event of the device and what keeps it, as the documentation asks.
            unsafe { self.inner.npu_event(raw, keep_alive) }
        };
        Ok(Event(py.detach(watch)?))
    }

    /// Closes the engine: leases are revoked, transfers end, peers are told. Waits up to `timeout` seconds until nothing of it
    /// can be touched by anyone, and returns what is left otherwise, one line each.
    #[pyo3(signature = (timeout = 10.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> Result<Vec<String>> {
        let (engine, timeout) = (Arc::clone(&self.inner), duration("timeout", timeout)?);
        Ok(aside(py, move || engine.close(timeout))?.held)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> Result<()> {
        self.close(py, 10.0).map(drop)
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Engine {}>", self.inner.incarnation())
    }
}

impl Engine {
    pub(crate) fn of(inner: Arc<ropeway::Engine>) -> Self {
        Self { inner, process: Process::here() }
    }

    pub(crate) fn inner(&self) -> &ropeway::Engine {
        &self.inner
    }

    fn adopt(&self, py: Python<'_>, span: Span<'_>) -> Result<Region> {
        let Span { address, bytes, owner, device } = span;
        let keep_alive = Box::new(KeepAlive::new(owner));
        if device {
            let register = || {
                // SAFETY: the caller vouches for the range until the keep-alive is dropped, as the documentation asks.
                unsafe { self.inner.register_npu(address, bytes, keep_alive) }
            };
            return Ok(Region::npu(py.detach(register)?, Some(address)));
        }
        let register = || {
            let base = NonNull::new(address as usize as *mut u8).ok_or_else(|| {
                Error::new(ErrorKind::ApiMisuse, "register", "address 0; an empty tensor has no memory")
            })?;
            // SAFETY: a buffer's export, or the caller, keeps the range mapped until the keep-alive is dropped. Nobody has a
            // Rust reference into memory of Python.
            unsafe { self.inner.register_raw(base, bytes, keep_alive) }
        };
        Ok(Region::host(py.detach(register)?))
    }
}
