"""How much disk a run takes, and where that is told."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from windfall.cli.demo import bundled
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.run import preflight
from windfall.run.disk_need import disk_need, too_little
from windfall.train.shape import GPTConfig
from windfall.train.sizes import memory_bytes


@pytest.fixture
def config() -> Config:
    return loads(bundled("demo.toml"), "demo.toml", Path())


def test_a_larger_model_more_sites_and_more_versions_need_more(config: Config) -> None:
    d20 = GPTConfig(depth=20, width=1280, vocab_size=65_536)
    need = disk_need(config, d20)
    copies = config.federation.keep_versions + 2  # what is kept, and what is being made
    assert need.versions == copies * memory_bytes(d20).weights
    assert copies * 2.1e9 < need.versions < copies * 2.4e9  # 561M parameters of four bytes
    one = config.model_copy(update={"site": config.site[:1]})
    assert disk_need(one, d20).sites * len(config.site) == need.sites
    assert disk_need(one, d20).versions == need.versions
    assert disk_need(config, GPTConfig(depth=4, vocab_size=260)).total < need.total / 20
    averaging = config.model_copy(update={"federation": config.federation.model_copy(update={"average_inner_every": 2})})
    assert disk_need(averaging, d20).sites > need.sites + len(config.site) * memory_bytes(d20).optimizer
    assert disk_need(averaging, d20).versions > need.versions + memory_bytes(d20).optimizer


def test_a_disk_that_is_too_small_is_told_with_what_takes_the_room(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=1 << 30))
    said = too_little(config, GPTConfig(depth=20, width=1280, vocab_size=65_536), tmp_path / "runs" / "x")
    assert said.startswith("the run needs up to ")
    assert f"{tmp_path} has 10.7 GB free; make room" in said
    assert too_little(config, GPTConfig(depth=4, vocab_size=260), tmp_path) == ""  # nobody needs to be told
    monkeypatch.setattr(preflight, "too_little", lambda c, shape, folder: f"{folder}: too little")
    found, _ = preflight.look_around(config, whole=True)
    assert [(f.what, f.here) for f in found if "too little" in f.what] == [(f"runs/{config.run.name}: too little", True)]
