"""Tokenizers: one that takes each byte for a token, and byte pair encoding; both are plain JSON on disk.

A manifest identifies a tokenizer by its `facts`, so sites that agree on a manifest's hash agree on every token. Each token stands
for a known number of bytes, which makes the losses of different tokenizers comparable (`windfall.train.evaluate`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from windfall.errors import DataError
from windfall.inputs import read_bytes
from windfall.store.files import write_atomic

if TYPE_CHECKING:
    from tiktoken import Encoding

TOKENIZER_NAME = "tokenizer.json"
BOS = "<|bos|>"
#: nanochat's special tokens in its order, so that its checkpoints keep their meaning. Pretraining uses only the first.
SPECIALS = (
    BOS, "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
)  # fmt: skip
#: The pattern that cuts text before pairs are merged: GPT-4's published one with numbers of up to two digits, as in the recipe.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_FORMAT = "windfall-tokenizer"
#: No tokenizer, and no JSON beside weights, is larger.
TOKENIZER_BYTES = 1 << 30
_VERSION = 1
#: The pattern's look-ahead overflows the regular expression's stack on white space of some hundred thousand characters. A text
#: on which it does is encoded in pieces of this many.
_PIECE_CHARACTERS = 50_000


class Tokenizer(Protocol):
    """Text to token ids and back. Ids lie in 0 … vocab_size - 1; `bos_id` stands before each document."""

    @property
    def kind(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no separator. Text that spells a special token is text. Lone surrogates become "?"."""
        ...

    def encode_document(self, document: bytes) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Token ids of UTF-8 text, no separator, [n]."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Text of `tokens`; special tokens vanish, bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of text that each token stands for, [vocab_size]; 0 for special tokens."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a manifest records: plain values that name this tokenizer and no other."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """One token per byte, and one that separates documents."""

    kind: str = "bytes"
    vocab_size: int = 257
    bos_id: int = 256

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes of `text` as token ids, no separator. Lone surrogates become "?"."""
        return list(text.encode("utf-8", errors="replace"))

    def encode_document(self, document: bytes) -> npt.NDArray[np.uint8]:
        """The bytes themselves, [n]."""
        return np.frombuffer(document, dtype=np.uint8)

    def decode(self, tokens: list[int]) -> str:
        """Text of `tokens`; separators vanish, invalid UTF-8 becomes U+FFFD."""
        return bytes(token for token in tokens if token < self.bos_id).decode("utf-8", errors="replace")

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """1 for each byte, 0 for the separator, [257]."""
        counts = np.ones(self.vocab_size, dtype=np.int64)
        counts[self.bos_id] = 0
        return counts

    def facts(self) -> dict[str, Any]:
        """Kind, vocabulary and separator."""
        return asdict(self)


@dataclass(frozen=True)
class BPETokenizer:
    """Byte pair encoding: `tokens` are byte strings by id, in the order in which pairs were merged; `specials` follow them.

    `pattern` cuts text into what pairs are merged within. All 256 single bytes are among the tokens, so every text
    can be encoded.
    """

    tokens: tuple[bytes, ...] = field(repr=False)
    pattern: str = PATTERN
    specials: tuple[str, ...] = SPECIALS

    @property
    def kind(self) -> str:
        """ "bpe"."""
        return "bpe"

    @property
    def vocab_size(self) -> int:
        """Tokens and specials."""
        return len(self.tokens) + len(self.specials)

    @property
    def bos_id(self) -> int:
        """Id of the special that stands before each document."""
        return len(self.tokens) + self.specials.index(BOS)

    @cached_property
    def _encoding(self) -> Encoding:
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        specials = {name: len(self.tokens) + i for i, name in enumerate(self.specials)}
        try:
            return tiktoken.Encoding("windfall", pat_str=self.pattern, mergeable_ranks=ranks, special_tokens=specials)
        except ValueError as error:
            raise DataError(f"tokenizer: its pattern is no regular expression ({error}); train it again") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no separator. Lone surrogates become "?"."""
        return [int(token) for token in self.encode_document(text.encode("utf-8", errors="replace"))]

    def encode_document(self, document: bytes) -> npt.NDArray[np.uint32]:
        """Token ids of UTF-8 text, [n]. Raises UnicodeDecodeError where it is none."""
        text = document.decode("utf-8")
        try:
            return self._encode(text)
        except ValueError:
            pieces = range(0, len(text), _PIECE_CHARACTERS)
            return np.concatenate([self._encode(text[at : at + _PIECE_CHARACTERS]) for at in pieces])

    def _encode(self, text: str) -> npt.NDArray[np.uint32]:
        # Not `encode_ordinary`: a list of Python integers costs a third of the time.
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, tokens: list[int]) -> str:
        """Text of `tokens`; specials vanish, invalid UTF-8 becomes U+FFFD."""
        return b"".join(self.tokens[token] for token in tokens if token < len(self.tokens)).decode("utf-8", errors="replace")

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Length of each token, 0 for specials, [vocab_size].

        Of the bytes themselves: decoded by itself, half a character would count as the three bytes of U+FFFD.
        """
        return np.array([*(len(token) for token in self.tokens), *(0 for _ in self.specials)], dtype=np.int64)

    def facts(self) -> dict[str, Any]:
        """Kind, vocabulary, separator, and the file's name and checksum."""
        return {
            "kind": self.kind, "vocab_size": self.vocab_size, "bos_id": self.bos_id, "file": TOKENIZER_NAME, "sha256": self.sha256,
        }  # fmt: skip

    @cached_property
    def sha256(self) -> str:
        """Hex digest of `to_json`."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The whole tokenizer; equal tokenizers give equal bytes."""
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "pattern": self.pattern,
            "specials": self.specials,
            "tokens": [base64.b64encode(token).decode() for token in self.tokens],
        }
        return (json.dumps(document, indent=0) + "\n").encode()

    def save(self, path: Path) -> None:
        """Write the file so that it is there whole or not at all."""
        write_atomic(path, [self.to_json()])


def load_tokenizer(path: str | Path) -> BPETokenizer:
    """The tokenizer in a file, or in the tokenizer.json of a prepared folder.

    Raises DataError where it is missing, unreadable, or not a tokenizer of ours.
    """
    path = Path(path)
    if path.is_dir():
        path = path / TOKENIZER_NAME
    try:
        document = json.loads(read_bytes(path, TOKENIZER_BYTES))
    except OSError as error:
        raise DataError(f"{path}: the tokenizer cannot be read ({error.strerror}); name a tokenizer.json") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); name a tokenizer.json that `windfall data prepare` wrote") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT or document.get("version") != _VERSION:
        other = " (it is one of Hugging Face's tokenizers)" if isinstance(document, dict) and "added_tokens" in document else ""
        raise DataError(f"{path}: not a Windfall tokenizer of version {_VERSION}{other}; train one with --tokenizer bpe")
    try:
        tokens = tuple(base64.b64decode(token, validate=True) for token in document["tokens"])
        tokenizer = BPETokenizer(tokens, str(document["pattern"]), tuple(str(name) for name in document["specials"]))
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise DataError(f"{path}: a field is missing or malformed ({error}); copy the tokenizer again") from error
    problem = _problem(tokens, tokenizer.specials)
    if problem:
        raise DataError(f"{path}: {problem}; copy the tokenizer again")
    return tokenizer


def _problem(tokens: Sequence[bytes], specials: Sequence[str]) -> str:
    """What makes a tokenizer unusable, or an empty string."""
    if len(set(tokens)) != len(tokens) or len(set(specials)) != len(specials):
        return "a token is there twice"
    if any(not token for token in tokens):
        return "a token is empty"
    lacking = 256 - sum(len(token) == 1 for token in tokens)
    if lacking:
        return f"{lacking} of the 256 single bytes are no tokens"
    if BOS not in specials:
        return f"the special token {BOS} is missing"
    return ""
