//! Shapes of the KV caches of some models: what a block of 128 tokens is made of.

/// Tokens of a block, on Ascend and everywhere here.
pub(crate) const BLOCK_TOKENS: u32 = 128;

/// One cache of every layer that has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plane {
    pub(crate) name: &'static str,
    /// Bytes of one block in one layer.
    pub(crate) block_bytes: u64,
    /// How many layers have it.
    pub(crate) layers: u32,
    /// A sliding window keeps this many blocks of a prompt, whatever its length.
    pub(crate) max_blocks: Option<u32>,
}

/// The KV cache of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) layers: u32,
    pub(crate) planes: &'static [Plane],
}

const KIB: u64 = 1024;

macro_rules! shapes {
    ($($model:literal, $layers:literal: $($plane:literal $bytes:expr),+;)*) => {
        &[$(Shape {
            name: $model,
            layers: $layers,
            planes: &[$(Plane { name: $plane, block_bytes: $bytes, layers: $layers, max_blocks: None }),+],
        },)*]
    };
}

/// MLA (one latent and one rope row a token), MLA with a sparse-attention indexer, and grouped-query attention, 16 bit.
static PLAIN: &[Shape] = shapes! {
    "DeepSeek-V2-Lite", 27: "nope" 128 * KIB, "rope" 16 * KIB;
    "DeepSeek-V3", 61: "nope" 128 * KIB, "rope" 16 * KIB;
    "DeepSeek-R1", 61: "nope" 128 * KIB, "rope" 16 * KIB;
    "DeepSeek-V3.2", 61: "nope" 128 * KIB, "rope" 16 * KIB, "indexer_k" 32 * KIB;
    "GLM-5", 78: "nope" 128 * KIB, "rope" 16 * KIB, "indexer_k" 32 * KIB;
    "Kimi-K2", 61: "nope" 128 * KIB, "rope" 16 * KIB;
    "Qwen3-8B", 36: "k" 256 * KIB, "v" 256 * KIB;
    "Qwen3-32B", 64: "k" 256 * KIB, "v" 256 * KIB;
    "Qwen3-30B-A3B", 48: "k" 128 * KIB, "v" 128 * KIB;
    "Qwen3-235B-A22B", 94: "k" 128 * KIB, "v" 128 * KIB;
    "Llama-3-8B", 32: "k" 256 * KIB, "v" 256 * KIB;
    "Llama-3-70B", 80: "k" 256 * KIB, "v" 256 * KIB;
    "GLM-4.5", 92: "k" 256 * KIB, "v" 256 * KIB;
    "GLM-4.5-Air", 46: "k" 256 * KIB, "v" 256 * KIB;
};

/// A sliding window in every layer, and a compressed cache of one of two kinds in most; rows of 584 bytes in fp8.
static COMPRESSED: [Shape; 2] = [
    Shape { name: "DeepSeek-V4-Pro", layers: 61, planes: &compressed(61, 31, 30) },
    Shape { name: "DeepSeek-V4-Flash", layers: 43, planes: &compressed(43, 20, 21) },
];

const fn compressed(layers: u32, heavily: u32, sparsely: u32) -> [Plane; 4] {
    const ROW: u64 = 584;
    [
        Plane { name: "swa", block_bytes: ROW * 128, layers, max_blocks: Some(1) },
        Plane { name: "hca_compressed", block_bytes: ROW, layers: heavily, max_blocks: None },
        Plane { name: "csa_compressed", block_bytes: ROW * 32, layers: sparsely, max_blocks: None },
        Plane { name: "csa_indexer", block_bytes: 132 * 32, layers: sparsely, max_blocks: None },
    ]
}

/// All built-in shapes.
pub(crate) fn all() -> impl Iterator<Item = &'static Shape> {
    PLAIN.iter().chain(&COMPRESSED)
}

/// The shape of a model by its name, in any case.
pub(crate) fn find(name: &str) -> Result<&'static Shape, String> {
    all().find(|shape| shape.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names: Vec<&str> = all().map(|shape| shape.name).collect();
        format!("no shape for model {name}; there are {}", names.join(", "))
    })
}

impl Shape {
    /// Bytes of a prompt.
    pub(crate) fn prompt_bytes(&self, tokens: u32) -> u64 {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        self.planes
            .iter()
            .map(|plane| {
                let blocks = plane.max_blocks.map_or(blocks, |max| blocks.min(max));
                plane.block_bytes * u64::from(plane.layers) * u64::from(blocks)
            })
            .sum()
    }

    /// Parts of a cache of this model: one for each plane of each layer.
    pub(crate) fn parts(&self) -> u32 {
        self.planes.iter().map(|plane| plane.layers).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_default_prompt_of_the_default_model_is_255_mb() {
        let shape = find("deepseek-v2-lite").unwrap();
        assert_eq!(shape.parts(), 54);
        assert_eq!(shape.prompt_bytes(8192), 254_803_968);
    }

    #[test]
    fn a_sliding_window_keeps_its_size() {
        let shape = find("DeepSeek-V4-Pro").unwrap();
        let one = shape.prompt_bytes(128);
        let window = 61 * 584 * 128;
        assert_eq!(shape.prompt_bytes(256) - window, 2 * (one - window));
    }

    /// Runs where the project's data sits beside the repository; says so where it does not.
    #[test]
    fn shapes_are_those_of_the_data_file() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kv-models.json");
        let Ok(text) = std::fs::read_to_string(&file) else {
            let why = format!("{} is not there", file.display());
            ropeway_testkit::cannot_run("shapes_are_those_of_the_data_file", &why);
            return;
        };
        let models: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(models.len(), all().count());
        for model in models {
            let shape = find(model["model"].as_str().unwrap()).unwrap();
            assert_eq!(model["layers"], shape.layers, "{}", shape.name);
            assert_eq!(model["block_tokens"], BLOCK_TOKENS);
            let caches = model["caches_per_layer"].as_array().unwrap();
            assert_eq!(caches.len(), shape.planes.len());
            for (cache, plane) in caches.iter().zip(shape.planes) {
                assert_eq!(cache["name"], plane.name, "{}", shape.name);
                assert_eq!(cache["bytes_per_block"], plane.block_bytes, "{}", shape.name);
                let layers = cache.get("layers").and_then(|n| n.as_u64());
                assert_eq!(layers.unwrap_or(shape.layers.into()), u64::from(plane.layers));
                let max = cache.get("max_blocks").and_then(|n| n.as_u64());
                assert_eq!(max, plane.max_blocks.map(u64::from));
            }
        }
    }
}
