"""Data sets of Hugging Face by name: `OWNER/NAME[@REVISION][/SUBSET]`, fetched into the hub's own cache.

What is fetched already is not fetched again, and without a network what is in the cache is used. Needs huggingface-hub
(`pip install 'windfall[fineweb]'`). A private data set needs HF_TOKEN in the environment; HF_ENDPOINT names a mirror; proxies are
those of the environment. No message holds a token, an address that may be signed, or a proxy's password.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from pathlib import Path
from typing import Any

from windfall import proxies
from windfall.errors import DataError
from windfall.train.formats import is_note
from windfall.train.sources import LeftOut

_SUFFIXES = (".parquet", ".jsonl", ".jsonl.zst")
#: Taken where a data set has none of those.
_MORE_SUFFIXES = tuple(
    rows + packed for rows in (".jsonl", ".ndjson", ".json", ".txt") for packed in ("", ".gz", ".bz2", ".xz", ".zst")
)
_ALONE = "beside .parquet or .jsonl files, which alone are read then"
#: Where data sets are, unless HF_ENDPOINT says otherwise.
_HUB = "https://huggingface.co"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<subset>[^\s]+))?")


def fetch(name: str) -> tuple[str, Path, list[Path], list[LeftOut]]:
    """Fetch a data set: its name with the revision that was found, its folder, its data files in order, and what is no part of it.

    SUBSET is a configuration of the data set ("sample-10BT") or a path in it ("sample/10BT", or a single file); without one
    it is the default configuration, or else everything. Of a configuration with splits the one named "train" is taken.

    Raises DataError where the name is malformed, there is no such data set or subset, or it can neither be fetched nor found.
    """
    repo, revision, subset = split_name(name)
    card = _card(_snapshot(repo, revision, ["README.md"]))
    patterns = _patterns(card, subset)
    folder, files = _fetched(repo, revision, patterns)
    if not files and patterns == _every(_SUFFIXES):
        folder, files = _fetched(repo, revision, _every(_MORE_SUFFIXES))
    if not files:
        known = ", ".join(str(config.get("config_name")) for config in card) or "none"
        raise DataError(
            f"hf:{name}: no file of text or rows there ({', '.join((*_SUFFIXES, '.json.gz'))} …; Arrow, archives and scripts are"
            f" not read); the data set's configurations are {known}: add one, or a path"
        )
    rows = [path for path in files if path.name.endswith(_SUFFIXES)] or files
    left = [LeftOut(path.relative_to(folder).as_posix(), _ALONE) for path in files if path not in set(rows)]
    # A snapshot's folder is named by its commit.
    return f"hf:{repo}@{folder.name}" + (f"/{subset}" if subset else ""), folder, rows, left


def split_name(name: str) -> tuple[str, str | None, str]:
    """OWNER/NAME, revision and subset out of `OWNER/NAME[@REVISION][/SUBSET]`. Raises DataError where it is no such name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"hf:{name}: not a data set's name; write hf:OWNER/NAME, hf:OWNER/NAME/SUBSET or hf:OWNER/NAME@REVISION")
    return match["repo"], match["revision"], (match["subset"] or "").strip("/")


def _every(suffixes: tuple[str, ...]) -> list[str]:
    return [f"*{suffix}" for suffix in suffixes]


def _fetched(repo: str, revision: str | None, patterns: list[str]) -> tuple[Path, list[Path]]:
    """The folder of the data set, and its files that match, in order; the cache may hold more than was asked for now."""
    folder = _snapshot(repo, revision, patterns)
    named = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    wanted = [(name, path) for name, path in named if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    return folder, [path for name, path in sorted(wanted) if not is_note(path)]


def address() -> str:
    """Where data sets are fetched from."""
    return os.environ.get("HF_ENDPOINT") or _HUB


def _card(folder: Path) -> list[dict[str, Any]]:
    """Configurations that the data set's README declares."""
    from huggingface_hub import metadata_load

    readme = folder / "README.md"
    if not readme.is_file():
        return []
    try:
        facts = metadata_load(readme)
    except Exception:  # noqa: BLE001 - YAML of strangers: whatever is wrong with it, paths still name what is wanted
        return []
    configs = facts.get("configs") if isinstance(facts, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def _patterns(card: list[dict[str, Any]], subset: str) -> list[str]:
    """Which files of the data set are wanted."""
    wanted = subset or "default"
    for config in card:
        if config.get("config_name") == wanted or (not subset and config.get("default") is True):
            return _data_files(config.get("data_files"))
    if subset:
        return [subset, f"{subset}/*"]
    return _every(_SUFFIXES)


def _data_files(declared: Any) -> list[str]:
    """Patterns out of a configuration: a pattern, a list of them, or splits with either."""
    if isinstance(declared, str):
        return [declared]
    if not isinstance(declared, list):
        return _every(_SUFFIXES)
    splits = [entry for entry in declared if isinstance(entry, dict)]
    train = [entry for entry in splits if entry.get("split") == "train"] or splits
    plain = [entry for entry in declared if isinstance(entry, str)]
    return plain + [pattern for entry in train for pattern in _data_files(entry.get("path", []))]


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Folder of the data set's files that match, in the hub's cache."""
    try:
        import httpx
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_OFFLINE
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise DataError(f"hf:{repo}: needs huggingface-hub; pip install 'windfall[fineweb]'") from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    way = proxies.way(endpoint or _HUB)
    if way.fault:
        raise DataError(f"hf:{repo}: the hub cannot be asked: {way.fault}")
    through = f" through the proxy {proxies.shown(way.proxy).rpartition('://')[2]}" if way.proxy else ""
    try:
        folder = snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns, endpoint=endpoint)
    except HfHubHTTPError as error:
        # Not the message: it holds the address, which may be a signed one.
        status = error.response.status_code
        what = {401: "no such data set, or it is private: set HF_TOKEN", 403: "access is refused: accept its terms, set HF_TOKEN"}
        what[404] = "no such data set or revision: check the name"
        raise DataError(f"hf:{repo}: the hub answered {status}{through}; {what.get(status, 'try again later')}") from None
    except HFValidationError:
        raise DataError(f"hf:{repo}: not a data set's name; write hf:OWNER/NAME") from None
    except LocalEntryNotFoundError:
        if HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set and the cache does not hold it; unset that, or name a folder of its files"
        else:
            fix = "check the network, or name a folder of parquet"
            why = f"the hub cannot be reached{through} and the cache does not hold it; {fix}"
        raise DataError(f"hf:{repo}: {why}") from None
    except httpx.ProxyError as error:
        why = f"{through.strip() or 'the proxy'} the hub cannot be reached ({error}); check HTTPS_PROXY and NO_PROXY"
        raise DataError(f"hf:{repo}: {why}") from None
    except httpx.HTTPError as error:
        # Not the message: a header that is no good is in it, with the token.
        raise DataError(f"hf:{repo}: cannot be fetched{through} ({type(error).__name__}); check network and HF_TOKEN") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DataError(
            f"hf:{repo}: cannot be fetched ({why}); check network and disk (HF_HOME), then run the same again"
        ) from error
    except UnicodeError:
        raise DataError(f"hf:{repo}: HF_TOKEN holds what no token does; set it anew") from None
    except (ValueError, ImportError):
        raise DataError(f"hf:{repo}: the environment's proxy or HF_ENDPOINT is no address that can be used{through}") from None
    return Path(str(folder))
