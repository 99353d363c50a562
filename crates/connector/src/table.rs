//! What an instance shows to consumers: who its workers are, and what they must know to use them. A note of the scheduler
//! half's engine, as JSON.

use ropeway::Descriptor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the note.
pub const NOTE: &str = "ropeway/instance";

/// The name under which each worker publishes its cache.
pub const CACHE: &str = "kv";

/// Workers of one instance.
const RANKS_MAX: usize = 4_096;

/// An instance, as its scheduler half shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// What mapping needs: facts, topology, cache shapes.
    pub about: Value,
    /// How to reach each worker, by its number.
    pub ranks: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
struct Shown {
    about: Value,
    ranks: Vec<String>,
}

/// A note that is no instance.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the producer's rank table cannot be read: {0}")]
pub struct TableError(String);

impl Instance {
    /// As bytes for the note. They hold the workers' secrets: an engine shows notes only to those who may connect.
    pub fn encode(&self) -> Vec<u8> {
        let ranks = self.ranks.iter().map(Descriptor::to_string).collect();
        let shown = Shown { about: self.about.clone(), ranks };
        serde_json::to_vec(&shown).unwrap_or_default()
    }

    /// From the bytes of a note.
    ///
    /// # Errors
    /// They are not what [`Self::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let shown: Shown = serde_json::from_slice(bytes).map_err(|error| TableError(error.to_string()))?;
        if shown.ranks.len() > RANKS_MAX {
            return Err(TableError(format!("{} ranks; {RANKS_MAX} is the limit", shown.ranks.len())));
        }
        let parse = |(at, text): (usize, &String)| {
            text.parse().map_err(|error| TableError(format!("descriptor of rank {at}: {error}")))
        };
        let ranks = shown.ranks.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { about: shown.about, ranks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_as_it_was_shown_and_nothing_else_is() {
        let engine = ropeway::Engine::builder().open().expect("a loopback engine opens");
        let instance = Instance { about: serde_json::json!({"tp": 1}), ranks: vec![engine.descriptor()] };
        assert_eq!(Instance::decode(&instance.encode()), Ok(instance));
        for wrong in ["", "{}", r#"{"about":1,"ranks":["x"]}"#, r#"{"about":1,"ranks":7}"#] {
            assert!(Instance::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let many = format!(r#"{{"about":1,"ranks":[{}""]}}"#, r#""","#.repeat(RANKS_MAX));
        assert!(Instance::decode(many.as_bytes()).unwrap_err().to_string().contains("4096 is the limit"));
    }
}
