"""A run's figures go to real trackers, over tokens, once, whatever fails."""

from __future__ import annotations

import json
import struct
import sys
import threading
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from patience import wait_for
from run.real import events_of
from ui_runs import START
from windfall.cli.track import track
from windfall.config.trackers import TrackerTable
from windfall.errors import ConfigError, TrackerError
from windfall.run.tracking import unnamed
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.trackers.follow import Follower, follow_all
from windfall.view.tracked import ToldMark, TrackedPoint, since

CONFIG = {"run": {"name": "small", "budget_tokens": 8192}, "site": [{"name": "california", "tokens_per_s": 20.0}]}


def test_what_a_run_tells_is_over_tokens_and_only_once(small: RunDir) -> None:
    told = since(small, ToldMark())
    losses = [(p.tokens, p.values["train/loss"]) for p in told.points if "train/loss" in p.values]
    assert losses == [(i * 512, 5.0 / (i + 1)) for i in range(8)]
    assert [(p.tokens, p.values["validation/bits_per_byte"]) for p in told.points if "validation/bits_per_byte" in p.values] == [
        (0, 8.0), (4096, 4.0), (8192, 2.5)
    ]  # fmt: skip
    (last,) = [p for p in told.points if p.values.get("run/version") == 2]
    # 100 s at 400 W and 6,600 s at 2,000 W at one site, an hour at 2,000 W at the other.
    assert last.values["energy/kwh"] == pytest.approx((100 * 400 + 6600 * 2000 + 3600 * 2000) / 3.6e6)
    assert last.tokens == 8192
    again = since(small, told.mark)
    assert (again.points, again.mark, again.state) == ([], told.mark, "done")


def test_energy_up_to_an_instant_counts_a_booking_that_goes_on_by_its_part(small: RunDir) -> None:
    telemetry = Telemetry.open(small.telemetry, read_only=True)
    joules, grams, money = telemetry.energy_until(START + 1600)
    telemetry.close()
    assert joules == pytest.approx(100 * 400 + 1000 * 2000)
    assert grams == pytest.approx(joules / 3.6e6 * 65.4)
    assert money is None


def test_tensorboard_shows_them_over_tokens_and_a_second_look_adds_only_what_is_new(small: RunDir) -> None:
    table = TrackerTable(kind="tensorboard")
    for more in (0, 1):
        if more:
            telemetry = Telemetry.open(small.telemetry)
            telemetry.metric(START + 7200, "adelaide", "loss", 0.25, tokens=8192, version=2)
            telemetry.close()
        follower = Follower(small, "small-1", table, CONFIG, pytest.fail)
        assert follower.look() == "done"
        follower.close("done")
        shown = events_of(small.root / "trackers" / "tensorboard" / "small-1")
        steps = [(e.step, e.value) for e in shown.Scalars("train/loss")]
        assert len(steps) == 8 + more
        assert steps[0] == (0, 5.0)
    assert steps[-1] == (8192, 0.25)
    assert shown.Scalars("validation/bits_per_byte")[-1].value == 2.5


def test_mlflow_goes_on_in_the_same_run(small: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    url = (tmp_path / "mlruns").as_uri()
    table = TrackerTable(kind="mlflow", url=url)
    first = Follower(small, "small-1", table, CONFIG, pytest.fail)
    first.look()
    first.close("interrupted")
    telemetry = Telemetry.open(small.telemetry)
    telemetry.metric(START + 7200, "adelaide", "loss", 0.25, tokens=8192, version=2)
    telemetry.close()
    second = Follower(small, "small-1", table, CONFIG, pytest.fail)
    second.look()
    second.close("done")
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("windfall")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["site.california.tokens_per_s"] == "20.0"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((m.step, m.value) for m in history)[-2:] == [(3584, 0.625), (8192, 0.25)]


def test_wandb_keeps_them_offline_with_tokens_as_the_axis(small: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    follower = Follower(small, "small-1", TrackerTable(kind="wandb"), CONFIG, pytest.fail)
    follower.look()
    follower.close("done")
    (file,) = (small.root / "trackers" / "wandb").rglob("*.wandb")
    wait_for("the client's own process to write", lambda: len(_wandb_rows(file)) >= len(since(small, ToldMark()).points))
    rows = _wandb_rows(file)
    assert [(r["tokens"], r["train/loss"]) for r in rows if "train/loss" in r] == [(i * 512, 5.0 / (i + 1)) for i in range(8)]


def _wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The history of an offline run."""
    from wandb.proto import wandb_internal_pb2

    data, rows, at, whole = file.read_bytes(), [], 7, b""
    while at + 7 <= len(data):  # LevelDB's log: blocks of 32 KiB, pieces of (checksum, length, whole | first | middle | last)
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, piece = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if piece in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
    return rows


class Flaky:
    """A tracker that refuses at first."""

    def __init__(self, failures: int) -> None:
        self.failures, self.taken, self.closed = failures, [], ""  # type: ignore[var-annotated]

    def log(self, points: list[TrackedPoint]) -> None:
        if self.failures:
            self.failures -= 1
            raise TrackerError("wandb: the service is away")
        self.taken += points

    def close(self, state: str) -> None:
        self.closed = state


def test_a_tracker_that_fails_is_tried_again_and_misses_nothing(small: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windfall.ui.trackers.follow._BACKOFF_S", 0.0)
    flaky, said = Flaky(3), []  # type: ignore[var-annotated]

    def opener(*_: object) -> Flaky:
        return flaky

    follower = Follower(small, "small-1", TrackerTable(kind="wandb"), CONFIG, said.append, opener)
    follow_all([follower], threading.Event(), to_the_end=False)
    assert said == ["wandb: the service is away; the run goes on, and what is missing is sent later"]
    assert flaky.taken == since(small, ToldMark()).points
    assert flaky.closed == "done"


def test_a_run_is_read_in_bounded_pieces(small: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = since(small, ToldMark()).points
    monkeypatch.setattr("windfall.view.tracked._MOST", 3)
    took: list[int] = []
    flaky = Flaky(0)

    def opener(_: TrackerTable, __: str, ___: Path, ____: Mapping[str, Any]) -> Flaky:
        took.append(1)
        return flaky

    Follower(small, "small-1", TrackerTable(kind="wandb"), CONFIG, pytest.fail, opener).look()
    assert sorted(flaky.taken, key=lambda p: (p.tokens, str(p.values))) == sorted(whole, key=lambda p: (p.tokens, str(p.values)))
    assert took == [1]


def test_bad_input_is_one_message(small: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no \[\[tracker\]\]; name one with --to"):
        track(small.root, None, None, None, None, follow=False, as_json=False)
    with pytest.raises(ConfigError, match="--url is for a tracker that --to names"):
        track(small.root, None, None, None, "http://x", follow=False, as_json=False)
    with pytest.raises(ConfigError, match='folder belongs to kind = "tensorboard"'):
        track(small.root, "mlflow", "x", None, None, follow=False, as_json=False)
    with pytest.raises(ValueError, match="may hold no user or password"):
        TrackerTable(kind="mlflow", url="https://me:hunter2@host")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="mlflow: no server is named"):
        track(small.root, "mlflow", None, None, None, follow=False, as_json=False)
    with pytest.raises(TrackerError, match="mlflow: no server is named"):  # as beside a run
        Follower(small, "r", TrackerTable(kind="mlflow"), CONFIG, pytest.fail).look()
    assert not (tmp_path / "mlflow.db").exists()
    assert unnamed([TrackerTable(kind="mlflow", url="http://x"), TrackerTable(kind="wandb")]) == []
    (tmp_path / "file").write_text("")
    blocked = Follower(small, "r", TrackerTable(kind="tensorboard", folder=str(tmp_path / "file")), CONFIG, pytest.fail)
    with pytest.raises(TrackerError, match="name another folder for tensorboard"):
        blocked.look()
    away = Follower(small, "r", TrackerTable(kind="mlflow", url="http://127.0.0.1:9"), CONFIG, pytest.fail)
    with pytest.raises(TrackerError, match=r"mlflow at http://127\.0\.0\.1:9"):
        away.look()
    monkeypatch.delitem(sys.modules, "windfall.ui.trackers.wandb", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    missing = Follower(small, "r", TrackerTable(kind="wandb"), CONFIG, pytest.fail)
    with pytest.raises(TrackerError, match=r'wandb is not installed; pip install "windfall\[wandb\]"'):
        missing.look()


@pytest.mark.parametrize("package", ["tensorboard", "wandb", "mlflow-skinny"])
def test_each_extra_is_installed_as_the_constraints_have_it(package: str) -> None:
    """Installed with everything else under the constraints, so that they resolve together."""
    pins = dict(
        line.split("==") for line in (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").split()
    )  # fmt: skip
    assert metadata.version(package) == pins[package]
