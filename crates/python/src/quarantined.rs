//! Memory that is withheld.

use pyo3::prelude::*;

/// Blocks of ours that something that has ended may still touch.
#[pyclass(frozen, get_all, module = "ropeway")]
pub(crate) struct Quarantined {
    /// What ended without proof that nothing touches the blocks any more.
    cause: String,
    /// The cache that the blocks are of.
    cache: String,
    /// Their bytes.
    bytes: u64,
    /// Since how many seconds.
    age: f64,
}

impl From<ropeway::Quarantined> for Quarantined {
    fn from(withheld: ropeway::Quarantined) -> Self {
        Self {
            cause: format!("{:?}", withheld.cause),
            cache: withheld.cache.to_string(),
            bytes: withheld.bytes,
            age: withheld.age.as_secs_f64(),
        }
    }
}

#[pymethods]
impl Quarantined {
    fn __repr__(&self) -> String {
        let Self { cause, cache, bytes, age } = self;
        format!("Quarantined(cause={cause:?}, cache={cache:?}, bytes={bytes}, age={age:.3})")
    }
}
