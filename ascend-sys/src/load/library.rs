//! Shared objects that are opened and never closed.

use std::ffi::{CStr, CString, c_void};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use super::error::WhyNot;
use crate::table::Symbols;

/// Who sees a library's symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those who ask the library itself.
    Local,
    /// Every library that is opened later.
    Global,
}

/// A library that stays open for the life of the process.
#[derive(Debug, Clone)]
pub(super) struct Library {
    name: String,
    path: PathBuf,
    handle: &'static Handle,
}

impl Library {
    /// Opens a file, or, by a name without a slash, what the loader finds.
    pub(super) fn open(path: &Path, scope: Scope) -> Result<Self, String> {
        let scope = if scope == Scope::Global { RTLD_GLOBAL } else { RTLD_LOCAL };
        // SAFETY: runs the library's initialisers. It is CANN's, or one that the user put in its place; to load it is
        // what the process is for.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | scope) }.map_err(|error| said(&error))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut library = Self { name, path: path.to_path_buf(), handle: Box::leak(Box::new(handle)) };
        if !path.as_os_str().as_bytes().contains(&b'/') {
            library.path = library.file().unwrap_or(library.path);
        }
        Ok(library)
    }

    /// Opens a library from memory.
    pub(super) fn embedded(name: &'static str, bytes: &[u8]) -> Result<Self, WhyNot> {
        let refused = |said: String| WhyNot::CannotOpen { library: name.into(), said };
        let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| refused(error.to_string()))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(bytes).map_err(|error| refused(error.to_string()))?;
        // The loader tells libraries apart by the name that they were opened with, so the number must stay taken.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut library = Self::open(Path::new(&path), Scope::Local).map_err(refused)?;
        let _ = file.into_raw_fd();
        library.name = name.to_owned();
        library.path = PathBuf::from(format!("memfd:{name}"));
        Ok(library)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn address(&self, symbol: &str) -> Option<*mut c_void> {
        let symbol = CString::new(symbol).ok()?;
        // SAFETY: the address is only taken here, not used; a pointer may hold any address.
        let found = unsafe { self.handle.get::<*mut c_void>(symbol.as_bytes_with_nul()) }.ok()?;
        Some(found.as_raw_ptr()).filter(|address| !address.is_null())
    }

    /// The file that the loader took for a bare name, from an address within it.
    fn file(&self) -> Option<PathBuf> {
        let inside = self.address("aclInit")?;
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        // SAFETY: only compares the address with the maps that the loader knows, and fills the structure.
        let known = unsafe { libc::dladdr(inside, &raw mut info) };
        if known == 0 || info.dli_fname.is_null() {
            return None;
        }
        // SAFETY: the loader's name of a library that is never closed: a string that stays.
        let name = unsafe { CStr::from_ptr(info.dli_fname) };
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        Some(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
    }
}

/// Everything that the error chain says.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// The folder of `root` that has one of `names`: `lib64`, or the one of this architecture.
pub(super) fn folder(root: &Path, names: &[&str]) -> Option<PathBuf> {
    let own = format!("{}-linux/lib64", std::env::consts::ARCH);
    ["lib64", &own]
        .into_iter()
        .map(|name| root.join(name))
        .find(|folder| names.iter().any(|name| folder.join(name).is_file()))
}

/// Libraries that are searched one after the other.
#[derive(Debug, Clone)]
pub(super) struct Set {
    folder: Option<PathBuf>,
    libraries: Vec<Library>,
}

impl Set {
    /// An empty set whose libraries are files of `folder`, or, without one, what the loader finds by name.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, libraries: Vec::new() }
    }

    pub(super) fn of(library: Library) -> Self {
        Self { folder: None, libraries: vec![library] }
    }

    /// Adds a library; false where there is none of that name.
    pub(super) fn open(&mut self, name: &str, scope: Scope) -> Result<bool, WhyNot> {
        let path = match &self.folder {
            Some(folder) if !folder.join(name).is_file() => return Ok(false),
            Some(folder) => folder.join(name),
            None => name.into(),
        };
        match Library::open(&path, scope) {
            Ok(library) => self.libraries.push(library),
            Err(_) if self.folder.is_none() => return Ok(false),
            Err(said) => return Err(WhyNot::CannotOpen { library: path, said }),
        }
        Ok(true)
    }

    pub(super) fn has(&self, symbol: &'static str) -> bool {
        self.find(symbol).is_some()
    }

    /// The file opened last.
    pub(super) fn last(&self) -> PathBuf {
        self.libraries.last().map_or_else(PathBuf::new, |library| library.path.clone())
    }

    pub(super) fn lacks(&self, symbol: &'static str) -> WhyNot {
        WhyNot::MissingSymbol { library: self.last(), symbol }
    }

    pub(super) fn opened(&self) -> Vec<(String, PathBuf)> {
        self.libraries.iter().map(|library| (library.name.clone(), library.path.clone())).collect()
    }
}

impl Symbols for Set {
    fn find(&self, name: &'static str) -> Option<*mut c_void> {
        self.libraries.iter().find_map(|library| library.address(name))
    }
}
