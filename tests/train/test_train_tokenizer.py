"""Tokenizers: training twice gives the same bytes, everything comes back from its tokens, and files that are no good."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windfall.errors import ConfigError, DataError
from windfall.train.bpe import train_bpe
from windfall.train.corpus import open_corpus
from windfall.train.tokenizer import BOS, SPECIALS, BPETokenizer, ByteTokenizer, Tokenizer, load_tokenizer

VOCABULARY = 300


def trained(folder: Path) -> BPETokenizer:
    return train_bpe(open_corpus(folder), VOCABULARY)


@pytest.fixture(scope="module")
def bpe(text_folder: Path) -> BPETokenizer:
    return trained(text_folder)


def test_a_vocabulary_holds_all_bytes_then_merges_then_specials(bpe: BPETokenizer) -> None:
    assert bpe.vocab_size == VOCABULARY
    assert {token for token in bpe.tokens if len(token) == 1} == {bytes([i]) for i in range(256)}
    assert bpe.bos_id == VOCABULARY - len(SPECIALS)
    assert len(bpe.encode("the wind")) < len("the wind")


def test_training_twice_gives_the_same_bytes_in_a_file_and_the_file_gives_the_tokenizer_back(
    bpe: BPETokenizer, text_folder: Path, tmp_path: Path
) -> None:
    bpe.save(tmp_path / "a.json")
    trained(text_folder).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    again = load_tokenizer(tmp_path / "a.json")
    assert again == bpe
    assert again.facts() == bpe.facts()
    assert again.encode("größe of the wind") == bpe.encode("größe of the wind")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@settings(max_examples=60)
@given(text=st.text())
def test_any_text_comes_back_from_its_tokens_and_they_count_its_bytes(kind: str, bpe: BPETokenizer, text: str) -> None:
    tokenizer: Tokenizer = ByteTokenizer() if kind == "bytes" else bpe
    tokens = tokenizer.encode(text)
    document = text.encode("utf-8", errors="replace")
    assert tokenizer.decode(tokens) == document.decode()
    assert int(tokenizer.token_bytes()[tokens].sum()) == len(document)
    assert tokenizer.encode_document(document).tolist() == tokens
    assert all(token < tokenizer.vocab_size for token in tokens)


def test_specials_are_no_text_and_text_that_spells_one_is_no_special(bpe: BPETokenizer) -> None:
    specials = range(bpe.vocab_size - len(SPECIALS), bpe.vocab_size)
    assert bpe.decode([*specials, *bpe.encode("x")]) == "x"
    assert not set(bpe.encode(f"a{BOS}b")) & set(specials)
    assert bpe.decode(bpe.encode(f"a{BOS}b")) == f"a{BOS}b"
    assert bpe.token_bytes()[list(specials)].tolist() == [0] * len(SPECIALS)


def test_half_a_character_counts_its_own_bytes(bpe: BPETokenizer) -> None:
    half = bpe.tokens.index("ß".encode()[:1])
    assert bpe.token_bytes()[half] == 1
    assert bpe.decode([half]) == "\N{REPLACEMENT CHARACTER}"


def test_a_million_blanks_are_encoded_although_the_pattern_cannot_take_them_at_once(bpe: BPETokenizer) -> None:
    document = b" " * 1_000_000 + b"x"
    tokens = bpe.encode_document(document)
    assert b"".join(bpe.tokens[token] for token in tokens) == document


def test_a_text_with_few_pairs_gives_a_smaller_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abab")
    assert train_bpe(open_corpus(tmp_path / "a.txt"), 5_000).vocab_size == 256 + 2 + len(SPECIALS)


def test_the_sample_is_bounded_spread_and_without_what_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("windfall.train.corpus.UNIT_BYTES", 100)
    text = "".join(json.dumps({"text": f"{i:02d} {'word' if i % 2 else 'held'} " * 2}) + "\n" for i in range(100))
    (tmp_path / "a.jsonl").write_text(text)
    corpus = open_corpus(tmp_path / "a.jsonl")
    seen: list[bytes] = []

    def keep(document: bytes) -> bool:
        seen.append(document)
        return b"held" not in document

    tokenizer = train_bpe(corpus, 300, sample_bytes=1_000, keep=keep)
    assert 10 < len(seen) < 40
    assert seen[0].startswith(b"0")
    assert seen[-1].startswith(b"9")
    assert b" word" in tokenizer.tokens
    assert not any(b"held" in token for token in tokenizer.tokens)


def test_training_on_nothing_or_for_too_small_a_vocabulary_is_refused(text_folder: Path) -> None:
    with pytest.raises(ConfigError, match="vocabulary of 100 is too small; give at least 265"):
        train_bpe(open_corpus(text_folder), 100)
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_bpe(open_corpus(text_folder), 400, keep=lambda document: False)


def test_a_file_that_is_no_tokenizer_is_refused_with_what_is_wrong(bpe: BPETokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        load_tokenizer(tmp_path)
    good = json.loads(bpe.to_json())
    space = base64.b64encode(b" ").decode()
    broken: list[tuple[str, str]] = [
        ("{", "not JSON"),
        ("[]", "not a Windfall tokenizer"),
        (json.dumps({"added_tokens": [], "model": {}}), "one of Hugging Face's"),
        (json.dumps({**good, "version": 9}), "not a Windfall tokenizer of version"),
        (json.dumps({**good, "tokens": ["é"]}), "missing or malformed"),
        (json.dumps({**good, "tokens": 3}), "missing or malformed"),
        (json.dumps({key: value for key, value in good.items() if key != "pattern"}), "missing or malformed"),
        (json.dumps({**good, "tokens": [*good["tokens"], space]}), "a token is there twice"),
        (json.dumps({**good, "tokens": [*good["tokens"], ""]}), "a token is empty"),
        (json.dumps({**good, "tokens": [each for each in good["tokens"] if each != space]}), "1 of the 256 single bytes"),
        (json.dumps({**good, "specials": ["<|x|>"]}), "is missing"),
    ]
    for text, message in broken:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_tokenizer(path)
    path.write_text(json.dumps({**good, "pattern": "("}))
    with pytest.raises(DataError, match="no regular expression"):
        load_tokenizer(path).encode("x")


def test_nothing_of_a_documents_tokens_depends_on_its_neighbours(bpe: BPETokenizer) -> None:
    assert np.array_equal(bpe.encode_document(b"the sun"), np.array(bpe.encode("the sun")))
    assert bpe.encode_document(b"").tolist() == []
