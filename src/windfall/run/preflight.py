"""Finds what is wrong with a run before it begins: with its signals, policy, data, model, first weights and memory.

It writes, fetches and builds nothing, and imports torch only if a site's device or first weights need it. `windfall check` tells of
everything that it finds, and a run begins only if it finds nothing. A configuration with mistakes is examined as far as possible:
each part that does not need what is wrong says what it finds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from windfall.config.alerts import AlertsTable
from windfall.config.drivers import ELSEWHERE
from windfall.config.load import dotted, signals
from windfall.config.microgrid import SourceTable
from windfall.config.openadr import OpenAdrTable
from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.config.trackers import TrackerTable
from windfall.errors import ConfigError, DataError, SignalError
from windfall.grid.build import make_signal
from windfall.grid.openadr import missing as unheard
from windfall.grid.signal import Signal, StepSignal
from windfall.grid.supply import make_source
from windfall.policy.build import build_policy
from windfall.run.disk_need import too_little
from windfall.run.network import network_faults
from windfall.run.sharing import averaged_states, shared_steps, short_notices, slow_leaves
from windfall.run.tracking import unnamed
from windfall.run.training_inputs import prepared_source, trainer_spec
from windfall.run.webhook import missing
from windfall.train.corpus import HUB, open_corpus
from windfall.train.hub import split_name
from windfall.train.manifest import Manifest
from windfall.train.prepare import DEFAULT_VOCABULARY
from windfall.train.shape import GPTConfig
from windfall.train.sizes import require_room
from windfall.train.spec import model_config
from windfall.train.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from windfall.units import iso_utc, parse_utc

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``key``: its path in the tables. ``here``: it is this machine that is wrong, and not the file."""

    key: Key
    what: str
    here: bool = False


@dataclass
class HeardSignals:
    """The signals of a configuration by their paths in the file, what is wrong with them, and warnings."""

    signals: dict[Key, StepSignal] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def preflight(config: Config) -> list[Finding]:
    """Everything that is wrong with data, model and machine, in the order of the file's tables."""
    return [*_levels(config), *_data(config, lambda _: None), *_model(config)]


def look_around(partial: Config, *, whole: bool) -> tuple[list[Finding], list[str]]:
    """Everything that is wrong with a configuration, and warnings.

    ``whole``: False if the configuration lacks values that are wrong in themselves, or breaks a rule; these are told already.
    """
    heard = listen(partial)
    found = list(heard.findings)
    parts: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        lambda c: _start(c, heard),
        _policy,
        _levels,
        lambda c: _data(c, heard.warnings.append),
        _model,
        _disk,
        lambda c: _together(c, heard.warnings.append),
        lambda c: (Finding(("network", key), what) for key, what in network_faults(c, heard.warnings.append)),
    )
    for part in parts:
        try:
            found += part(partial)
        except (AttributeError, ValueError, LookupError):
            if whole:
                raise
            continue  # this part needs a value that is wrong in itself
    heard.warnings += missing(partial.alerts) if isinstance(getattr(partial, "alerts", None), AlertsTable) else []
    heard.warnings += unheard(partial) if isinstance(getattr(partial, "openadr", None), OpenAdrTable) else []
    heard.warnings += unnamed([t for t in getattr(partial, "tracker", ()) if isinstance(t, TrackerTable)])
    return list(dict.fromkeys(found)), heard.warnings


def require_ready(config: Config) -> None:
    """Raise ConfigError with everything that `preflight` finds."""
    found = preflight(config)
    if found:
        raise ConfigError("\n".join(f"{dotted(f.key)}: {f.what}" for f in found))


def listen(partial: Config) -> HeardSignals:
    """Read every trace that can be read."""
    heard = HeardSignals()
    read: dict[str, StepSignal | str | None] = {}
    begins = parse_utc(start) if (start := getattr(getattr(partial, "run", None), "start", None)) else 0.0
    for key, table in signals(partial):
        owner = partial.site[key[1]] if key[0] == "site" else partial.counterfactual[key[1]]  # type: ignore[index]
        region = getattr(owner, "region", None)
        try:
            whole = type(table).model_validate(dict(table.__dict__))
        except ValidationError:
            continue  # told already
        if whole.kind == "microgrid":
            continue  # it is what the sources of the microgrid say, which are told of themselves
        path = whole.path or "bundled:"
        if not isinstance(region, str) or not (path.startswith("bundled:") or Path(path).is_file()):
            continue
        same = f"{region} {whole.model_dump_json(exclude={'name'})}"
        if same not in read:
            try:
                signal, warnings = _made(whole, region, begins)
                read[same] = signal if isinstance(signal, StepSignal) else None
                heard.warnings += warnings
            except (SignalError, ConfigError) as e:
                read[same] = str(e)
        found = read[same]
        if isinstance(found, str):
            heard.findings.append(Finding(key, found))
        elif found is not None:
            heard.signals[key] = found
    return heard


def _made(table: SignalTable, region: str, begins: float) -> tuple[Signal, list[str]]:
    """A signal, or the power of a microgrid's source."""
    if isinstance(table, SourceTable):
        return make_source(table, region, lambda t, r: make_signal(t, r, begins))
    return make_signal(table, region, begins)


def _start(config: Config, heard: HeardSignals) -> Iterator[Finding]:
    """Findings and warnings about a start of replayed time that lies outside of all traces, or of some."""
    if config.run.clock != "scaled":
        return
    behind = {("site", i, "microgrid", "source", 0) for i, s in enumerate(config.site) if s.signal.kind == "microgrid"}
    first = {key: s for key, s in heard.signals.items() if key[0] == "site" and (key[-1] == "signal" or key in behind)}
    if not first:
        return
    own = {key: s for key, s in heard.signals.items() if key[0] == "site"}
    begins, ends = max(s.starts_at() for s in own.values()), min(s.ends_at() for s in own.values())
    common = f"all of them have readings from {iso_utc(begins)}" + (f" to {iso_utc(ends)}" if math.isfinite(ends) else " on")
    key = ("run", "start")
    if config.run.start is None:
        if begins >= ends:
            yield Finding(key, f"missing, and there is no instant that all traces have: the last begins at {iso_utc(begins)} and "
                               f"the first ends at {iso_utc(ends)}; give a start, or longer traces")  # fmt: skip
        return
    t = parse_utc(config.run.start)
    outside = [k for k, s in first.items() if not s.starts_at() <= t < s.ends_at()]
    fix = "leave run.start out to begin there" if begins < ends else "give longer traces"
    if t >= max(s.ends_at() for s in first.values()):
        ended = iso_utc(max(s.ends_at() for s in first.values()))
        yield Finding(key, f"{iso_utc(t)}, and every trace has ended by {ended}; {common}: {fix}, or give longer traces")
    elif t < min(s.starts_at() for s in first.values()):
        yield Finding(key, f"{iso_utc(t)}, before the first row of every trace; {common}: {fix}")
    elif outside:
        for k in outside:
            name = getattr(config.site[int(k[1])], "name", k[1])
            until = f"to {iso_utc(first[k].ends_at())}" if math.isfinite(first[k].ends_at()) else "on"
            heard.warnings.append(
                f"run.start {iso_utc(t)} is outside the trace of site {name} (from {iso_utc(first[k].starts_at())} {until}): it is "
                "off until there is a reading"
            )


def _policy(config: Config) -> Iterator[Finding]:
    try:
        build_policy(config)
    except ConfigError as e:
        yield Finding(("policy", "name"), str(e))


def _levels(config: Config) -> Iterator[Finding]:
    """What power levels lack: their pace on replayed time, and on the calendar what holds a site to them."""
    for i, site in enumerate(config.site):
        for k, level in enumerate(site.power_levels[:-1]):
            key = ("site", i, "power_levels", k)
            if config.run.clock == "scaled" and level.tokens_per_s is None:
                what = f"the level of {level.power_w:g} W has no tokens_per_s, and nothing measures it in replayed time; give it"
                yield Finding((*key, "tokens_per_s"), what)
            if config.run.clock == "real" and level.gpu_power_w is None:
                what = f"nothing holds the site to its level of {level.power_w:g} W; say what each of its GPUs is held to"
                yield Finding((*key, "gpu_power_w"), what)
        if config.run.clock == "real" and len(site.power_levels) > 1 and site.device != "cuda":
            yield Finding(("site", i, "device"), 'levels are held by its GPUs (NVML), and it trains on cpu; set device = "cuda"')


def _data(config: Config, tell: Callable[[str], None]) -> Iterator[Finding]:
    """Findings about data and tokenizer. ``tell`` is called with notes on text that is left out."""
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


def _model(config: Config) -> Iterator[Finding]:
    try:
        vocab_size = vocabulary(config)
    except DataError as e:
        if prepared_source(config) is None:
            yield Finding(("data", "tokenizer"), str(e))
        return  # `_data` tells what is wrong with prepared data
    spec = trainer_spec(config, Path(config.data.source))
    try:
        shape = model_config(spec, vocab_size)
    except ConfigError as e:
        yield Finding(("model", "depth"), str(e))
        return
    if config.model.initial_weights:
        from windfall.train.interchange import look_at_folder  # torch takes a second to import

        folder = Path(config.model.initial_weights)
        try:
            look_at_folder(folder, shape)
        except DataError as e:
            fix = "name a folder that `windfall export-weights` or `import-weights` wrote for this model"
            yield Finding(("model", "initial_weights"), f"{e}; {fix}")
    yield from _room(config, shape)


def _disk(config: Config) -> Iterator[Finding]:
    """Too little room for the run where it goes unless it is told otherwise."""
    try:
        shape = model_config(trainer_spec(config, Path(config.data.source)), vocabulary(config))
    except (DataError, ConfigError):
        return  # told by `_data` and `_model`
    if why := too_little(config, shape, Path("runs") / config.run.name):
        yield Finding(("federation", "keep_versions"), why, here=True)


def _together(config: Config, tell: Callable[[str], None]) -> Iterator[Finding]:
    """Warnings about sites that train together, and about what their links let through."""
    for warning in shared_steps(config):
        tell(warning)
    try:
        shape = model_config(trainer_spec(config, Path(config.data.source)), vocabulary(config))
    except (DataError, ConfigError):
        return  # told by `_data` and `_model`
    for warning in (*slow_leaves(config, shape), *short_notices(config, shape), *averaged_states(config, shape)):
        tell(warning)
    yield from ()


def _another_tokenizer(config: Config, prepared: Path, found: Tokenizer) -> Iterator[Finding]:
    """Findings where the configuration asks for another tokenizer than the prepared data have. The default asks for none."""
    asked, size = config.data.tokenizer, config.data.vocab_size
    if size is not None and asked != "bpe":
        return  # `_data` tells of it for every source
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


def vocabulary(config: Config) -> int:
    """Size of the vocabulary that the run's data have, or will have at most. Raises DataError if the tokenizer cannot be read."""
    prepared = prepared_source(config)
    if prepared is not None:
        return Manifest.load(prepared).tokenizer.vocab_size
    match config.data.tokenizer:
        case "bytes":
            return ByteTokenizer().vocab_size
        case "bpe":
            return config.data.vocab_size or DEFAULT_VOCABULARY
        case path:
            return load_tokenizer(path).vocab_size


def _room(config: Config, shape: GPTConfig) -> Iterator[Finding]:
    """Findings about sites whose devices this machine lacks, or for which it has not enough memory."""
    spec = trainer_spec(config, Path(config.data.source))
    told: set[str] = set()  # several sites may have the same finding
    for number, site in enumerate(config.site):
        finding = None
        if site.driver in ELSEWHERE:
            continue  # its own machine says what it lacks
        if site.device == "cuda":
            # GPUs are only counted. Asking one for its memory would keep a part of it for as long as this process lives; the site's
            # own process asks before it builds anything.
            count = _cuda_devices()
            if count < site.ranks:
                what = f"cuda with {site.ranks} rank{'s' if site.ranks > 1 else ''}, and there are {count} CUDA devices here"
                finding = Finding(("site", number, "device"), what, here=True)
        else:
            try:
                require_room(replace(spec, device=site.device), shape, site.device, site.ranks)
            except ConfigError as e:
                finding = Finding(("model", "depth"), str(e), here=True)
        if finding and finding.what not in told:
            told.add(finding.what)
            yield finding


def _cuda_devices() -> int:
    """The number of CUDA devices on this machine. If Linux has no accelerator at all, torch is not imported to ask."""
    known = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")
    if sys.platform == "linux" and not any(True for name in known for _ in Path("/dev").glob(name)):
        return 0
    import torch

    return torch.cuda.device_count()
