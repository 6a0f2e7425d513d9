"""`windfall data prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from windfall.cli.output import Line, print_json, require_writable, say
from windfall.errors import ConfigError, DataError

if TYPE_CHECKING:
    from windfall.train.manifest import Manifest

#: Past this share of the text lost to crops, best-fit packing is the wrong choice, and is told so.
MUCH_CROPPED = 0.5
#: So large a share held out, and more than twice of what was asked, is told.
MUCH_HELD_OUT = 0.15
_STAGES = {
    "look": "looking through the files", "tokenizer": "reading a sample for the tokenizer", "encode": "encoding",
    "write": "writing shards",
}  # fmt: skip


def prepare(
    source: str, out: Path, sequence_length: int, held_out_fraction: float, seed: int, as_json: bool,
    tokenizer: str = "bytes", vocab_size: int | None = None, packing: str = "stream", workers: int | None = None,
    shard_tokens: int | None = None, text_column: str = "text", replace: bool = False, skip_bad_rows: bool = False,
) -> None:  # fmt: skip
    """Tokenise ``source`` into ``out``.

    Raises:
        SystemExit: 130, interrupted; what is done is kept, and that is said.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder")
    from windfall.train.packing import PACKINGS
    from windfall.train.prepare import DEFAULT_SHARD_TOKENS, finished_pieces
    from windfall.train.prepare import prepare as tokenise

    way = next((each for each in PACKINGS if each == packing), None)
    if way is None:
        raise ConfigError(f"--packing {packing}: choose from {', '.join(PACKINGS)}")
    require_writable(folders=[out])
    line = Line()
    told: list[str] = []

    def tell(sentence: str) -> None:
        line.end()
        told.append(sentence)
        say(sentence)

    try:
        manifest = tokenise(
            source, out, sequence_length=sequence_length, held_out_fraction=held_out_fraction, seed=seed,
            shard_tokens=shard_tokens or DEFAULT_SHARD_TOKENS, progress=lambda *at: line.show(_words(*at)),
            tokenizer=tokenizer, vocab_size=vocab_size, packing=way, workers=workers, text_column=text_column,
            skip_bad_rows=skip_bad_rows, replace=replace, tell=tell,
        )  # fmt: skip
    except KeyboardInterrupt:
        line.end()
        say(f"interrupted; {finished_pieces(out)} finished pieces are kept in {out}: run the same command again to go on")
        raise SystemExit(130) from None
    finally:
        line.end()
    _tell(out, manifest, told, as_json)
    _warn(manifest, held_out_fraction, vocab_size)


def _tell(out: Path, manifest: Manifest, told: list[str], as_json: bool) -> None:
    from windfall.train.sources import printable

    facts = {
        "dir": printable(str(out)), "hash": manifest.hash, "source": printable(manifest.source),
        "train_sequences": manifest.train_sequences,
        "val_sequences": manifest.val_sequences, "train_bytes": manifest.train_bytes, "val_bytes": manifest.val_bytes,
        "tokenizer": manifest.tokenizer.kind, "vocab_size": manifest.tokenizer.vocab_size, "dtype": manifest.dtype,
        "tokens": manifest.tokens, "packing": manifest.packing, "documents": manifest.documents,
        "empty_documents": manifest.empty_documents, "cropped_documents": manifest.cropped_documents,
        "cropped_tokens": manifest.cropped_tokens, "dropped_tokens": manifest.dropped_tokens,
        "told": [*map(printable, told)],
    }  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        print(
            f"{printable(str(out))}: {manifest.train_sequences:,} sequences to train on ({manifest.train_bytes / 1e6:.1f} MB), "
            f"{manifest.val_sequences:,} held out ({manifest.val_bytes / 1e6:.2f} MB); manifest {manifest.hash[:12]}"
        )
        if manifest.tokenizer.kind != "bytes":
            size = (manifest.train_bytes + manifest.val_bytes) / max(1, manifest.tokens)
            print(f"{manifest.tokenizer.vocab_size:,} tokens in the vocabulary, {size:.2f} bytes of text each on average")
        if manifest.cropped_tokens:
            share = _cropped(manifest)
            print(f"{manifest.cropped_documents:,} of {manifest.documents:,} documents cropped, {share:.1%} of all tokens")


def _warn(manifest: Manifest, held_out_fraction: float, vocab_size: int | None) -> None:
    """What came out otherwise than the user is likely to have wanted."""
    cropped = _cropped(manifest)
    if cropped > MUCH_CROPPED:
        say(f"{cropped:.0%} of the tokens were cropped: the documents are long; choose --packing stream, or longer sequences")
    held = manifest.val_sequences / (manifest.train_sequences + manifest.val_sequences)
    if held > max(MUCH_HELD_OUT, 2 * held_out_fraction):
        say(
            f"{held:.0%} of the sequences are held out instead of {held_out_fraction:.0%}: less of {manifest.documents:,} "
            "documents, which are not divided, would be too little to measure by; give more text"
        )
    if vocab_size is not None and manifest.tokenizer.vocab_size < vocab_size:
        say(f"the text has no more to merge: {manifest.tokenizer.vocab_size:,} tokens instead of {vocab_size:,}; give more text")


def _cropped(manifest: Manifest) -> float:
    return manifest.cropped_tokens / (manifest.tokens + manifest.cropped_tokens + manifest.dropped_tokens)


def _words(stage: str, done: int, total: int) -> str:
    """How far a preparation is (``windfall.train.prepare.Progress``)."""
    if stage == "tokenizer" and done >= total:
        return f"training the tokenizer on {total / 1e6:,.1f} MB"
    unit = "million tokens" if stage == "write" else "MB"
    return f"{_STAGES[stage]}: {done / total:4.0%} of {total / 1e6:,.1f} {unit}"
