//! The `hixl` transport: HIXL through the C++ shim or its C API.

pub mod endpoints;
pub mod offer;
#[cfg(test)]
mod tests;
pub mod way;
