//! Versions: the release that is played, with words that say so.

use std::ffi::c_char;

use crate::fail::{Done, Fail, code, ensure};
use crate::ffi::{Out, Text};
use crate::runtime::runtime;

/// Packages that have a version.
const PACKAGES: &[&str] = &[
    "cann",
    "runtime",
    "compiler",
    "hccl",
    "hcomm",
    "toolkit",
    "opp",
    "opp_kernel",
    "driver",
    "firmware",
    "hixl",
    "metadef",
];

/// Driver and firmware are versioned apart from CANN.
const DRIVER: &str = "25.5.0";

/// `aclCANNPackageVersion`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PackageVersion {
    version: [c_char; 128],
    major: [c_char; 64],
    minor: [c_char; 64],
    release: [c_char; 64],
    patch: [c_char; 64],
    reserved: [c_char; 128],
}

impl Default for PackageVersion {
    fn default() -> Self {
        Self {
            version: [0; 128],
            major: [0; 64],
            minor: [0; 64],
            release: [0; 64],
            patch: [0; 64],
            reserved: [0; 128],
        }
    }
}

fn version_of(package: &str) -> Done<String> {
    let known = PACKAGES.contains(&package.to_ascii_lowercase().as_str());
    ensure(known, code::INVALID_FILE, || format!("no package {package:?}"))?;
    if matches!(package, "driver" | "firmware") {
        return Ok(DRIVER.to_owned());
    }
    Ok(runtime()?.topology.release.clone())
}

/// Major, minor and patch of a release.
fn parts(version: &str) -> Done<[i32; 3]> {
    let wrong = || Fail::new(code::INVALID_FILE, format!("release {version:?} is no version"));
    let mut parts = [0; 3];
    for (part, text) in parts.iter_mut().zip(version.split(['.', '-'])) {
        *part = text.parse().map_err(|_| wrong())?;
    }
    Ok(parts)
}

crate::export! {
    /// `aclsysGetVersionStr`: into 128 bytes. The text names the simulator.
    fn sim_aclsysGetVersionStr(package: Text, version: Out<c_char>) {
        let text = version_of(&package.to_text()?)?;
        version.set_text(&format!("{text} (ropeway software CANN, simulated)"), 128)
    }

    /// `aclsysGetVersionNum`: major × 10,000,000 + minor × 100,000 + patch × 1,000.
    fn sim_aclsysGetVersionNum(package: Text, number: Out<i32>) {
        let [major, minor, patch] = parts(&version_of(&package.to_text()?)?)?;
        number.set(major * 10_000_000 + minor * 100_000 + patch * 1_000)
    }

    /// `aclsysGetCANNVersion`.
    fn sim_aclsysGetCANNVersion(package: u32, version: Out<PackageVersion>) {
        version.check()?;
        let driver = package == 7;
        ensure(package <= 7, code::INVALID_PARAM, || format!("no package {package}"))?;
        let text = if driver { DRIVER.to_owned() } else { runtime()?.topology.release.clone() };
        let [major, minor, patch] = parts(&text)?;
        let mut answer = PackageVersion::default();
        Out::from(&mut answer.version[..]).set_text(&text, 128)?;
        Out::from(&mut answer.major[..]).set_text(&major.to_string(), 64)?;
        Out::from(&mut answer.minor[..]).set_text(&minor.to_string(), 64)?;
        Out::from(&mut answer.patch[..]).set_text(&patch.to_string(), 64)?;
        version.set(answer)
    }

    /// `aclrtGetVersion`: the API's own version, which is not CANN's.
    fn sim_aclrtGetVersion(major: Out<i32>, minor: Out<i32>, patch: Out<i32>) {
        let old = runtime()?.topology.release.starts_with("8.");
        major.set(1)?;
        minor.set(if old { 16 } else { 17 })?;
        patch.set(0)
    }
}
