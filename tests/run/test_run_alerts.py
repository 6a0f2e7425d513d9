"""What a person is told of: each alert begins where its condition does, is told once, ends, and goes where it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from run.hook import Hook
from run.test_run_compose import changed
from run.test_run_operator import loop_over
from ui_runs import START, empty_run
from windfall.config.load import load
from windfall.config.schema import Config
from windfall.fleet.loop import Loop, NoHolds
from windfall.fleet.machine import State
from windfall.grid.build import build_grid
from windfall.run.alerts import AlertWatch
from windfall.run.webhook import Sender, Webhook
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_metrics import LOSS
from windfall.units import iso_utc
from windfall.wire.certificates import make as make_certificates

MIN, H = 60.0, 3600.0


class Tower:
    """A run with everything that a watch looks at, and clocks that a test turns."""

    def __init__(self, root: Path) -> None:
        self.run = empty_run(root / "run")
        self.telemetry = Telemetry.open(self.run.telemetry)
        self.config: Config = load(self.run.config)
        self.loop: Loop = loop_over(self.run, NoHolds())[0]  # type: ignore[arg-type]
        self.wall = self.monotonic = 1e6
        self.sender: Sender | None = None
        self.watch = self.another()
        self.settings(missed_window_s=0)

    def another(self) -> AlertWatch:
        self.telemetry.flush()
        return AlertWatch(
            lambda: self.config, self.telemetry, self.loop, build_grid(self.config), run_id="r", sender=self.sender,
            wall=lambda: self.wall, monotonic=lambda: self.monotonic,
        )  # fmt: skip

    def settings(self, **alerts: Any) -> None:
        self.config = changed(self.config, alerts=alerts)

    def look(self, t: float) -> None:
        self.loop.tick(t, t, t + 60)
        self.watch.look(t)

    def told(self) -> list[tuple[float, str, str, str | None]]:
        """Minutes from the start, whether it begins or ends, what, and where."""
        self.telemetry.flush()
        found = self.telemetry.events_of("alert", "alert_over")
        return [((e.t_run - START) / MIN, e.kind, e.detail["alert"], e.site) for _, e in found]

    def reason(self) -> str:
        self.telemetry.flush()
        return str(self.telemetry.events_of("alert")[-1][1].detail["reason"])


@pytest.fixture
def tower(tmp_path: Path) -> Iterator[Tower]:
    made = Tower(tmp_path)
    yield made
    if made.sender is not None:
        made.sender.close(0)
    made.telemetry.close()


# -- once, and over ------------------------------------------------------------------------------------------


def flaps(tower: Tower, t: float, starts: int) -> None:
    tower.loop.starts["california"].recent = tuple(t - 10 * i for i in reversed(range(starts)))


def test_nothing_is_told_of_a_run_in_which_all_is_well(tower: Tower) -> None:
    tower.settings(missed_window_s=1800.0)
    for i in range(60):
        tower.look(START + i * MIN)
    assert tower.told() == []


def test_an_alert_is_told_once_and_is_over_when_it_has_settled(tower: Tower) -> None:
    for i in range(90):
        t = START + i * MIN
        if i < 5:
            flaps(tower, t, 3)
        elif i < 30:
            flaps(tower, t, 4 if i % 2 else 1)  # it comes and goes
        else:
            tower.loop.starts["california"].recent = ()
        tower.watch.look(t)
    assert tower.told() == [(5.0, "alert", "flapping", "california"), (39.0, "alert_over", "flapping", "california")]
    assert tower.reason() == "california: 4 starts within an hour"


def test_the_next_coordinator_does_not_tell_it_again_and_says_when_it_is_over(tower: Tower) -> None:
    flaps(tower, START, 5)
    tower.watch.look(START)
    tower.watch = tower.another()
    tower.watch.look(START + MIN)
    tower.loop.starts["california"].recent = ()
    tower.watch = tower.another()
    tower.watch.look(START + 20 * MIN)
    tower.watch = tower.another()
    tower.watch.look(START + 21 * MIN)
    assert tower.told() == [(0.0, "alert", "flapping", "california"), (20.0, "alert_over", "flapping", "california")]


def test_when_the_run_stops_every_alert_is_over(tower: Tower) -> None:
    flaps(tower, START, 5)
    tower.watch.look(START)
    tower.loop.stopping = "stopped by ann"
    tower.watch.look(START + MIN)
    assert [kind for _, kind, _, _ in tower.told()] == ["alert", "alert_over"]


def test_a_threshold_of_zero_leaves_it_out(tower: Tower) -> None:
    tower.settings(starts_per_h=0)
    flaps(tower, START, 50)
    tower.watch.look(START)
    assert tower.told() == []


# -- each kind -----------------------------------------------------------------------------------------------


def test_a_stale_signal(tower: Tower) -> None:
    end = START + 18 * H  # both traces end there
    tower.watch.look(end - MIN)
    assert tower.told() == []
    tower.watch.look(end + MIN)
    assert {(kind, what, site) for _, kind, what, site in tower.told()} == {
        ("alert", "stale_signal", "california"), ("alert", "stale_signal", "adelaide"),
    }  # fmt: skip
    assert "no reading of its signal counts any more (the newest is of Jan 1" in tower.reason()


def test_a_signal_that_has_not_been_heard_yet_has_a_while_for_it(tower: Tower) -> None:
    before = START - 48 * H  # long before the traces begin
    for i in range(8):
        tower.watch.look(before + i * MIN)
    assert {t for t, _, what, _ in tower.told() if what == "stale_signal"} == {-48 * 60 + 5.0}
    assert "there is none" in tower.reason()


def test_a_missed_window_goes_on_when_a_coordinator_is_followed_by_another(tower: Tower) -> None:
    tower.settings(missed_window_s=1800.0)
    for i in range(80):
        if i == 50:
            tower.watch = tower.another()
        tower.watch.look(START + i * MIN)
    assert tower.told() == [(35.0, "alert", "missed_window", "california")]


def test_a_window_that_is_missed_but_not_one_that_an_operator_holds_off(tower: Tower) -> None:
    tower.settings(missed_window_s=1800.0)
    site = tower.loop.controller.sites["california"]  # its region is in a window, and the other's is not
    for i in range(40):
        tower.watch.look(START + i * MIN)
    assert tower.told() == [(35.0, "alert", "missed_window", "california")], "the window has opened at 17:05"
    assert tower.reason().startswith("california: its window has been open for 30 min and it has not trained; it is off")
    site.held = "held by ann"
    for i in range(40, 80):
        tower.watch.look(START + i * MIN)
    assert tower.told()[1:] == [(49.0, "alert_over", "missed_window", "california")]


@pytest.mark.parametrize("adopted", [False, True])
def test_a_start_that_takes_longer_than_it_should(tower: Tower, adopted: bool) -> None:
    site = tower.loop.controller.sites["california"]  # 340 s
    site.state, site.since, site.adopted = State.PROVISIONING, START, adopted
    tower.watch.look(START + 679)
    assert tower.told() == []
    tower.watch.look(START + 720)
    assert tower.told() == ([] if adopted else [(12.0, "alert", "slow_start", "california")])
    if not adopted:
        assert tower.reason() == "california: its start takes 12 min, where 6 min were expected"


def test_a_drain_over_time(tower: Tower) -> None:
    site = tower.loop.controller.sites["california"]
    site.state, site.since_wall = State.DRAINING, tower.monotonic
    tower.monotonic += 119
    tower.watch.look(START)
    assert tower.told() == []
    tower.monotonic += 2
    tower.watch.look(START + MIN)
    assert tower.told() == [(1.0, "alert", "long_drain", "california")]


def trains(tower: Tower, loss: float, steps: int, site: str = "california") -> None:
    for _ in range(steps):
        tower.telemetry.metric(START, site, LOSS, loss)
    tower.telemetry.flush()


@pytest.mark.parametrize(("after", "told"), [(3.6, True), (3.0, False)])
def test_a_loss_that_rises_after_a_join(tower: Tower, after: float, told: bool) -> None:
    a, b = (tower.loop.controller.sites[n] for n in ("california", "adelaide"))
    a.state = State.TRAINING
    trains(tower, 2.5, 30)
    tower.watch.look(START)
    b.state = State.TRAINING
    tower.watch.look(START + MIN)
    trains(tower, after, 19)
    tower.watch.look(START + 2 * MIN)
    assert tower.told() == [], "too few steps since"
    trains(tower, after, 1)
    tower.watch.look(START + 3 * MIN)
    assert tower.told() == ([(3.0, "alert", "loss_rise", "adelaide")] if told else [])
    if told:
        assert tower.reason() == "the training loss is 3.600 since adelaide has joined, and was 2.500 before"
        trains(tower, 2.4, 20)
        tower.watch.look(START + 30 * MIN)
        assert tower.told()[-1] == (30.0, "alert_over", "loss_rise", "adelaide")


def test_the_first_site_of_a_run_joins_nobody(tower: Tower) -> None:
    trains(tower, 2.5, 30)
    tower.watch.look(START)
    tower.loop.controller.sites["california"].state = State.TRAINING
    tower.watch.look(START + MIN)
    trains(tower, 9.0, 30)
    tower.watch.look(START + 2 * MIN)
    assert tower.told() == []


def test_a_deadline_at_risk(tower: Tower) -> None:
    need = tower.loop.work.left() / 40.0  # two sites of 20 tokens/s
    tower.config = changed(tower.config, policy={"name": "budgeted", "deadline": iso_utc(START + need / 0.9 + 600)})
    tower.watch.look(START)
    assert tower.told() == []
    tower.watch.look(START + 15 * MIN)
    assert [(kind, what, site) for _, kind, what, site in tower.told()] == [("alert", "deadline", None)]
    assert "of training with every site on are left, and " in tower.reason()


def test_a_certificate_that_ends_soon(tower: Tower, tmp_path: Path) -> None:
    from windfall import clock

    folder = tmp_path / "certs"
    made = make_certificates(folder, ["localhost"], clock.wall(), days=100)
    tower.config = changed(tower.config, network={"certificates": str(folder)})
    tower.wall = clock.wall()
    tower.watch.look(START)
    assert tower.told() == []
    tower.wall += made.days_left(tower.wall) * 86400 - 3 * 86400
    tower.watch.look(START + MIN)
    assert tower.told() == [], "it is looked at now and then"
    tower.monotonic += H
    tower.watch.look(START + 2 * MIN)
    assert tower.told() == [(2.0, "alert", "certificate", None)]
    assert tower.reason() == "a certificate of network.certificates ends in 3 days"


# -- on their way --------------------------------------------------------------------------------------------


def test_what_begins_goes_on_and_ends_is_sent_under_one_id(tower: Tower) -> None:
    with Hook() as hook:
        tower.settings(webhook=hook.url, repeat_h=24.0)
        tower.sender = Sender(Webhook(tower.config.alerts).send)
        tower.watch = tower.another()
        for minute, starts, hours in ((0, 4, 0.0), (1, 4, 1.0), (2, 5, 24.0), (20, 0, 0.0)):
            tower.wall += hours * H
            flaps(tower, START + minute * MIN, starts)
            tower.watch.look(START + minute * MIN)
        sent = hook.wait(3)
    assert [(m["state"], m["text"], m["numbers"]) for m in sent] == [
        ("firing", "california: 4 starts within an hour", {"starts": 4}),
        ("firing", "california: 5 starts within an hour", {"starts": 5}),
        ("over", "california: 5 starts within an hour", {"starts": 5}),
    ]  # fmt: skip
    assert {m["id"] for m in sent} == {f"r:flapping:california:{START:.0f}"}
    assert {(m["version"], m["source"], m["name"], m["run_id"], m["site"]) for m in sent} == {
        (1, "windfall", "small", "r", "california")
    }


def test_that_alerts_cannot_be_sent_is_told_once_and_so_is_that_they_can_again(tower: Tower) -> None:
    sender = tower.sender = Sender(lambda _: None)
    tower.watch = tower.another()
    for minute, trouble, let_go in ((0, "", 0), (1, "no connection", 0), (2, "no connection", 0), (3, "", 0), (4, "", 7)):
        sender.trouble, sender.let_go = trouble, let_go
        tower.watch.look(START + minute * MIN)
    tower.telemetry.flush()
    found = [((e.t_run - START) / MIN, e.kind, e.detail["reason"]) for _, e in tower.telemetry.events()]
    assert found == [
        (1.0, "alerts_unsent", "no connection"), (3.0, "alerts_sent_again", "alerts are sent again"),
        (4.0, "alerts_unsent", "more were to be sent than wait at most"),
    ]  # fmt: skip


def test_a_telemetry_that_cannot_be_read_for_a_moment_is_no_end(tower: Tower) -> None:
    flaps(tower, START, 5)
    tower.loop.controller.sites["california"].state = State.TRAINING
    tower.watch.look(START)
    tower.loop.controller.sites["adelaide"].state = State.TRAINING
    tower.telemetry._db.execute("ALTER TABLE metrics RENAME TO elsewhere")
    tower.telemetry._db.execute("CREATE VIEW metrics AS SELECT * FROM nowhere")
    tower.watch.look(START + MIN)
    assert [what for _, _, what, _ in tower.told()] == ["flapping"]
