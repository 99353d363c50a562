//! The `hixl` transport: HIXL through the C++ shim or its C API.

pub mod endpoints;
#[cfg(test)]
mod tests;
