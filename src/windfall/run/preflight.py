"""What can be known to be wrong with a run before it begins: its data, its model's shape, first weights and memory.

Nothing is written, fetched or built. `windfall check` says all of it, and a run does not begin with any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from windfall.config.load import dotted
from windfall.config.schema import Config
from windfall.errors import ConfigError, DataError
from windfall.run.prepare import prepared_source, trainer_spec
from windfall.train.corpus import HUB, open_corpus
from windfall.train.hub import split_name
from windfall.train.interchange import look_at_folder
from windfall.train.manifest import Manifest
from windfall.train.model import GPTConfig
from windfall.train.prepare import DEFAULT_VOCABULARY
from windfall.train.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from windfall.train.trainer import model_config, require_room


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``key``: the path through the tables; ``here``: on this machine, with nothing wrong in the file."""

    key: tuple[str | int, ...]
    what: str
    here: bool = False


def preflight(config: Config, tell: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Everything that is found wrong, in the order of the file's tables. tell: takes what is left out of the text."""
    return list(_findings(config, tell))


def require_ready(config: Config) -> None:
    """Raise ConfigError with everything that `preflight` finds."""
    found = preflight(config)
    if found:
        raise ConfigError("\n".join(f"{dotted(f.key)}: {f.what}" for f in found))


def _findings(config: Config, tell: Callable[[str], None]) -> Iterator[Finding]:
    source = ("data", "source")
    if config.data.vocab_size is not None and config.data.tokenizer != "bpe":
        yield Finding(("data", "vocab_size"), f'is for tokenizer = "bpe", not for {config.data.tokenizer!r}; leave one of them out')
    prepared = prepared_source(config)
    try:
        if prepared is not None:
            manifest = Manifest.load(prepared)
            if manifest.sequence_length != config.model.sequence_length:
                yield Finding(
                    ("model", "sequence_length"),
                    f"{config.model.sequence_length}, but {prepared} was prepared with {manifest.sequence_length}; change one",
                )
            if manifest.val_sequences < 1:
                yield Finding(
                    source, f"{prepared} was prepared with nothing held out, and versions are evaluated; prepare it with some"
                )
            yield from _another_tokenizer(config, prepared, manifest.tokenizer)
            for shard in manifest.shards:
                manifest.shard_path(prepared, shard)
        elif config.data.source.startswith(HUB):
            split_name(config.data.source.removeprefix(HUB))
        else:
            corpus = open_corpus(config.data.source, config.data.text_column, skip_bad_rows=config.data.skip_bad_rows)
            for note in corpus.notes():
                tell(note)
    except DataError as e:
        yield Finding(source, str(e))
        if prepared is not None:
            return  # what follows needs its tokenizer
    try:
        vocab_size = manifest.tokenizer.vocab_size if prepared else _vocab_size(config)
    except DataError as e:
        yield Finding(("data", "tokenizer"), str(e))
        return
    spec = trainer_spec(config, Path(config.data.source))
    try:
        shape = model_config(spec, vocab_size)
    except ConfigError as e:
        yield Finding(("model", "depth"), str(e))
        return
    if config.model.initial_weights:
        folder = Path(config.model.initial_weights)
        try:
            look_at_folder(folder, shape)
        except DataError as e:
            fix = "name a folder that `windfall export-weights` or `import-weights` wrote for this model"
            yield Finding(("model", "initial_weights"), f"{e}; {fix}")
    yield from _room(config, shape)


def _another_tokenizer(config: Config, prepared: Path, found: Tokenizer) -> Iterator[Finding]:
    """Where the configuration asks for a tokenizer that prepared data have not. The default asks for none."""
    asked, size = config.data.tokenizer, config.data.vocab_size
    if size is not None and asked != "bpe":
        return  # told for every source
    kept = (
        f"but {prepared} was prepared with {found.vocab_size:,} tokens of kind {found.kind}; leave it out, or prepare the data anew"
    )
    if asked == "bpe":
        if found.kind != "bpe":
            yield Finding(("data", "tokenizer"), f"bpe, {kept}")
        elif size is not None and size != found.vocab_size:
            yield Finding(("data", "vocab_size"), f"{size:,}, {kept}")
    elif asked != "bytes":
        try:
            if load_tokenizer(asked).facts() != found.facts():
                yield Finding(("data", "tokenizer"), f"{asked}, {kept}")
        except DataError as e:
            yield Finding(("data", "tokenizer"), str(e))


def _vocab_size(config: Config) -> int:
    """Of the tokenizer that the run's data will have, at most. Raises DataError where it is no good."""
    match config.data.tokenizer:
        case "bytes":
            return ByteTokenizer().vocab_size
        case "bpe":
            return config.data.vocab_size or DEFAULT_VOCABULARY
        case path:
            return load_tokenizer(path).vocab_size


def _room(config: Config, shape: GPTConfig) -> Iterator[Finding]:
    """Sites whose devices are not here, or for which this machine has not the memory."""
    import torch

    spec = trainer_spec(config, Path(config.data.source))
    told: set[str] = set()  # sites that are alike are told of once
    for number, site in enumerate(config.site):
        finding = None
        if site.device == "cuda":
            # Only counted: asking a GPU for its memory would keep some of it for as long as this process lives. The site's
            # own process asks, before it builds anything.
            count = torch.cuda.device_count()
            if count < site.ranks:
                what = f"cuda with {site.ranks} rank{'s' if site.ranks > 1 else ''}, and there are {count} CUDA devices here"
                finding = Finding(("site", number, "device"), what, here=True)
        else:
            try:
                require_room(replace(spec, device=site.device), shape, torch.device(site.device), site.ranks)
            except ConfigError as e:
                finding = Finding(("model", "depth"), str(e), here=True)
        if finding and finding.what not in told:
            told.add(finding.what)
            yield finding
