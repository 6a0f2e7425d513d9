"""A site's GPUs are held to the power of its level through NVML (a double of its functions), and given back what they had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from energy.capped import Gpus
from windfall.site.power_cap import LIMITS_NAME, PowerCap


def test_gpus_are_held_to_a_level_once_and_given_back_what_they_had(tmp_path: Path) -> None:
    gpus = Gpus()
    cap = PowerCap(tmp_path, library=gpus)
    assert cap.hold(250.0) == ""
    assert cap.hold(250.0) == ""
    assert gpus.asked == [(0, 250_000), (1, 250_000)]
    assert json.loads((tmp_path / LIMITS_NAME).read_text()) == {"GPU-0": 350_000, "GPU-1": 350_000}
    assert cap.hold(300.0) == ""
    assert gpus.limits == {0: 300_000, 1: 300_000}
    assert cap.hold(None) == ""
    assert gpus.limits == {0: 350_000, 1: 350_000}, "what they were held to at first, and not in between"
    assert not (tmp_path / LIMITS_NAME).exists()
    assert gpus.open == 0


def test_only_the_sites_own_gpus_are_touched_and_never_over_what_they_can(tmp_path: Path) -> None:
    gpus = Gpus(3)
    assert PowerCap(tmp_path, [1], library=gpus).hold(500.0) == ""
    assert gpus.limits == {0: 350_000, 1: 400_000, 2: 350_000}


def test_at_full_power_nothing_is_asked_of_nvml(tmp_path: Path) -> None:
    cap = PowerCap(tmp_path, library=Gpus(driver=False))
    assert cap.hold(None) == ""
    assert cap.restore() == ""


def test_what_a_life_that_died_held_is_given_back_by_the_next(tmp_path: Path) -> None:
    gpus = Gpus()
    assert PowerCap(tmp_path, library=gpus).hold(200.0) == ""
    following = PowerCap(tmp_path, library=gpus)
    assert following.restore() == ""
    assert gpus.limits == {0: 350_000, 1: 350_000}
    # And where the next one holds them anew before that, what counts is still what was there at first.
    assert PowerCap(tmp_path, library=gpus).hold(200.0) == ""
    later = PowerCap(tmp_path, library=gpus)
    assert later.hold(150.0) == ""
    assert later.hold(None) == ""
    assert gpus.limits == {0: 350_000, 1: 350_000}


def test_what_cannot_be_held_is_said_and_nothing_of_it_stays(tmp_path: Path) -> None:
    gpus = Gpus(refuses=(1,))
    cap = PowerCap(tmp_path, library=gpus)
    why = cap.hold(250.0)
    assert "Insufficient Permissions" in why
    assert "takes root" in why
    assert gpus.limits == {0: 350_000, 1: 350_000}
    assert cap.hold(250.0) == why, "it is not asked again and again"
    gpus.refuses.clear()
    assert cap.hold(None) == ""
    assert cap.hold(250.0) == ""


@pytest.mark.parametrize(
    ("gpus", "watts", "words"),
    [
        (Gpus(), 80.0, "GPU 0 can be held to 100 to 400 W, and not to 80 W"),
        (Gpus(0), 200.0, "this machine has no GPU"),
        (Gpus(driver=False), 200.0, "is there an NVIDIA driver"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path: Path, gpus: Gpus, watts: float, words: str) -> None:
    assert words in PowerCap(tmp_path, library=gpus).hold(watts)
    assert gpus.asked == []
    assert gpus.open == 0


def test_a_gpu_that_does_not_obey_and_one_that_is_not_there_are_told(tmp_path: Path) -> None:
    gpus = Gpus()
    gpus.deaf = {1}
    assert "GPU 1 was to be held to 200 W, and is at 350 W" in PowerCap(tmp_path, library=gpus).hold(200.0)
    assert gpus.limits[0] == 350_000
    assert "Invalid Argument" in PowerCap(tmp_path, [5], library=gpus).hold(200.0)


def test_what_cannot_be_given_back_is_kept_for_another_try(tmp_path: Path) -> None:
    gpus = Gpus()
    cap = PowerCap(tmp_path, library=gpus)
    assert cap.hold(200.0) == ""
    gpus.refuses = {1}
    assert "GPU-1 cannot be held to its 350 W of before" in cap.hold(None)
    assert json.loads((tmp_path / LIMITS_NAME).read_text()) == {"GPU-1": 350_000}
    gpus.refuses = set()
    assert PowerCap(tmp_path, library=gpus).restore() == ""
    assert gpus.limits == {0: 350_000, 1: 350_000}
    (tmp_path / LIMITS_NAME).write_text('{"GPU-0": "much", "GPU-1": -1}')
    assert PowerCap(tmp_path, library=gpus).restore() == "", "what makes no sense is no limit"


def test_a_disk_that_takes_nothing_leaves_the_gpus_as_they_are(tmp_path: Path) -> None:
    gpus = Gpus()
    assert "cannot be kept" in PowerCap(tmp_path / "gone", library=gpus).hold(200.0)
    assert gpus.asked == []
