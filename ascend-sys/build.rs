//! Builds what is not Rust: the C++ shim over HIXL.

#[path = "build/shim.rs"]
mod shim;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    shim::build();
}
