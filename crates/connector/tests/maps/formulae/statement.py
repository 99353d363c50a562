"""What vllm-ascend's pull connector copies, by its address formulae alone: `python3 statement.py` prints the cases as JSON.

Caches of a layer are a tuple of tensors [block, token, head, dim]: K and V, or latent and rope of one head that every rank has
whole. With `base` and `stride` of a tensor in bytes, and `length` the bytes of a block:

    split  = heads of a consumer's tensor / heads of a producer's             (1 for what every rank has)
    inner  = length of the consumer's block / split
    to     = base + block * stride + offset * inner                           of the consumer
    from   = base + block * stride                                            of the producer

`inner` bytes from each of `split` producers, whose place among them is `offset`. A consumer's block then holds
[split, token, head, dim], and is put in order: [token, split, head, dim].

Here nothing knows of the Rust code, and the Rust test knows only the cases: it asks where the maps take each byte from.
"""

import json
import random


def tensor(rank_heads: int, case: dict, dim: int, base: int, pad: int) -> dict:
    """One tensor of a rank: its place, its strides, its length of a block."""
    length = case["tokens"] * rank_heads * dim * case["element"]
    return {"base": base, "stride": length + pad, "length": length, "heads": rank_heads, "dim": dim}


def instance(case: dict, tp: int, pad: int, gap: int) -> list[list[dict]]:
    """Tensors of a rank, [layer][cache]; all ranks of an instance are alike."""
    base, layers = gap, []
    for _ in range(case["layers"]):
        caches = []
        for heads, dim in case["caches"]:
            caches.append(tensor(heads // tp if case["split"] else heads, case, dim, base, pad))
            base += caches[-1]["stride"] * case["blocks"] + gap
        layers.append(caches)
    return layers


def moves(case: dict) -> list[list[list[int]]]:
    """For each rank of the consumer: [to, rank of the producer or -1 for any, from, bytes]."""
    found = []
    for rank in range(case["consumer_tp"]):
        copies = []
        for ours, theirs in zip(case["consumer"], case["producer"], strict=True):
            for our, their in zip(ours, theirs, strict=True):
                split = our["heads"] // their["heads"]
                inner = our["length"] // split
                for local, remote in zip(case["consumer_ids"], case["producer_ids"], strict=True):
                    for offset in range(split):
                        source = rank * split + offset if case["split"] else -1
                        landed = our["base"] + local * our["stride"] + offset * inner
                        copies += ordered(case, our, landed, offset, split, source, their["base"] + remote * their["stride"])
        found.append(copies)
    return found


def ordered(case: dict, our: dict, landed: int, offset: int, split: int, source: int, start: int) -> list[list[int]]:
    """A landed piece of a block, once its block is in order: token by token, as each has a place of its own then."""
    row = our["length"] // split // case["tokens"]
    block = landed - offset * row * case["tokens"]
    if split == 1:
        return [[block, source, start, our["length"]]]
    return [[block + (token * split + offset) * row, source, start + token * row, row] for token in range(case["tokens"])]


def case(name: str, caches: list[tuple[int, int]], producer_tp: int, consumer_tp: int, **more: object) -> dict:
    made = {"name": name, "caches": caches, "split": True, "element": 2, "tokens": 4, "layers": 2, "blocks": 9, "pad": 0,
            "producer_tp": producer_tp, "consumer_tp": consumer_tp} | more
    pick = random.Random(name)
    # Some neighbours, so that runs of blocks occur, and some not; block 0 is nobody's.
    made["producer_ids"] = [3, 4, 5, *pick.sample([1, 2, 7], 2)]
    made["consumer_ids"] = [6, 7, *pick.sample([1, 2, 4], 3)]
    made["producer"] = instance(made, producer_tp, made["pad"], 64)
    made["consumer"] = instance(made, consumer_tp, 0, 128)
    made["moves"] = moves(made)
    return made


CASES = [
    case("gqa equal", [(4, 8), (4, 8)], 2, 2),
    case("gqa two to one", [(4, 8), (4, 8)], 2, 1),
    case("gqa four to two", [(8, 8), (8, 8)], 4, 2),
    case("gqa four to one", [(4, 8), (4, 8)], 4, 1),
    case("gqa eight to two of one byte", [(16, 16), (16, 16)], 8, 2, element=1),
    case("k and v of unlike size", [(4, 24), (4, 16)], 2, 1),
    case("padded pages", [(4, 8), (4, 8)], 2, 1, pad=32),
    case("latent and rope, equal", [(1, 64), (1, 8)], 2, 2, split=False),
    case("latent and rope, two to one", [(1, 64), (1, 8)], 2, 1, split=False),
    case("latent, rope, indexer", [(1, 64), (1, 8), (1, 16)], 4, 2, split=False),
]

if __name__ == "__main__":
    print("[" + ",\n".join(json.dumps(one, separators=(",", ":")) for one in CASES) + "]")
