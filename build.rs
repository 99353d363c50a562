//! Build facts only: the version as `git describe` tells it, for logs and the handshake.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    let described = Command::new("git")
        .args(["describe", "--always", "--dirty", "--tags"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=ROPEWAY_GIT={}", described.trim());
}
