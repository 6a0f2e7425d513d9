"""Every command of the documents that takes under a minute is run: the tutorial, then the others; what is not is named.

`test_docs.py` holds all of them against the command line.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.verbs import asked
from patience import PATIENCE_S, wait_for
from run.real import status, versions
from test_docs import COMMANDS, blocks

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

#: What is not run here, by how its words begin, and why.
ELSEWHERE = {
    "dashboard": "serves until it is stopped: tests/ui/test_ui_web_browser.py",
    "demo": "four minutes of training",
    "site": "joins, invites or changes machines elsewhere: tests/run/test_run_hosts.py types it as it stands",
    "certs": "the same",
    "check run.toml": "the same",
    "run run.toml": "the same",
    "plan my.toml": "needs two days of readings, and what `init` writes has one",
    "backtest examples/california_year.toml --starts 12": "over a minute on a slow machine",
    "backtest examples/california_year.toml --html": "it is written beside tables and figures, which is run",
    "backtest examples/paper_day.toml --csv": "the same as of the year",
    "run runs/my": "a finished run goes on with nothing to do: tests/run/test_run_real.py",
    "export-weights runs/my --out made --version 12": "a longer run has a version 12",
    "export-weights runs/my --out made --format nanochat": "a model of the tutorial's size is none of nanochat's: tests/train",
    "track runs/my --to wandb": "asks the service: tests/ui/test_ui_trackers.py",
    "track runs/my --to mlflow": "the same",
    "run my.toml --run-dir runs/my --jsonl": "the run that is started is the tutorial's",
    "hold runs/my california --expect training --wait 30s": "what it expects is not so there: tests/cli",
    "set runs/my max_sites 2 --expect 1": "the same",
    "alerts my.toml --test": "asks a service: tests/run/test_run_webhook.py",
    "import-weights": "needs a checkpoint of nanochat: tests/train",
}
#: Words of the pages, and what stands for them here.
STANDS_FOR = {"RUN": "runs/my", "DIR": "made", "runs/demo": "runs/my"}
WHILE_IT_RUNS = ("hold", "release", "drain", "set", "stop")


def words_of(line: str) -> list[str]:
    """A command's words, without `windfall` and what is told beside it."""
    return [STANDS_FOR.get(w, w) for w in shlex.split(re.split(r" #|   +| > ", line.strip())[0])][1:]


def runnable() -> list[list[str]]:
    """Every command once, without a run's start: those of the tutorial in its order, then those of the other pages."""
    found: list[list[str]] = []
    for _, line in sorted(COMMANDS, key=lambda c: c[0] != "tutorial.md"):
        words = words_of(line)
        if words not in found and not " ".join(words).startswith(tuple(ELSEWHERE)):
            found.append(words)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: examples, a file of readings, a corpus."""
    root = tmp_path_factory.mktemp("reader")
    (root / "examples").symlink_to(ROOT / "examples")
    shutil.copyfile(ROOT / "src/windfall/grid/traces/paper_day.csv", root / "prices.csv")
    (root / "corpus").mkdir()
    for source in sorted((ROOT / "src/windfall/train").glob("*.py")):
        shutil.copyfile(source, root / "corpus" / source.name)
    return root


def windfall(place: Path, *words: str) -> str:
    """What a command prints; its failure is the test's."""
    done = subprocess.run(
        [sys.executable, "-m", "windfall", *words], cwd=place, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"windfall {shlex.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done.stdout


def test_a_reader_types_every_command_of_the_documents(place: Path) -> None:
    commands = runnable()
    start = ["run", "my.toml", "--run-dir", "runs/my"]
    commands.remove(start)
    for words in (["init", "my.toml"], ["check", "my.toml"], ["backtest", "my.toml"]):
        commands.remove(words)
        windfall(place, *words)
        if words[0] == "init":  # half as long
            change(place, "budget_tokens = 200000 ", "budget_tokens = 100000 ")
    # While it trains the operator acts; Ctrl-C lets it hand in its work; the same command goes on. It must not be done before the
    # operator is, however long a command takes: so it is slow until then.
    change(place, "speed = 600.0 ", "speed = 60.0 ")
    with subprocess.Popen(
        [sys.executable, "-m", "windfall", *start], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        try:
            wait_for("a site that trains", lambda: run.poll() is not None or _trains(place))
            for words in [c for c in commands if c[0] in WHILE_IT_RUNS]:
                windfall(place, *words)
            run.send_signal(signal.SIGINT)
            said = run.communicate(timeout=PATIENCE_S)[0]
            assert run.returncode == 130, said
        finally:
            run.kill()
    change(place, "speed = 60.0 ", "speed = 600.0 ")
    windfall(place, *start)
    assert ": done" in windfall(place, "status", "runs/my")
    rest = [words for words in commands if words[0] not in WHILE_IT_RUNS]
    for words, (code, _, err) in zip(rest, asked([(words, "keep") for words in rest], place), strict=True):
        assert code == 0, f"windfall {shlex.join(words)} ended with {code}:\n{err[-3000:]}"
    assert (place / "runs/my/report/index.html").is_file()
    assert list((place / "weights").glob("*.safetensors"))
    (place / "page.py").write_text("\n".join(blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8"), ("python",))))
    done = subprocess.run([sys.executable, "page.py"], cwd=place, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "california" in (place / "tables" / "energy.csv").read_text(encoding="utf-8")


def change(place: Path, old: str, new: str) -> None:
    """One thing in the reader's configuration."""
    written = (place / "my.toml").read_text(encoding="utf-8")
    assert written.count(old) == 1
    (place / "my.toml").write_text(written.replace(old, new), encoding="utf-8")


def _trains(place: Path) -> bool:
    run = place / "runs" / "my"
    if versions(run) < 0 or not (run / "telemetry.db").exists():
        return False
    return "training" in [site["state"] for site in status(run)["sites"].values()]
