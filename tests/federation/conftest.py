"""A corpus, and runs that are closed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.harness import Run, corpus


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    made: list[Run] = []
    yield made
    for run in made:
        run.close()
