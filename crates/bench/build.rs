//! Builds the C reference that the engine is measured against.

fn main() {
    println!("cargo::rerun-if-changed=reference");
    cc::Build::new()
        .files(["crew", "copy", "kernel", "stream", "latency"].map(|name| format!("reference/{name}.c")))
        .opt_level(3)
        .std("c11")
        .flag("-Wall")
        .flag("-Wextra")
        .flag("-pthread")
        .compile("ropeway_reference");
    println!("cargo::rustc-link-lib=pthread");
}
