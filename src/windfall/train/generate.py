"""Text from a model: what a user looks at first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from windfall.errors import ConfigError
from windfall.train.model import GPT, KeyValueCache
from windfall.train.precision import Precision, autocast


class TextTokenizer(Protocol):
    """What text generation asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        ...

    @property
    def bos_id(self) -> int:
        """The token that separates documents."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no separator."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Text of `tokens`."""
        ...


class HasTokenizer(Protocol):
    """A manifest, or whatever else holds a tokenizer."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the model was trained with."""
        ...


@torch.no_grad()
def generate(
    model: GPT,
    manifest: HasTokenizer,
    prompt: str,
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    *,
    cached: bool = True,
    precision: Precision = "fp32",
    alive: Callable[[], None] = lambda: None,
) -> str:
    """Continue `prompt` by up to `max_tokens` tokens and return the continuation alone.

    temperature 0 takes the likeliest token; top_k None or 0 draws from all. Stops at a document's end. Bytes that are
    not UTF-8 come out as U+FFFD. Equal arguments give equal text on one machine. Raises ConfigError for numbers below 0,
    or a model of another vocabulary.

    The model sees all tokens so far while they fit into `sequence_length`; when they no longer do, the older half of what
    it sees is dropped, so that at least the last sequence_length / 2 tokens are always in view. Dropping half at once keeps
    the cost of a token constant on average: positions start anew, so keys and values must be computed anew. `cached=False`
    computes every token from its whole context instead, for tests: the same text, each token at the price of all.
    `alive` is called before each token, for whoever waits for a sign of life.
    """
    if max_tokens < 0 or (top_k or 0) < 0 or not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"generate: max_tokens {max_tokens}, temperature {temperature}, top_k {top_k}; give numbers from 0 on")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"generate: seed {seed}; give a whole number from 0 to 2^63 - 1")
    tokenizer = manifest.tokenizer
    if model.config.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"generate: the model has {model.config.vocab_size} tokens, the data's tokenizer {tokenizer.vocab_size};"
            " use the manifest that the model was trained with"
        )
    # Random numbers come from the CPU, so that the seed has the same meaning on every device.
    generator = torch.Generator().manual_seed(seed)
    tokens = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    start = len(tokens)
    following = _Following(model, tokens, cached, precision)
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_tokens):
            alive()
            token = _draw(following.logits(), temperature, top_k, generator)
            if token == tokenizer.bos_id:
                break
            following.add(token)
    finally:
        model.train(was_training)
    return tokenizer.decode(tokens[start:])


class _Following:
    """The logits of what follows a growing list of tokens."""

    def __init__(self, model: GPT, tokens: list[int], cached: bool, precision: Precision) -> None:
        self._model, self._tokens, self._precision = model, tokens, precision
        self._device = model.embedding.weight.device
        self._first = max(0, len(tokens) - model.config.sequence_length)
        self._cache = KeyValueCache(model.config) if cached else None

    def add(self, token: int) -> None:
        """Add a token. If the context is full its older half is dropped."""
        if len(self._tokens) - self._first == self._model.config.sequence_length:
            self._first += (self._model.config.sequence_length + 1) // 2
            if self._cache is not None:
                self._cache.length = 0
        self._tokens.append(token)

    def logits(self) -> torch.Tensor:
        """Logits [vocab_size] on the CPU."""
        known = self._cache.length if self._cache is not None else 0
        new = torch.tensor([self._tokens[self._first + known :]], device=self._device)
        with autocast(self._device, self._precision):
            last = self._model.hidden(new, self._cache)[0, -1]
            return self._model.project(last).cpu()


def _draw(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """One token from logits [V]."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k and top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    # In float64 and shifted first: a tiny temperature must not overflow.
    scaled = (logits.double() - logits.max()) / temperature
    return int(torch.multinomial(scaled.softmax(-1), 1, generator=generator))
