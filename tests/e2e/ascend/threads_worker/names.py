"""What a KV cache must hold, stated plainly: each byte has a value that its name gives, and a pull moves names.

The name of a byte: whose it is (a seed), layer, plane (K, V, latent, ...), block, token in the block, head of the model, byte of
the head. Nothing here knows of addresses, strides, ranks or runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy

_PRIMES = (0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Plane:
    """One tensor of each layer: how many heads the whole model has in it, and how many bytes of a token and head."""

    name: str
    heads: int
    width: int
    # Each rank has all heads of it.
    replicated: bool = False

    def heads_of(self, rank: int, ranks: int) -> range:
        """The heads that a rank holds."""
        if self.replicated:
            return range(self.heads)
        if ranks > self.heads:
            at = rank * self.heads // ranks
            return range(at, at + 1)
        each = self.heads // ranks
        return range(rank * each, (rank + 1) * each)


def values(seed: int, layer: int, plane: Plane, blocks: numpy.ndarray, tokens: numpy.ndarray, heads: range) -> numpy.ndarray:
    """Of each place (a block and a token in it, pairwise) the bytes [place, head, byte]."""
    key = (((seed * 1_000_003 + layer) * 1_000_003 + sum(plane.name.encode())) * _PRIMES[0]) & _WORD
    place = blocks.astype(numpy.uint64) * numpy.uint64(1 << 16) + tokens.astype(numpy.uint64)
    head = numpy.arange(heads.start, heads.stop, dtype=numpy.uint64)
    byte = numpy.arange(plane.width, dtype=numpy.uint64)
    at = (place[:, None, None] << numpy.uint64(24)) + (head[:, None] << numpy.uint64(16)) + byte
    at ^= numpy.uint64(key)
    for prime in _PRIMES[1:]:
        at ^= at >> numpy.uint64(33)
        at *= numpy.uint64(prime)
    return (at >> numpy.uint64(56)).astype(numpy.uint8)


def whole(seed: int, layer: int, plane: Plane, blocks: int, slots: int, heads: range) -> numpy.ndarray:
    """A cache as its instance fills it: [block, token, head, byte]."""
    block, token = numpy.divmod(numpy.arange(blocks * slots), slots)
    return values(seed, layer, plane, block, token, heads).reshape(blocks, slots, len(heads), plane.width)


@dataclass(frozen=True)
class Pull:
    """One request: its tokens [first, end) came from the producer's blocks into ours. Both lists begin with token 0."""

    request: str
    first: int
    end: int
    ours: list[int]
    theirs: list[int]
    their_slots: int
    their_seed: int


def wrong(held: numpy.ndarray, seed: int, layer: int, plane: Plane, heads: range, pulls: list[Pull]) -> tuple[int, list[str]]:
    """How many bytes were held against a pull, and what is wrong with a cache [block, token, head, byte] of ours."""
    blocks, slots = held.shape[:2]
    found, compared = [], 0
    untouched = numpy.ones((blocks, slots), dtype=bool)
    for pull in pulls:
        token = numpy.arange(pull.first, pull.end)
        block, slot = numpy.array(pull.ours)[token // slots], token % slots
        there = numpy.array(pull.theirs)[token // pull.their_slots]
        expected = values(pull.their_seed, layer, plane, there, token % pull.their_slots, heads)
        bad = (held[block, slot] != expected).any(axis=(1, 2))
        compared += expected.size
        if bad.any():
            at = int(numpy.argmax(bad))
            found.append(f"{pull.request}: layer {layer} {plane.name}: {int(bad.sum())} of {len(bad)} tokens differ, first "
                         f"token {pull.first + at} in block {int(block[at])}, from block {int(there[at])}")
        untouched[block, slot] = False
        # Blocks are sent whole: what is behind the last token of the last one is nobody's.
        untouched[block[-1], slot[-1] + 1:] = False
    bad = (held != whole(seed, layer, plane, blocks, slots, heads)).any(axis=(2, 3)) & untouched
    if bad.any():
        found.append(f"layer {layer} {plane.name}: {int(bad.sum())} tokens were written that no request owns, first in block "
                     f"{int(numpy.argmax(bad.any(axis=1)))}")
    return compared, found
