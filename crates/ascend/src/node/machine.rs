//! The machine as this process sees it: variables, files, a tool to ask.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longer files and answers are cut.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// How long a tool may take.
const TOOL: Duration = Duration::from_secs(5);

/// Where facts about the machine are read from: the real one, or a folder and a list of variables.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    variables: Option<BTreeMap<String, String>>,
}

impl Machine {
    /// This process's own surroundings.
    pub fn here() -> Self {
        Self { root: PathBuf::from("/"), variables: None }
    }

    /// A machine whose files lie under `root` and whose environment is `variables`; tools are looked for under `root`
    /// only.
    pub fn at(root: impl Into<PathBuf>, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { root: root.into(), variables: Some(variables.into_iter().collect()) }
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<String> {
        let value = match &self.variables {
            Some(variables) => variables.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A file's text, 1 MiB of it at most; what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.path(path))?;
        io::Read::read_to_end(&mut io::Read::take(file, TEXT_BYTES_MAX), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Whether this process seems to run in a container. A hint for messages.
    pub fn in_container(&self) -> bool {
        self.has("/.dockerenv")
            || self.has("/run/.containerenv")
            || self.variable("KUBERNETES_SERVICE_HOST").is_some()
    }

    /// What a tool prints, if it ends well and in time.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes more than 5 s; then it is killed.
    pub fn ask(&self, tool: &Path, arguments: &[&str]) -> io::Result<String> {
        let until = Instant::now() + TOOL;
        let mut command = Command::new(self.tool(tool)?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = loop {
            match command.spawn() {
                // Somebody is still writing it.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                spawned => break spawned?,
            }
        };
        // The answer is a few lines, which the pipe holds: it is read after the end.
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the tool did not end within 5 s"));
                }
            }
        };
        if !status.success() {
            return Err(io::Error::other(format!("the tool ended with {status}")));
        }
        let mut bytes = Vec::new();
        if let Some(out) = child.stdout.take() {
            io::Read::read_to_end(&mut io::Read::take(out, TEXT_BYTES_MAX), &mut bytes)?;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn tool(&self, tool: &Path) -> io::Result<PathBuf> {
        if tool.is_absolute() {
            return Ok(self.path(&tool.to_string_lossy()));
        }
        if self.variables.is_some() { Err(io::ErrorKind::NotFound.into()) } else { Ok(tool.into()) }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}
