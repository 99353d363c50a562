//! What two instances must agree on before a byte moves: model, layout, type, versions; and the first that differs.

use std::fmt;

use blake2::digest::consts::U16;
use blake2::{Blake2s, Digest};
use serde::{Deserialize, Serialize};

/// The version of what two connectors say to each other.
pub const CONNECTOR_VERSION: u32 = 1;

/// Two instances that do not fit, by the first field that says so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} is {ours} here and {theirs} at the peer{}", hint(.advice))]
pub struct Mismatch {
    /// What differs.
    pub field: String,
    /// Its value here.
    pub ours: String,
    /// Its value at the peer.
    pub theirs: String,
    /// What to do about it; empty where that is plain.
    pub advice: String,
}

impl Mismatch {
    pub(crate) fn new(field: impl Into<String>, ours: impl ToString, theirs: impl ToString) -> Self {
        let (field, ours, theirs) = (field.into(), ours.to_string(), theirs.to_string());
        Self { field, ours, theirs, advice: String::new() }
    }

    pub(crate) fn advise(mut self, advice: &str) -> Self {
        self.advice = advice.to_owned();
        self
    }
}

fn hint(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

/// Facts about one instance. Both sides of a handshake compare theirs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// [`CONNECTOR_VERSION`].
    pub connector: u32,
    /// The model as both were told it: its name or path.
    pub model: String,
    /// Layers of the model itself, draft layers not counted.
    pub layers: u32,
    /// The type of cached values, `bfloat16` or `fp8_e4m3` say.
    pub kv_dtype: String,
    /// The kind of device: `cpu`, `ascend-a2`, `ascend-a3`, ….
    pub device: String,
    /// The framework, `vllm` say.
    pub framework: String,
    /// Its version.
    pub framework_version: String,
    /// Tokens of a manager block.
    pub block_tokens: u32,
    /// The name of the memory layout: `LBHNC`, `NHD`, `tuple`, ….
    pub layout: String,
    /// Layers of the draft model, if any.
    pub draft_layers: u32,
}

/// How a difference is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weight {
    /// Bytes would be misread: always refused.
    Bytes,
    /// Values may differ though bytes fit: refused unless the user says otherwise.
    Meaning,
    /// The layouts are mapped onto each other, or refused there: only told.
    Mapped,
}

/// A field that differs and is no obstacle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Which.
    pub field: &'static str,
    /// Its value here.
    pub ours: String,
    /// Its value at the peer.
    pub theirs: String,
}

/// 128 bits of BLAKE2s over all facts: where they are equal, nothing needs comparing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FactsDigest(pub [u8; 16]);

impl fmt::Display for FactsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Facts {
    /// The fields in the order in which they are compared.
    pub fn fields(&self) -> [(&'static str, String, Weight); 10] {
        [
            ("connector version", self.connector.to_string(), Weight::Bytes),
            ("model", self.model.clone(), Weight::Meaning),
            ("layers", self.layers.to_string(), Weight::Bytes),
            ("KV dtype", self.kv_dtype.clone(), Weight::Bytes),
            ("device", self.device.clone(), Weight::Mapped),
            ("framework", self.framework.clone(), Weight::Meaning),
            ("framework version", self.framework_version.clone(), Weight::Meaning),
            ("block size", self.block_tokens.to_string(), Weight::Mapped),
            ("layout", self.layout.clone(), Weight::Mapped),
            ("draft layers", self.draft_layers.to_string(), Weight::Mapped),
        ]
    }

    /// A digest over every field.
    pub fn digest(&self) -> FactsDigest {
        let mut hash = Blake2s::<U16>::new();
        hash.update(b"ropeway facts 1\0");
        for (name, value, _) in self.fields() {
            for text in [name, value.as_str()] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
        FactsDigest(hash.finalize().into())
    }

    /// Whether the peer's instance may be used; what differs without harm, if so. `lenient` lets fields differ that do
    /// not change how bytes are read.
    ///
    /// # Errors
    /// The first field that forbids it, with both values.
    pub fn check(&self, peer: &Self, lenient: bool) -> Result<Vec<Difference>, Mismatch> {
        if let Some(mismatch) = generations(&self.device, &peer.device) {
            return Err(mismatch);
        }
        let mut harmless = Vec::new();
        for ((field, ours, weight), (_, theirs, _)) in self.fields().into_iter().zip(peer.fields()) {
            if ours == theirs || field == "framework version" && same_release(&ours, &theirs) {
                continue;
            }
            match weight {
                Weight::Bytes => return Err(Mismatch::new(field, ours, theirs)),
                Weight::Meaning if !lenient => {
                    let advice = "start both alike, or set enforce_handshake_compat to false";
                    return Err(Mismatch::new(field, ours, theirs).advise(advice));
                }
                Weight::Meaning | Weight::Mapped => harmless.push(Difference { field, ours, theirs }),
            }
        }
        Ok(harmless)
    }
}

/// Releases of one minor version read the same cache.
fn same_release(ours: &str, theirs: &str) -> bool {
    let minor = |version: &str| version.splitn(3, '.').take(2).map(str::to_owned).collect::<Vec<_>>();
    minor(ours).len() == 2 && minor(ours) == minor(theirs)
}

/// A2 and A3 have no link in common that carries their caches.
fn generations(ours: &str, theirs: &str) -> Option<Mismatch> {
    let ascend = |device: &str| device.starts_with("ascend-");
    (ascend(ours) && ascend(theirs) && ours != theirs).then(|| {
        Mismatch::new("device", ours, theirs).advise("serve each request within one generation of NPU")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            connector: CONNECTOR_VERSION,
            model: "deepseek-v3".into(),
            layers: 61,
            kv_dtype: "bfloat16".into(),
            device: "ascend-a3".into(),
            framework: "vllm".into(),
            framework_version: "0.32.0".into(),
            block_tokens: 128,
            layout: "tuple".into(),
            draft_layers: 1,
        }
    }

    #[test]
    fn equal_facts_fit_and_have_one_digest() {
        assert_eq!(facts().check(&facts(), false), Ok(vec![]));
        assert_eq!(facts().digest(), facts().digest());
    }

    #[test]
    fn every_field_is_in_the_digest() {
        let changes: [fn(&mut Facts); 10] = [
            |facts| facts.connector += 1,
            |facts| facts.model.push('x'),
            |facts| facts.layers += 1,
            |facts| facts.kv_dtype.push('x'),
            |facts| facts.device.push('x'),
            |facts| facts.framework.push('x'),
            |facts| facts.framework_version.push('x'),
            |facts| facts.block_tokens += 1,
            |facts| facts.layout.push('x'),
            |facts| facts.draft_layers += 1,
        ];
        for change in changes {
            let mut other = facts();
            change(&mut other);
            assert_ne!(other.digest(), facts().digest(), "{other:?}");
        }
    }

    #[test]
    fn a_differing_kv_dtype_is_refused_by_name_however_lenient() {
        let other = Facts { kv_dtype: "fp8_e4m3".into(), ..facts() };
        for lenient in [false, true] {
            let mismatch = facts().check(&other, lenient).expect_err("the types differ");
            assert_eq!(mismatch.to_string(), "KV dtype is bfloat16 here and fp8_e4m3 at the peer");
        }
    }

    #[test]
    fn a2_with_a3_is_refused_by_name_however_lenient() {
        let other = Facts { device: "ascend-a2".into(), ..facts() };
        let mismatch = facts().check(&other, true).expect_err("the generations differ");
        assert_eq!((mismatch.field.as_str(), mismatch.theirs.as_str()), ("device", "ascend-a2"));
        let host = Facts { device: "cpu".into(), ..facts() };
        assert!(facts().check(&host, false).is_ok());
    }

    #[test]
    fn a_differing_model_is_refused_unless_the_user_is_lenient() {
        let other = Facts { model: "deepseek-r1".into(), ..facts() };
        let mismatch = facts().check(&other, false).expect_err("the models differ");
        assert_eq!(mismatch.field, "model");
        assert_eq!(facts().check(&other, true).map(|harmless| harmless.len()), Ok(1));
    }

    #[test]
    fn patch_releases_and_mapped_layouts_fit() {
        let other = Facts {
            framework_version: "0.32.1".into(),
            block_tokens: 64,
            layout: "LBHNC".into(),
            draft_layers: 0,
            ..facts()
        };
        let harmless = facts().check(&other, false).expect("they fit");
        let fields: Vec<_> = harmless.iter().map(|difference| difference.field).collect();
        assert_eq!(fields, ["block size", "layout", "draft layers"]);
        let newer = Facts { framework_version: "0.33.0".into(), ..facts() };
        assert_eq!(facts().check(&newer, false).expect_err("another minor").field, "framework version");
    }
}
