//! Why something was not loaded, in words that say what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why there is no AscendCL.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// It is nowhere.
    NotFound {
        /// Where was looked, in order.
        looked: Vec<Looked>,
    },
    /// It was found, and cannot be used.
    Unusable(WhyNot),
}

/// A place where CANN was looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// What named the place: a variable, the usual folder, the loader.
    pub from: &'static str,
    /// The place, if any was named.
    pub place: Option<PathBuf>,
    /// What was wrong with it.
    pub said: String,
}

/// Why a part of CANN is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyNot {
    /// None of the libraries is there.
    NoLibrary {
        /// Their names.
        names: &'static [&'static str],
        /// The folder that lacks them; none where the loader was asked.
        folder: Option<PathBuf>,
    },
    /// The loader refused the file.
    CannotOpen {
        /// The file.
        library: PathBuf,
        /// The loader's words.
        said: String,
    },
    /// A symbol without which the library is of no use.
    MissingSymbol {
        /// The file; with several, the last that was searched.
        library: PathBuf,
        /// The missing function.
        symbol: &'static str,
    },
    /// HIXL's C interface with the structures of CANN 9.0.
    OldLayout {
        /// The file.
        library: PathBuf,
    },
    /// HIXL without a C interface, as in CANN 8.5.
    NoSuchInterface {
        /// The file.
        library: PathBuf,
    },
    /// No C++ compiler was at hand when this crate was built.
    NotBuilt,
    /// A shim of another version.
    WrongShim {
        /// What the library says that it is.
        found: u32,
        /// What this crate calls.
        wanted: u32,
    },
}

impl Looked {
    pub(super) fn unset(from: &'static str) -> Self {
        Self { from, place: None, said: "not set".to_owned() }
    }

    pub(super) fn empty(from: &'static str, root: &Path, names: &[&str]) -> Self {
        let said = if root.is_dir() {
            format!("has no lib64/{}", names.join(" nor lib64/"))
        } else {
            "is no folder".to_owned()
        };
        Self { from, place: Some(root.to_path_buf()), said }
    }

    pub(super) fn loader(name: &str, said: String) -> Self {
        Self { from: "the loader's path", place: Some(name.into()), said }
    }
}

impl fmt::Display for Looked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(formatter, "{} ({}: {})", self.from, place.display(), self.said),
            None => write!(formatter, "{} ({})", self.from, self.said),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { looked } => {
                formatter.write_str("no CANN was found; looked at ")?;
                for (at, looked) in looked.iter().enumerate() {
                    write!(formatter, "{}{looked}", if at == 0 { "" } else { ", " })?;
                }
                formatter.write_str("; install CANN 8.5.0 or later, or name its folder in ROPEWAY_CANN_PATH")
            }
            Self::Unusable(why) => why.fmt(formatter),
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLibrary { names, folder: Some(folder) } => {
                write!(formatter, "{} has no {}", folder.display(), names.join(" nor "))
            }
            Self::NoLibrary { names, folder: None } => {
                write!(formatter, "the loader finds no {}", names.join(" nor "))
            }
            Self::CannotOpen { library, said } => {
                let library = library.display();
                write!(formatter, "{library} cannot be opened: {said}; is its `set_env.sh` in force, and the driver there?")
            }
            Self::MissingSymbol { library, symbol } => {
                let library = library.display();
                write!(formatter, "{library} lacks {symbol}, which is needed; every CANN since 8.5.0 has it")
            }
            Self::OldLayout { library } => {
                let library = library.display();
                write!(
                    formatter,
                    "{library} has the C interface of CANN 9.0, whose structures differ (it lacks \
                     HixlCSClientBatchPutSync); use the C++ shim, or CANN 9.1.0 or later"
                )
            }
            Self::NoSuchInterface { library } => {
                let library = library.display();
                write!(formatter, "{library} has no C interface, as before CANN 9.0; use the C++ shim")
            }
            Self::NotBuilt => formatter.write_str(
                "the C++ shim over HIXL was left out of this build for want of a C++ compiler; build again with one, or \
                 name a shim in ROPEWAY_HIXL_SHIM",
            ),
            Self::WrongShim { found, wanted } => {
                write!(formatter, "the shim in ROPEWAY_HIXL_SHIM is of version {found}, this build calls {wanted}")
            }
        }
    }
}

impl std::error::Error for LoadError {}

impl std::error::Error for WhyNot {}
