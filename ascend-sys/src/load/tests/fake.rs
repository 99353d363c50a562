//! Installations of CANN made of libraries with the right names and nothing behind them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use crate::acl;

/// A folder that goes when the test ends.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ropeway-load-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path.canonicalize().expect("it was just made"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A library whose functions all return one number, which tells it from others.
pub(super) struct Fake {
    number: i32,
    symbols: Vec<&'static str>,
}

impl Fake {
    pub(super) fn new(number: i32, symbols: &[&'static str]) -> Self {
        Self { number, symbols: symbols.to_vec() }
    }

    /// One with what AscendCL's table cannot do without.
    pub(super) fn acl(number: i32) -> Self {
        Self::new(number, acl::GROUPS[0].symbols)
    }

    pub(super) fn with(mut self, symbols: &[&'static str]) -> Self {
        self.symbols.extend(symbols);
        self
    }

    pub(super) fn without(mut self, symbol: &str) -> Self {
        self.symbols.retain(|other| *other != symbol);
        self
    }

    pub(super) fn build(&self, path: &Path) {
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
        let source = path.with_extension("c");
        let mut text = String::new();
        for symbol in &self.symbols {
            let _ = writeln!(text, "int {symbol}(void) {{ return {}; }}", self.number);
        }
        fs::write(&source, text).expect("a file can be written");
        let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
        let output =
            Command::new(compiler).args(["-shared", "-fPIC", "-w", "-o"]).arg(path).arg(&source).output();
        let output = output.expect("a C compiler can be run: the workspace does not build without one");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// As `lib64/NAME` of an installation.
    pub(super) fn install(&self, root: &Path, name: &str) {
        self.build(&root.join("lib64").join(name));
    }
}
