//! A toolchain for aarch64, the architecture of Ascend hosts, on an x86-64 machine: a standard library, a linker, and
//! qemu to run what came out.

use std::fs;
use std::path::{Path, PathBuf};

use crate::step::Step;
use crate::tools;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// What cargo has to be told.
pub(crate) struct Toolchain {
    variables: Vec<(&'static str, String)>,
    folder: &'static str,
}

impl Toolchain {
    /// Looks for the three parts and installs what is missing.
    pub(crate) fn ready() -> Result<Self, String> {
        tools::program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")?;
        tools::program("qemu-aarch64-static", "qemu-user-static")?;
        let mut variables = vec![
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc".to_owned()),
            (
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                "qemu-aarch64-static -L /usr/aarch64-linux-gnu".to_owned(),
            ),
        ];
        let Err(refused) = rustup() else { return Ok(Self { variables, folder: "target" }) };
        println!("{refused}; taking Debian's compiler and its arm64 library instead");
        let (compiler, sysroot) = debian().map_err(|why| format!("{refused}; and Debian's: {why}"))?;
        let flags = format!("--sysroot {}", sysroot.display());
        variables.push(("RUSTC", compiler.display().to_string()));
        variables.push(("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags));
        Ok(Self { variables, folder: "target/debian" })
    }

    /// Cargo's `command` for the target, with `arguments` after it.
    pub(crate) fn cargo(&self, command: &str, arguments: &str) -> Step {
        let mut step = Step::cargo(command).args("--locked --lib --target").arg(TARGET);
        if self.folder != "target" {
            step = step.arg("--target-dir").arg(self.folder);
        }
        self.variables.iter().fold(step, |step, (name, value)| step.env(name, value)).args(arguments)
    }
}

impl Toolchain {
    /// Tells `step` of the compiler and the standard library, but not what links and runs.
    pub(crate) fn without_linker(&self, step: Step) -> Step {
        let compiler = |name: &str| !name.ends_with("_LINKER") && !name.ends_with("_RUNNER");
        let variables = self.variables.iter().filter(|(name, _)| compiler(name));
        variables.fold(step, |step, (name, value)| step.env(name, value))
    }
}

/// The toolchain's own standard library for the target.
fn rustup() -> Result<(), String> {
    let sysroot = Step::program("rustc").args("--print sysroot").quietly()?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(());
    }
    println!("installing through rustup: the standard library for {TARGET}");
    Step::program("rustup").args("target add").arg(TARGET).quietly().map(drop)
}

/// Debian's `rustc-web`, and the standard library of its arm64 twin unpacked beside it: the packages of another
/// architecture are fetched with lists of their own, so that the machine's apt stays as it is.
fn debian() -> Result<(PathBuf, PathBuf), String> {
    let compiler = PathBuf::from("/usr/bin/rustc");
    tools::apt("rustc-web")?;
    let version =
        Step::program("dpkg-query").args("--show --showformat ${Version} libstd-rust-web-dev").quietly()?;
    let folder = tools::cache().join(format!("libstd-rust-arm64-{version}"));
    let sysroot = folder.join("usr");
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok((compiler, sysroot));
    }
    unpack(&folder, &[&format!("libstd-rust-web-dev={version}")], &folder)?;
    Ok((compiler, sysroot))
}

/// Fetches Debian's arm64 `packages` with lists of its own in `folder`, and unpacks them into `root`.
fn unpack(folder: &Path, packages: &[&str], root: &Path) -> Result<(), String> {
    for lists in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(folder.join(lists)).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let apt = |arguments: &str| {
        let step = Step::program("apt-get").args("-o APT::Architecture=arm64 -o APT::Architectures::=arm64");
        let step =
            step.args("-o Dir::State::status=/dev/null -o").arg(format!("Dir::State={}", folder.display()));
        step.arg("-o")
            .arg(format!("Dir::Cache={}", folder.display()))
            .args(arguments)
            .within(folder)
            .quietly()
    };
    apt("update")?;
    apt(&format!("download {}", packages.join(" ")))?;
    let files = fs::read_dir(folder).ok().into_iter().flatten().flatten().map(|entry| entry.path());
    let archives: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect();
    if archives.is_empty() {
        return Err("apt-get download left no package".to_owned());
    }
    for archive in archives {
        Step::program("dpkg").arg("-x").arg(archive).arg(root).quietly()?;
    }
    Ok(())
}

/// An interpreter of Python for aarch64, to be run by qemu.
pub(crate) struct Python {
    root: PathBuf,
}

/// Debian's, with what the extension and `ctypes` load.
const INTERPRETER: &[&str] = &[
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11-minimal",
    "zlib1g",
];

/// The interpreter: kept from an earlier call, or fetched now.
pub(crate) fn python() -> Result<Python, String> {
    // Its C and C++ libraries are those that the cross compiler brings.
    tools::program("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")?;
    tools::program("qemu-aarch64-static", "qemu-user-static")?;
    let folder = tools::cache().join("python-3.11-arm64");
    let python = Python { root: folder.join("root") };
    let starts = || python.step(&folder).args("-c pass").quietly();
    if starts().is_err() {
        println!("fetching Debian's Python for arm64 into {}", folder.display());
        unpack(&folder, INTERPRETER, &python.root)?;
        starts()?;
    }
    Ok(python)
}

impl Python {
    /// Runs it with the modules in `site`.
    pub(crate) fn step(&self, site: &Path) -> Step {
        let root = self.root.display();
        let libraries =
            format!("LD_LIBRARY_PATH={root}/lib/aarch64-linux-gnu:{root}/usr/lib/aarch64-linux-gnu");
        Step::program("qemu-aarch64-static")
            .args("-L /usr/aarch64-linux-gnu -E")
            .arg(libraries)
            .arg("-E")
            .arg(format!("PYTHONPATH={}", site.display()))
            .args("-E PYTHONDONTWRITEBYTECODE=1")
            .arg(self.root.join("usr/bin/python3.11"))
    }
}
