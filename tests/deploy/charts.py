"""The chart, rendered as Helm renders it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from needs import missing

try:
    import helm_python
except ModuleNotFoundError:
    helm_python = None

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "windfall"
#: What the guide installs.
VALUES: Json = yaml.safe_load((CHART / "ci" / "two-clusters-values.yaml").read_text(encoding="utf-8"))


def helm() -> Any:
    """Helm's engine."""
    if helm_python is None:
        missing("helm-python-sdk")
    return helm_python


def render(values: Json, *, namespace: str = "windfall", release: str = "first") -> list[Json]:
    """The objects of a release, in the order of their templates."""
    with helm().Chart.load(CHART) as chart:
        texts = chart.render(values, name=release, namespace=namespace)
    return [o for name, text in texts.items() if name.endswith(".yaml") for o in yaml.safe_load_all(text) if o]


def one(objects: list[Json], kind: str) -> Json:
    """The only object of a kind."""
    found = [o for o in objects if o["kind"] == kind]
    assert len(found) == 1, kind
    return found[0]


def with_values(*more: Json) -> Json:
    """The guide's values, and more of the chart's."""
    values: Json = VALUES
    for extra in more:
        values = _merged(values, extra)
    return values


def _merged(old: Json, new: Json) -> Json:
    both = {k: _merged(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()}
    return {**old, **both}


def names_of_versions() -> list[str]:
    """Kubernetes' minor versions from 1.30 to the newest whose schemas are here."""
    import kubernetes_validate.utils as known

    versions = [v for v in known.all_versions() if int(v.split(".")[1]) >= 30]
    assert len(versions) >= 8
    return versions
