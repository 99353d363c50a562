//! Finds CANN at run time and fills the tables.
//!
//! AscendCL is opened at once; HCCL, HIXL's C interface and the shim when they are first asked for. A library that was
//! opened stays so for the life of the process: CANN keeps threads and exit handlers of its own.

mod error;
mod library;
mod search;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

pub use error::{LoadError, Looked, WhyNot};
use library::{Library, Scope, Set, folder};
pub use search::Search;

use crate::{acl, hccl, hixl_cs, shim};

/// AscendCL's libraries, the thin one first; the second is opened only for what the first lacks.
const ACL_LIBRARIES: &[&str] = &["libacl_rt.so", "libascendcl.so"];
/// Communicators are in the first, sends and receives in the second.
const HCCL_LIBRARIES: &[(&str, Scope)] = &[("libhcomm.so", Scope::Global), ("libhccl.so", Scope::Local)];
const HIXL_LIBRARY: &str = "libcann_hixl.so";
/// Where `ge::AscendString` is: today, and in older releases.
const STRING_LIBRARIES: &[&str] = &["libmetadef.so", "libgraph_base.so", "libgraph.so"];
/// Only the software CANN has it.
const SIMULATOR_MARK: &str = "ropeway_sim_configure";
/// Names a shim to load instead of the embedded one.
const SHIM_VARIABLE: &str = "ROPEWAY_HIXL_SHIM";

/// An installed CANN, real or simulated. There is one for each root, and it lives as long as the process.
#[derive(Debug)]
pub struct Cann {
    /// AscendCL.
    pub acl: acl::Api,
    root: PathBuf,
    simulated: bool,
    /// The folder of the libraries; none where the loader's own path found them.
    folder: Option<PathBuf>,
    opened: Mutex<Vec<(String, PathBuf)>>,
    hccl: OnceLock<Result<hccl::Api, WhyNot>>,
    hixl_cs: OnceLock<Result<hixl_cs::Api, WhyNot>>,
    shim: OnceLock<Result<shim::Api, WhyNot>>,
}

/// What was loaded, by root.
static LOADED: Mutex<Vec<&'static Cann>> = Mutex::new(Vec::new());

impl Cann {
    /// Opens AscendCL at the first place of `search` that has it.
    ///
    /// The first place with one of its libraries decides: when that one cannot be used the error says so, and no other
    /// is tried, lest two installations be mixed up.
    ///
    /// # Errors
    ///
    /// Nothing was found, and where was looked; or what was found cannot be opened, or lacks a required symbol.
    pub fn load(search: &Search) -> Result<&'static Self, LoadError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looked = Vec::new();
        for place in search.places() {
            let Some(root) = &place.root else {
                looked.push(Looked::unset(place.from));
                continue;
            };
            let Some(folder) = folder(root, ACL_LIBRARIES) else {
                looked.push(Looked::empty(place.from, root, ACL_LIBRARIES));
                continue;
            };
            let root = root.canonicalize().unwrap_or_else(|_| root.clone());
            if let Some(cann) = loaded.iter().find(|cann| cann.root == root) {
                return Ok(cann);
            }
            let cann = Self::open(root, Some(folder)).map_err(LoadError::Unusable)?;
            loaded.push(cann);
            return Ok(cann);
        }
        if search.asks_the_loader() {
            return Self::by_the_loader(&mut loaded, looked);
        }
        Err(LoadError::NotFound { looked })
    }

    /// The library that the dynamic loader finds by name: `LD_LIBRARY_PATH`, `ld.so.conf`, or already in the process.
    fn by_the_loader(
        loaded: &mut Vec<&'static Self>,
        mut looked: Vec<Looked>,
    ) -> Result<&'static Self, LoadError> {
        let found =
            ACL_LIBRARIES.iter().find_map(|name| match Library::open(Path::new(name), Scope::Local) {
                Ok(library) => Some(library),
                Err(said) => {
                    looked.push(Looked::loader(name, said));
                    None
                }
            });
        let Some(library) = found else { return Err(LoadError::NotFound { looked }) };
        let root = library.path().parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_path_buf();
        if let Some(cann) = loaded.iter().find(|cann| cann.root == root) {
            return Ok(cann);
        }
        let cann = Self::open(root, None).map_err(LoadError::Unusable)?;
        loaded.push(cann);
        Ok(cann)
    }

    fn open(root: PathBuf, folder: Option<PathBuf>) -> Result<&'static Self, WhyNot> {
        let mut set = Set::new(folder.clone());
        let mut filled = Err(WhyNot::NoLibrary { names: ACL_LIBRARIES, folder: folder.clone() });
        for name in ACL_LIBRARIES {
            if !set.open(name, Scope::Local)? {
                continue;
            }
            // SAFETY: these libraries export AscendCL, which the bindings declare; `Set` never closes them.
            filled = unsafe { acl::Api::fill(&set) }.map_err(|symbol| set.lacks(symbol));
            if filled.is_ok() {
                break;
            }
        }
        let cann = Self {
            acl: filled?,
            simulated: set.has(SIMULATOR_MARK),
            root,
            folder,
            opened: Mutex::new(set.opened()),
            hccl: OnceLock::new(),
            hixl_cs: OnceLock::new(),
            shim: OnceLock::new(),
        };
        tracing::info!(root = %cann.root.display(), libraries = ?cann.libraries(), "CANN was loaded");
        Ok(Box::leak(Box::new(cann)))
    }

    /// The installation's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it is the software CANN: then no figure says anything about an NPU.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Names and files of the libraries opened so far.
    #[must_use]
    pub fn libraries(&self) -> Vec<(String, PathBuf)> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// HCCL, opened on the first call.
    ///
    /// # Errors
    ///
    /// Its libraries are missing, or lack a required symbol.
    pub fn hccl(&self) -> Result<&hccl::Api, &WhyNot> {
        self.hccl.get_or_init(|| self.open_hccl()).as_ref()
    }

    /// HIXL's C interface, opened on the first call.
    ///
    /// # Errors
    ///
    /// The library is missing, lacks a required symbol, or has the structures of CANN 9.0.
    pub fn hixl_cs(&self) -> Result<&hixl_cs::Api, &WhyNot> {
        self.hixl_cs.get_or_init(|| self.open_hixl_cs()).as_ref()
    }

    /// The shim over HIXL's C++ class, opened on the first call together with HIXL's libraries.
    ///
    /// The shim's own undefined symbols are found among those of the whole process, so a process that loads two
    /// installations has the HIXL of the first.
    ///
    /// # Errors
    ///
    /// HIXL is missing, no shim was built, or it does not fit.
    pub fn shim(&self) -> Result<&shim::Api, &WhyNot> {
        self.shim.get_or_init(|| self.open_shim(std::env::var_os(SHIM_VARIABLE).as_deref())).as_ref()
    }

    fn open_hccl(&self) -> Result<hccl::Api, WhyNot> {
        let mut set = Set::new(self.folder.clone());
        let mut any = false;
        for (name, scope) in HCCL_LIBRARIES {
            any |= set.open(name, *scope)?;
        }
        if !any {
            return Err(WhyNot::NoLibrary {
                names: &["libhcomm.so", "libhccl.so"],
                folder: self.folder.clone(),
            });
        }
        // SAFETY: these libraries export HCCL, which the bindings declare; `Set` never closes them.
        let api = unsafe { hccl::Api::fill(&set) }.map_err(|symbol| set.lacks(symbol));
        self.note(&set);
        api
    }

    fn open_hixl_cs(&self) -> Result<hixl_cs::Api, WhyNot> {
        let mut set = Set::new(self.folder.clone());
        if !set.open(HIXL_LIBRARY, Scope::Local)? {
            return Err(WhyNot::NoLibrary { names: &[HIXL_LIBRARY], folder: self.folder.clone() });
        }
        self.note(&set);
        if !set.has(hixl_cs::NEW_LAYOUT) {
            let library = set.last();
            return Err(if set.has(hixl_cs::ANY_LAYOUT) {
                WhyNot::OldLayout { library }
            } else {
                WhyNot::NoSuchInterface { library }
            });
        }
        // SAFETY: the symbol just found is exported exactly where the structures are those of the bindings; `Set` never
        // closes the library.
        unsafe { hixl_cs::Api::fill(&set) }.map_err(|symbol| set.lacks(symbol))
    }

    fn open_shim(&self, instead: Option<&OsStr>) -> Result<shim::Api, WhyNot> {
        let mut hixl = Set::new(self.folder.clone());
        for name in STRING_LIBRARIES {
            if hixl.open(name, Scope::Global)? {
                break;
            }
        }
        if !hixl.open(HIXL_LIBRARY, Scope::Global)? {
            return Err(WhyNot::NoLibrary { names: &[HIXL_LIBRARY], folder: self.folder.clone() });
        }
        self.note(&hixl);
        let library = match (instead.filter(|path| !path.is_empty()), shim::EMBEDDED) {
            (Some(path), _) => Library::open(Path::new(path), Scope::Local)
                .map_err(|said| WhyNot::CannotOpen { library: path.into(), said })?,
            (None, Some(bytes)) => Library::embedded("ropeway-hixl-shim", bytes)?,
            (None, None) => return Err(WhyNot::NotBuilt),
        };
        let set = Set::of(library);
        // SAFETY: the library is the shim, or what the user named as one; it is never closed.
        let api = unsafe { shim::Api::fill(&set) }.map_err(|symbol| set.lacks(symbol))?;
        // SAFETY: the function takes nothing and returns a number.
        let found = unsafe { (api.ropeway_hixl_abi)() };
        if found != shim::ROPEWAY_HIXL_ABI {
            return Err(WhyNot::WrongShim { found, wanted: shim::ROPEWAY_HIXL_ABI });
        }
        self.note(&set);
        Ok(api)
    }

    fn note(&self, set: &Set) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for library in set.opened() {
            if !opened.contains(&library) {
                opened.push(library);
            }
        }
    }
}

#[cfg(test)]
mod tests;
