"""Data sets of Hugging Face by name: `OWNER/NAME[@REVISION][/SUBSET]`, fetched into the hub's own cache.

What is fetched already is not fetched again, and without a network what is in the cache is used. Needs huggingface-hub
(`pip install 'windfall[fineweb]'`). A private data set needs HF_TOKEN in the environment; HF_ENDPOINT names a mirror.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from pathlib import Path
from typing import Any

from windfall.errors import DataError

_SUFFIXES = (".parquet", ".jsonl", ".jsonl.zst")
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<subset>[^\s]+))?")


def fetch(name: str) -> tuple[str, list[Path]]:
    """Fetch a data set: its name with the revision that was found, and its data files in order.

    SUBSET is a configuration of the data set ("sample-10BT") or a path in it ("sample/10BT", or a single file); without one
    it is the default configuration, or else everything. Of a configuration with splits the one named "train" is taken.

    Raises DataError where the name is malformed, there is no such data set or subset, or it can neither be fetched nor found.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"hf:{name}: not a data set's name; write hf:OWNER/NAME, hf:OWNER/NAME/SUBSET or hf:OWNER/NAME@REVISION")
    repo, revision, subset = match["repo"], match["revision"], (match["subset"] or "").strip("/")
    card = _card(_snapshot(repo, revision, ["README.md"]))
    patterns = _patterns(card, subset)
    folder = _snapshot(repo, revision, patterns)
    files = sorted(
        (path for path in folder.rglob("*") if path.name.endswith(_SUFFIXES) and path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    # The cache may hold more of the data set than was asked for now.
    files = [path for path in files if any(fnmatch.fnmatch(path.relative_to(folder).as_posix(), p) for p in patterns)]
    if not files:
        known = ", ".join(str(config.get("config_name")) for config in card) or "none"
        raise DataError(
            f"hf:{name}: no {', '.join(_SUFFIXES)} file there; the data set's configurations are {known}: add one, or a path"
        )
    # A snapshot's folder is named by its commit.
    return f"hf:{repo}@{folder.name}" + (f"/{subset}" if subset else ""), files


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
    return [f"*{suffix}" for suffix in _SUFFIXES]


def _data_files(declared: Any) -> list[str]:
    """Patterns out of a configuration: a pattern, a list of them, or splits with either."""
    if isinstance(declared, str):
        return [declared]
    if not isinstance(declared, list):
        return [f"*{suffix}" for suffix in _SUFFIXES]
    splits = [entry for entry in declared if isinstance(entry, dict)]
    train = [entry for entry in splits if entry.get("split") == "train"] or splits
    plain = [entry for entry in declared if isinstance(entry, str)]
    return plain + [pattern for entry in train for pattern in _data_files(entry.get("path", []))]


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Folder of the data set's files that match, in the hub's cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise DataError(f"hf:{repo}: needs huggingface-hub; pip install 'windfall[fineweb]'") from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=patterns, endpoint=os.environ.get("HF_ENDPOINT") or None
        )
    except HfHubHTTPError as error:
        # Not the message: it holds the address, which may be a signed one.
        status = error.response.status_code
        what = {401: "no such data set, or it is private: set HF_TOKEN", 403: "access is refused: accept its terms, set HF_TOKEN"}
        what[404] = "no such data set or revision: check the name"
        raise DataError(f"hf:{repo}: the hub answered {status}; {what.get(status, 'try again later')}") from None
    except HFValidationError:
        raise DataError(f"hf:{repo}: not a data set's name; write hf:OWNER/NAME") from None
    except LocalEntryNotFoundError:
        raise DataError(
            f"hf:{repo}: the hub cannot be reached and the cache does not hold it; check the network, or name a folder of parquet"
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DataError(f"hf:{repo}: cannot be fetched ({why}); check network and disk, then run the same again") from error
    return Path(str(folder))
