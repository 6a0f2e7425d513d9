"""``python -m deploy.helm install NAME CHART …``: as much of Helm as the guide uses: it renders, and `kubectl` applies."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import yaml

from deploy.charts import CHART, render


def main() -> None:
    """Install a release."""
    asked = argparse.ArgumentParser()
    asked.add_argument("verb", choices=["install"])
    asked.add_argument("name")
    asked.add_argument("chart", type=Path)
    asked.add_argument("--kube-context", required=True)
    asked.add_argument("-n", "--namespace", required=True)
    asked.add_argument("-f", "--values", type=Path, required=True)
    asked.add_argument("--set-file", required=True)
    told = asked.parse_args()
    assert told.chart == CHART.relative_to(CHART.parents[2])
    key, _, file = told.set_file.partition("=")
    values = {**yaml.safe_load(told.values.read_text(encoding="utf-8")), key: Path(file).read_text(encoding="utf-8")}
    objects = render(values, namespace=told.namespace, release=told.name)
    where = ["--context", told.kube_context, "-n", told.namespace]
    subprocess.run(["kubectl", *where, "apply", "-f", "-"], input=yaml.safe_dump_all(objects), text=True, check=True)


if __name__ == "__main__":
    main()
