//! Which process something was made in: a forked child has none of the threads that would answer.

use ropeway::{Error, ErrorKind, Result};

/// The process of something's making.
#[derive(Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn here() -> Self {
        Self(std::process::id())
    }

    /// Whether this is a forked child.
    pub(crate) fn is_foreign(self) -> bool {
        self.0 != std::process::id()
    }

    /// `Forked` in a forked child.
    pub(crate) fn check(self, operation: &'static str) -> Result<()> {
        if self.is_foreign() {
            let text = "the engine belongs to the parent process; open one in this one";
            return Err(Error::new(ErrorKind::Forked, operation, text));
        }
        Ok(())
    }
}
