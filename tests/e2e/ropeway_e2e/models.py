"""Tiny models with random weights, the same for the same recipe. Runs inside a vLLM environment.

    python -m ropeway_e2e.models llama FOLDER
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

# Raised when the bytes that a recipe gives change: kept models are then made anew.
RECIPE = 1
# Weights this wide make a greedy answer depend on all of its context: one wrong block shows at the first token.
SPREAD = 0.12
# Gemma multiplies embeddings by the root of the width: as wide as the rest, they would only echo the last token,
# whatever the KV cache holds. For the same reason its answers are not read off the embeddings.
NARROW = {"gemma3": ("embed_tokens", SPREAD / 64)}

COMMON = {
    "vocab_size": 448, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "tie_word_embeddings": False,
}
HEADS = {"num_key_value_heads": 2, "head_dim": 64}
KINDS = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", COMMON | HEADS),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", COMMON | {"num_key_value_heads": 2}),
    # Two KV groups: full and sliding-window layers take turns, over the same storage.
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", COMMON | HEADS | {
        "query_pre_attn_scalar": 64, "sliding_window": 64,
        "layer_types": ["full_attention", "sliding_attention"] * 2}),
    # Layers with attention take turns with short convolutions, which keep a state instead of tokens.
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", COMMON | {
        "num_key_value_heads": 2, "conv_L_cache": 3, "conv_dim": 256, "block_dim": 256, "block_multiple_of": 1,
        "block_auto_adjust_ff_dim": False, "block_ffn_dim_multiplier": 1.0,
        "layer_types": ["conv", "full_attention"] * 2}),
    # Every layer dense: experts have no bearing on the KV cache.
    "mla": ("DeepseekV2Config", "DeepseekV2ForCausalLM", COMMON | {
        "num_key_value_heads": 4, "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "first_k_dense_replace": 4, "n_routed_experts": 2,
        "num_experts_per_tok": 1, "n_shared_experts": 1, "moe_intermediate_size": 128}),
}
TYPES = {"qwen2": "bfloat16"}
# They keep a state that cannot be taken back by a token: a decode instance computes the last token of a prompt by itself, so of
# one token it loads nothing.
RECURRENT = {"lfm2"}

SENTENCES = [
    "A lease keeps the blocks of a prompt until the last reader has let go of them.",
    "The prefill instance computes the keys and values once, and the decode instance pulls them over.",
    "Nothing may be written to a block while a transfer can still touch it.",
    "When a peer restarts, its incarnation changes, and stale addresses are refused by name.",
]


def folder_of(kind: str, cache: Path) -> Path:
    """Where a model is kept: a changed recipe gives another name."""
    recipe = json.dumps([RECIPE, SPREAD, NARROW.get(kind), KINDS[kind], TYPES.get(kind), SENTENCES], sort_keys=True)
    return cache / "models" / f"tiny-{kind}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def data_type(kind: str) -> str:
    return TYPES.get(kind, "float32")


def token_bytes(kind: str) -> int | None:
    """What the keys and values of a token take in all layers; None where layers differ in what they hold."""
    values = KINDS[kind][2]
    if kind not in ("llama", "qwen2"):
        return None
    width = values.get("head_dim", values["hidden_size"] // values["num_attention_heads"])
    size = 2 if data_type(kind) == "bfloat16" else 4
    return 2 * values["num_hidden_layers"] * values["num_key_value_heads"] * width * size


def is_whole(folder: Path) -> bool:
    """Whether a kept model was finished: the folder is renamed into place when it is."""
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def make(kind: str, folder: Path) -> None:
    """Makes a model and its tokenizer, beside the folder first, so that a kept one is never half there."""
    draft = folder.with_name(f"{folder.name}.draft-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    weights(kind, draft)
    tokenizer(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def weights(kind: str, folder: Path) -> None:
    import torch
    import transformers

    config_name, model_name, values = KINDS[kind]
    config = getattr(transformers, config_name)(**values)
    config.architectures = [model_name]
    model = getattr(transformers, model_name)(config).to(getattr(torch, data_type(kind)))
    narrow, narrow_spread = NARROW.get(kind, (None, SPREAD))
    # One generator for each name: the order of construction, which changes between versions, does not matter.
    for name, parameter in model.named_parameters():
        if "norm" in name:
            continue
        seed = int.from_bytes(hashlib.sha256(f"{kind} {name}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        noise *= narrow_spread if narrow and narrow in name else SPREAD
        parameter.data.copy_(noise.to(parameter.dtype))
    model.save_pretrained(folder)


def tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer, trained here and now on a few sentences."""
    import tokenizers
    import transformers

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=COMMON["vocab_size"], special_tokens=special, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(SENTENCES, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
    fast.chat_template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    fast.save_pretrained(folder)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
