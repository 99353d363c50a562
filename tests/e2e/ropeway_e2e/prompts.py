"""The prompts of a proof: short ones, ones at the edges of blocks, long ones, ones that share a prefix."""

import random
from dataclasses import dataclass

BLOCK = 32
MODEL_LENGTH = 1024
ANSWER = 24
# Ids below are special tokens; all models here have at least this many.
FIRST_TOKEN, VOCABULARY = 4, 448


@dataclass(frozen=True)
class Prompt:
    """A prompt by name. One with `after` continues that prompt and its answer: a second turn."""

    name: str
    tokens: tuple[int, ...]
    after: str | None = None


def tokens(name: str, count: int) -> tuple[int, ...]:
    """So many tokens, always the same for a name."""
    chance = random.Random(f"ropeway {name}")
    return tuple(chance.randrange(FIRST_TOKEN, VOCABULARY) for _ in range(count))


def of(name: str, count: int) -> Prompt:
    return Prompt(name, tokens(name, count))


def suite(block: int = BLOCK) -> list[Prompt]:
    """All prompts, in an order in which those that share a prefix meet it cold, then cached."""
    shared = tokens("shared", 3 * block)
    longest = MODEL_LENGTH - ANSWER - 2
    return [
        of("one", 1),
        of("two", 2),
        of("short", 5),
        of("block-1", block - 1),
        of("block", block),
        of("block+1", block + 1),
        of("4 blocks", 4 * block),
        of("4 blocks+1", 4 * block + 1),
        Prompt("shared a", shared + tokens("a", 1)),
        Prompt("shared b", shared + tokens("b", block)),
        Prompt("shared c", shared + tokens("c", block + 9)),
        of("some", 300),
        of("half", 500),
        of("longest", longest),
        Prompt("second turn", tokens("turn", 40), after="some"),
    ]


def timed(count: int) -> list[Prompt]:
    """Long prompts that nothing else uses, for times: each is cold once."""
    return [of(f"timed {index}", MODEL_LENGTH - ANSWER - 2) for index in range(count)]


def resolve(prompt: Prompt, answers: dict[str, list[int]]) -> list[int]:
    """The ids to send, with the earlier turn in front where there is one."""
    if prompt.after is None:
        return list(prompt.tokens)
    earlier = next(one for one in suite() if one.name == prompt.after)
    return list(earlier.tokens) + answers[prompt.after] + list(prompt.tokens)
