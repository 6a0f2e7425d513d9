"""A clock that does not wait: rounds are as long as their transfers ask for, and nobody waits for a slow site or a slow link."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from federation.fake import counting
from federation.harness import BATCH, BLOCK, PUMP_S, T0, TICK, Run
from windfall.site.worker import SiteWorker
from windfall.store.files import Envelope
from windfall.view.state import summarise

PAIR = {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)]}


class Paced(Run):
    """A site takes a step every so many units of work; what it is sent can be kept on its way."""

    every: dict[str, int]
    turns = 0

    def pump(self, name: str, worker: SiteWorker) -> None:
        self.turns += name == min(self.workers)
        if self.turns % self.every.get(name, 1) == 0:
            super().pump(name, worker)


def paced(root: Path, data: Path, windows: Any, every: dict[str, int] | None = None, **options: Any) -> Paced:
    steps = options.pop("steps", 240)
    run = Paced(
        root, data, windows,
        **{"steps": steps, "calendar": True, "overlap": True, "spin_up_s": 0.0, "steps_per_min": 3.0, "round_min": 20,
           "trainer": counting(steps * BATCH // BLOCK), **options},
    )  # fmt: skip
    run.every = every or {}
    return run


def assert_exactly_once(run: Run) -> None:
    assert run.ledger.counts().committed == run.ledger.budget_blocks
    np.testing.assert_array_equal(run.weights()["count"] > 0, True)


def test_joint_rounds_are_ten_times_their_transfer_at_least_and_longer_late(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = paced(tmp_path / "r", data, PAIR, steps=600)
    runs.append(run)
    assert run.serve() == "done"
    chosen = [d for _, _, _, d in run.events("round_length")]
    assert len(chosen) > 2
    assert "no transfer has been measured" in chosen[0]["reason"]
    assert chosen[0]["length_s"] == 60.0, "the shortest, at the beginning"
    measured = [d for d in chosen if "take " in d["reason"]]
    assert len(measured) >= len(chosen) - 2, "the second begins before the first one's version is anywhere"
    lengths = [d["length_s"] for d in measured]
    for d in measured:
        took = float(d["reason"].split("take ")[1].split(" s")[0])
        assert took >= PUMP_S, "a unit of work passes before a site has it"
        assert d["length_s"] >= min(10 * took, 1200.0) - 0.1
    assert lengths[-1] > lengths[0]
    assert max(lengths) <= 1200.0 + 300.0  # the last takes in what is not worth another one


def test_a_joiner_is_sent_a_large_model_first_and_the_running_sites_take_steps_all_the_while(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = paced(
        tmp_path / "r", data, {**PAIR, "c": [(12.0, 1e5)]}, inline_limit_mb=1e-4, steps=450, trainer=None, codec="int8",
        round_min=10, round_min_s=600.0, grace_s=0.0,
    )  # fmt: skip
    runs.append(run)
    push, pushed, kept = run.transport.push, [], []

    def slow_link(node: str, envelope: Envelope) -> str:
        message, header, site = push(node, envelope), envelope.header, node.split("#")[0]
        if header.get("kind") == "round" and site == "c":
            pushed.append((header["model"], len(header["leases"])))
            if len(pushed) == 1:
                box: Any = run.workers["c"]._mailbox
                kept.append((box, list(box.incoming)))
                box.incoming.clear()
        return message

    run.transport.push = slow_link  # type: ignore[method-assign]
    while not kept:
        run.serve(until_min=(run.clock.now() - T0 + TICK) / 60)
    since, before = run.clock.now(), {site: run.workers[site]._steps for site in "ab"}
    version = run.ledger.head().version
    run.serve(until_min=(since - T0) / 60 + 12)
    assert run.ledger.head().version > version, "versions are made while it is on its way"
    assert all(run.workers[site]._steps > before[site] + 20 for site in "ab")
    assert not [t for t, _, _, d in run.events("cut_forward") if "c" in d["reason"]], "and nobody hands in early for it"
    assert run.federation.working("c") is False
    ((box, messages),) = kept
    box.incoming.extend(messages)
    assert run.serve() == "done"
    assert pushed[0] == ("full", 0)
    model, leases = pushed[1]
    assert model == "chain", "what was made meanwhile comes with the joint round"
    assert leases > 0
    assert [site for _, _, site, _ in run.events("version_sent")] == ["a", "b", "c"]
    assert run.ledger.counts().committed == run.ledger.budget_blocks


def test_a_site_ten_times_slower_costs_the_other_nothing_and_its_late_work_is_in_the_next_version(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = paced(
        tmp_path / "r", data, PAIR, {"b": 10}, steps=500, grace_s=0.0, round_min=6, round_min_s=360.0,
        steps_per_min={"a": 3.0, "b": 0.3},
    )  # fmt: skip
    runs.append(run)
    run.serve(until_min=5)
    taken, at = run.workers["a"]._steps, run.turns
    run.serve(until_min=80)
    steps, turns = run.workers["a"]._steps - taken, run.turns - at
    # Of a's units of work all but those that a cut, a message or a version takes are steps.
    rounds = len(run.events("round"))
    assert steps >= turns - 4 * rounds
    left_out = run.events("round_closed_without")
    assert left_out
    assert all(d["sites"] == ["b"] for _, _, _, d in left_out)
    assert not [e for e in run.events("cut_forward", "refused", "work_lost") if e[0] > 5], "its answer shortens nobody's round"
    modes = {d["mode"] for t, _, _, d in run.events("round") if t > 5}
    assert modes == {"federated"}, "the one beside it still counts"
    shares = [v.sites for v in run.ledger.versions() if v.version]
    assert sum("b" in s for s in shares) >= 3
    assert run.serve() == "done"
    assert_exactly_once(run)


def test_a_link_that_is_gone_for_ten_rounds_repeats_nothing_and_says_what_was_lost(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = paced(tmp_path / "r", data, PAIR, steps=400, grace_s=0.0, round_min=2, round_min_s=120.0, solo_min=2)
    runs.append(run)
    run.serve(until_min=5)
    box, said = run.workers["b"]._mailbox, []
    answer = box.answer
    box.answer = lambda message, envelope: said.append((message, envelope))  # type: ignore[method-assign]
    version = run.ledger.head().version
    while run.ledger.head().version < version + 10:
        run.serve(until_min=(run.clock.now() - T0 + TICK) / 60)
    assert said, "b has handed something in, and nobody has heard it"
    box.answer = answer  # type: ignore[method-assign]
    for message, envelope in said:
        answer(message, envelope)
    assert run.serve() == "done"
    lost = run.events("work_lost")
    assert lost
    for _, _, site, d in lost:
        assert site == "b"
        assert "base_max_age" in d["reason"] or "does not hold" in d["reason"]
        assert d["tokens"] > 0
        assert d["kwh"] > 0
    told = summarise(run.dir)
    assert told["work_lost"] == told["sites"]["b"]["work_lost"]
    assert told["work_lost"]["tokens"] == sum(d["tokens"] for _, _, _, d in lost)
    assert_exactly_once(run)


def test_what_sites_do_together_is_told_when_they_change_and_at_the_end(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = paced(tmp_path / "r", data, {"a": [(0.0, 1e5)], "b": [(20.0, 1e5)]}, steps=400, solo_min=4)
    runs.append(run)
    assert run.serve() == "done"
    alone, both = [d for _, _, _, d in run.events("together")][:2]
    assert (alone["sites"], both["sites"]) == (["a"], ["a", "b"])
    assert both["tokens_per_s"] > 1.3 * alone["tokens_per_s"]
    assert alone["received_bytes_per_round"] > 0
    assert both["sent_bytes_per_round"] > 0
    assert both["rounds"] == sum(d["mode"] == "federated" for _, _, _, d in run.events("round"))
