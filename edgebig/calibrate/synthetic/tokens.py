"""Tokens: made texts, where none are at hand: by the law of word frequencies, or by the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebig.calibrate.synthetic.kinds import Taken
from edgebig.graph import Executor, Graph

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]

_MEDIAN, _SPREAD, _SHORTEST = 16, 0.8, 3
_GREEDY = 3
_TOGETHER = 8
_LOGITS = "logits"

LENGTHS = f"lengths log-normal around {_MEDIAN} tokens"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's ordinary tokens.

    Attributes:
        ids: those that stand for text, the most frequent first; special tokens are not among them.
        decode: the text of a sequence of ids.
        encode: the model's own sample of a text, special tokens in place.
        prefix: special tokens that the tokenizer puts before a text.
    """

    ids: Sequence[int]
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[str], Sample]
    prefix: Sequence[int] = ()

    def sample(self, random: np.random.Generator, length: int) -> Sample:
        """The model's sample of a made text of about ``length`` tokens."""
        ranks = zipf(random, len(self.ids), length)
        return self.encode(self.decode([self.ids[int(rank)] for rank in ranks]))


def zipf(random: np.random.Generator, rows: int, count: int) -> Array:
    """Ranks by Zipf's law (Zipf, 1949): rank r is drawn with a probability that is proportional to 1 / (r + 1).

    Args:
        random: where they are drawn from.
        rows: ranks lie from 0 to ``rows - 1``.
        count: how many to draw.

    Returns:
        int64 ``[count]``.
    """
    shares = np.cumsum(1.0 / np.arange(1, rows + 1))
    return np.asarray(np.searchsorted(shares, random.random(count) * shares[-1], side="right"), np.int64)


def text_length(random: np.random.Generator, longest: int) -> int:
    """A number of tokens, log-normal and at most ``longest``."""
    drawn = round(_MEDIAN * float(np.exp(random.normal(0, _SPREAD))))
    return int(np.clip(drawn, min(_SHORTEST, longest), longest))


def token_sample(taken: Sequence[Taken], ids: Array, past: int = 0) -> Sample:
    """What the inputs of a text model take for these tokens.

    Args:
        taken: the inputs; those of other kinds are passed over.
        ids: int64 ``[batch, tokens]``.
        past: number of tokens that the cache holds, which masks and positions count.
    """
    batch, count = ids.shape
    sample: Sample = {}
    for item in taken:
        spec = item.spec
        if item.kind == "tokens":
            sample[spec.name] = np.minimum(ids, item.rows - 1).astype(spec.dtype)
        elif item.kind == "mask":
            sample[spec.name] = np.ones((batch, past + count), spec.dtype)
        elif item.kind == "positions":
            sample[spec.name] = np.broadcast_to(np.arange(past, past + count), (batch, count)).astype(spec.dtype)
        elif item.kind == "segments":
            sample[spec.name] = np.zeros((batch, count), spec.dtype)
        elif item.kind == "cache":
            # the batch axis comes first or is named so, and what is open beside it is the cache's length
            sizes = [d if isinstance(d, int) else batch if _is_batch(i, d) else 0 for i, d in enumerate(spec.shape)]
            sample[spec.name] = np.zeros(sizes, spec.dtype)
    return sample


def can_generate(graph: Graph, taken: Sequence[Taken]) -> bool:
    """Whether a graph continues a text: it takes a cache, gives it back, and gives logits."""
    caches = _caches(graph, taken)
    return bool(caches) and _LOGITS in [s.name for s in graph.outputs] and all(caches.values())


def generate(
    graph: Graph,
    taken: Sequence[Taken],
    prompts: Callable[[np.random.Generator], Array],
    lengths: Sequence[int],
    seed: int,
    tick: Callable[[int], None] | None,
) -> list[Array]:
    """Texts that the model itself writes, as ids.

    From a random first token the likeliest tokens follow, then tokens drawn by the model's own
    probabilities (Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language
    Models", 2023).

    Args:
        graph: a decoder with an empty cache to begin with.
        taken: its inputs.
        prompts: ids that a text begins with, int64 ``[tokens]``; always as many.
        lengths: tokens of each text, those of its prompt included.
        seed: of all draws.
        tick: called with the number of texts written so far.
    """
    caches = _caches(graph, taken)
    (tokens,) = [t for t in taken if t.kind == "tokens"]
    together = 1 if isinstance(tokens.spec.shape[0], int) else _TOGETHER
    written: list[Array] = []
    with Executor(graph, "all") as executor:
        for first in range(0, len(lengths), together):
            wanted = lengths[first : first + together]
            random = np.random.default_rng([seed, first])
            begun = np.stack([prompts(random) for _ in wanted])
            ids = _continued(executor, taken, caches, begun, max(wanted), random)
            written += [row[:length] for row, length in zip(ids, wanted, strict=True)]
            if tick is not None:
                tick(len(written))
    return written


def _continued(
    executor: Executor,
    taken: Sequence[Taken],
    caches: Mapping[str, str],
    ids: Array,
    length: int,
    random: np.random.Generator,
) -> Array:
    """The ids with more of them behind, int64 ``[batch, length]``."""
    begun, past = ids.shape[1], 0
    state: Sample = {}
    while ids.shape[1] < length:
        feeds = {**token_sample(taken, ids[:, past:], past), **state}
        answers = executor.run(feeds, [_LOGITS, *caches.values()])
        past = ids.shape[1]
        state = {name: answers[given] for name, given in caches.items()}
        logits = answers[_LOGITS][:, -1].astype(np.float64)
        greedy = past < begun + _GREEDY
        # the largest of logits with Gumbel noise is a draw by their softmax
        following = (logits if greedy else logits + random.gumbel(size=logits.shape)).argmax(axis=-1)
        ids = np.concatenate([ids, following[:, None]], axis=1)
    return ids


def _caches(graph: Graph, taken: Sequence[Taken]) -> dict[str, str]:
    """For each cache input the output that continues it, an empty name where there is none."""
    outputs = {s.name for s in graph.outputs}
    found = {}
    for item in taken:
        if item.kind == "cache":
            rest = item.spec.name.removeprefix("past_key_values")
            names = (f"present{rest}", f"present_key_values{rest}")
            found[item.spec.name] = next((n for n in names if n in outputs), "")
    return found


def _is_batch(axis: int, dim: str | int | None) -> bool:
    return axis == 0 or "batch" in str(dim)
