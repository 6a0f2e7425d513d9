"""`windfall site manifest`: what a Kubernetes cluster needs for sites, as YAML. No cluster is asked."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from windfall.config.load import load, stored
from windfall.config.schema import Config
from windfall.errors import ConfigError, StoreError
from windfall.fleet.drivers.build import Reached, manifest_of
from windfall.run.endpoint import endpoint_port
from windfall.store.files import write_atomic
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir

Json = dict[str, Any]
#: The first line of every file that is written, by which it is known again.
_OURS = "# Written by `windfall site manifest`"
_KUSTOMIZATION = "kustomization.yaml"
#: In files of a set that a run scales.
_SCALED = (
    "# `replicas` is the run's: Windfall sets it to 1 and 0. Apply this once, or let what applies it again leave `replicas` alone."
)


def manifest(source: Path, sites: list[str], image: str | None, kustomize: Path | None) -> None:
    """Print the manifests of ``sites``, or write them as a base into the folder ``kustomize``.

    Raises:
        ConfigError: no such site, its driver is another one, or something that has to be written down is not known.
    """
    config, run_id, port = _source(source)
    bus = urlsplit(config.run.bus)
    also = ((bus.hostname, bus.port or 6379),) if bus.hostname else ()
    reached = Reached(config.network.address, port, config.network.certificates is not None, also)
    files: dict[str, list[Json]] = {}
    for name in sites:
        site = next((s for s in config.site if s.name == name), None)
        if site is None:
            raise ConfigError(f"{name}: no such site in {source}; there are {', '.join(s.name for s in config.site)}")
        if site.kubernetes is None:
            raise ConfigError(f'{name}: its driver is {site.driver}; only sites of driver = "kubernetes" have manifests')
        if site.kubernetes.namespace is None:
            raise ConfigError(f"{name}: site.kubernetes.namespace is not set, and rights are given in a namespace; name it")
        _mind_the_image(name, image or site.kubernetes.image)
        made = manifest_of(config.settled(site), run_id, reached, image=image)
        own = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        for part, objects in made.items():
            file = f"site-{own}" if part in ("network", "site") else part
            there = files.setdefault(file, [])
            there += [o for o in objects if o not in there]
    if run_id is None:
        _say(f"{source} is no run yet: claims and sets, which have a run's name, are not among these; the run makes them")
    if config.network.loopback:
        _say(f"network.address = {config.network.address} is a loopback address: no pod reaches it; set the endpoint's own address")
    texts = {f"{name}.yaml": _text(objects) for name, objects in files.items() if objects}
    if kustomize is None:
        print("---\n".join(texts.values()), end="")
    else:
        _write(kustomize, texts)


def _source(source: Path) -> tuple[Config, str | None, int]:
    """The configuration, the run's id if it is a run, and the endpoint's port."""
    if not source.is_dir():
        config = load(source)
        if not config.network.port:
            raise ConfigError(f"{source}: network.port is not set, so that sites' network policies cannot name it; choose a port")
        return config, None, config.network.port
    run = RunDir(source).open_existing()
    config = stored(run.config.read_text(encoding="utf-8"))
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        run_id = ledger.meta("run_id")
    finally:
        ledger.close()
    port = config.network.port or endpoint_port(run)
    if not port:
        raise ConfigError(f"{source}: the run has no endpoint yet; set network.port, or start it once")
    return config, run_id, port


def _mind_the_image(site: str, image: str) -> None:
    """Warn of an image that may be another one at each start."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if "@" not in image and tag in ("", "latest"):
        _say(
            f"{site}: the image {image} {'has no tag' if not tag else 'is whichever is the latest'}, so that a start may be "
            "another Windfall than the coordinator; name a version or a digest (--image)"
        )


def _text(objects: list[Json]) -> str:
    scaled = any(o["kind"] == "StatefulSet" for o in objects)
    return "\n".join([_OURS, *([_SCALED] if scaled else []), yaml.safe_dump_all(objects, sort_keys=False, width=120)])


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Write a kustomize base. Raises ConfigError where there is something else."""
    try:
        there = list(folder.iterdir()) if folder.exists() else []
        strange = [p.name for p in there if not (p.is_file() and p.read_text(encoding="utf-8").startswith(_OURS))]
        if strange:
            raise ConfigError(f"{folder}: holds {strange[0]}, which is not of this verb; name another folder, or an empty one")
        folder.mkdir(parents=True, exist_ok=True)
        base = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [*texts]}
        texts = {**texts, _KUSTOMIZATION: f"{_OURS}\n{yaml.safe_dump(base, sort_keys=False)}"}
        for name, text in texts.items():
            write_atomic(folder / name, [text.encode()])
        for path in there:
            if path.name not in texts:
                path.unlink()
    except UnicodeDecodeError:
        raise ConfigError(f"{folder}: holds what is no text, and so not of this verb; name another folder") from None
    except OSError as e:
        raise StoreError(f"{folder}: cannot be written: {e.strerror}; name another place or give write access") from None
    _say(f"{folder}: a base of {len(texts) - 1} files; kubectl apply -k {folder}")


def _say(text: str) -> None:
    print(f"windfall: {text}", file=sys.stderr)
