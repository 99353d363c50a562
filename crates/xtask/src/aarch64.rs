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
            .within(&folder)
            .quietly()
    };
    apt("update")?;
    apt(&format!("download libstd-rust-web-dev={version}"))?;
    let package = fs::read_dir(&folder).ok().into_iter().flatten().flatten().map(|entry| entry.path());
    let package =
        package.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.ok_or("apt-get download left no package")?;
    Step::program("dpkg").arg("-x").arg(package).arg(&folder).quietly()?;
    Ok((compiler, sysroot))
}
