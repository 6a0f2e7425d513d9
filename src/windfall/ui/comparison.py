"""What ``windfall.backtest`` returns: a backtest's tables, figures and provenance, for notebooks and for papers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall.config.schema import Config
from windfall.errors import RunError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import Backtest
from windfall.simulate.many import Compared
from windfall.store.files import to_json, write_atomic
from windfall.view.backtest_frames import backtest_frames, pairs_frame, summary_frame, sweep_frame, traces_frame
from windfall.view.dictionary import dictionary
from windfall.view.frame import Frame

if TYPE_CHECKING:
    from windfall.simulate.provenance import Provenance
    from windfall.ui.page.figures import Draw

#: Width of figures in files (pixels of 1/96 inch).
_WIDE = 1040.0


class Figure:
    """One figure, drawn when it is asked for; notebooks show it."""

    def __init__(self, name: str, draw: Draw) -> None:
        self.name = name
        self._draw = draw

    def svg(self, width: float = _WIDE) -> str:
        """It as an SVG document, ``width`` in pixels of 1/96 inch."""
        from windfall.ui.page import figures

        return figures.svg(self._draw, width)

    def pdf(self, width: float = _WIDE) -> bytes:
        """It as a PDF."""
        from windfall.ui.page import figures

        return figures.pdf(self._draw, width)

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return f"Figure({self.name}: svg(), pdf())"


class PolicyComparison:
    """Policies compared: ``tables`` by name, of which ``rows`` has a row a policy (and start date), ``figures``, ``provenance``."""

    def __init__(self, config: Config, found: Backtest | Compared) -> None:
        self.config = config
        self._found = found
        self._figures: dict[str, Figure] | None = None
        if isinstance(found, Backtest):
            self.tables = backtest_frames(found)
        else:
            self.tables = {
                "points": sweep_frame(found.points), "summary": summary_frame(found.summaries), "pairs": pairs_frame(found.pairs),
                "traces": traces_frame(found.provenance),
            }  # fmt: skip

    @property
    def rows(self) -> Frame:
        """A row for each policy (deadline, delay); from many start dates also for each of them."""
        return self.tables["rows"] if "rows" in self.tables else self.tables["points"]

    @property
    def columns(self) -> Frame:
        """What every column of every table means, and its unit."""
        return dictionary(self.tables)

    @property
    def warnings(self) -> list[str]:
        """What is odd about the signals, and what has no row."""
        return self._found.warnings

    @property
    def provenance(self) -> Provenance:
        """Version and commit, configuration, traces."""
        assert self._found.provenance is not None
        return self._found.provenance

    @property
    def figures(self) -> dict[str, Figure]:
        """Figures by name: lanes and emitted of one backtest; spread and paired of many start dates."""
        if self._figures is None:
            self._figures = {name: Figure(name, draw) for name, draw in draws(self._found, self.config).items()}
        return self._figures

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall backtest --json` prints."""
        return self._found.as_json()

    def write_tables(self, folder: Path | str) -> list[Path]:
        """Write tables, ``columns.csv``, ``summary.json`` and the resolved configuration into a folder; the files.

        Raises:
            RunError: it cannot be written.
        """
        path = Path(folder)
        summary = to_json(self.as_json(), indent=2, ensure_ascii=False) + "\n"
        texts = {"summary.json": summary, "config.toml": self.provenance.config_toml}
        frames = {**self.tables, "columns": self.columns}
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            for name, frame in frames.items():
                frame.to_csv(path / f"{name}.csv")
            for name, text in texts.items():
                write_atomic(path / name, [text.encode()], durable=False)
        return [path / name for name in (*(f"{n}.csv" for n in frames), *texts)]

    def write_figures(self, folder: Path | str) -> list[Path]:
        """Write each figure as SVG and PDF into a folder; the files.

        Raises:
            RunError: it cannot be written.
        """
        path = Path(folder)
        made = {f"{n}.svg": f.svg().encode() for n, f in self.figures.items()}
        made |= {f"{n}.pdf": f.pdf() for n, f in self.figures.items()}
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            for name, data in made.items():
                write_atomic(path / name, [data], durable=False)
        return [path / name for name in made]

    def __repr__(self) -> str:
        return f"{self._found!r}\n{self._short()!r}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self._found))}</p>{self._short()._repr_html_()}"

    def _short(self) -> Frame:
        """What comes first: each policy's figures; of many start dates their medians."""
        table = self.tables["rows"] if "rows" in self.tables else self.tables["summary"]
        figures = ("finish_h", "site_hours", "energy_kwh", "kg_co2", "money", "share_of_oracle", "kg_over_oracle")
        wanted = ("policy", "publication_delay_s", "deadline_h", "start_dates", *figures, *(f"{f}_p50" for f in figures))
        names = [n for n in table.columns if n in wanted and any(v is not None for v in table[n])]
        return Frame({n: table.kinds[n] for n in names}, [[row[n] for n in names] for row in table])


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of the disk as ours."""
    try:
        yield
    except FileExistsError:
        raise RunError(f"{path}: cannot be written: it is a file, and a folder is wanted") from None
    except OSError as e:
        raise RunError(f"{path}: cannot be written: {e.strerror}; name another place or give write access") from None


def draws(found: Backtest | Compared, config: Config) -> dict[str, Draw]:
    """The figures of a backtest, or of many."""
    if isinstance(found, Backtest):
        from windfall.ui import backtest_figures

        grid = build_grid(config)
        drawn = backtest_figures.prepare(found, config, grid)
        emitted = backtest_figures.emitted(found, drawn)
        lanes = backtest_figures.lanes(found, config, grid, drawn)
        return {"lanes": lanes, **({"emitted": emitted} if emitted is not None else {})}
    from windfall.simulate.spread import SpreadPoint
    from windfall.ui import backtest_spread
    from windfall.ui.sweep_page import named

    spread = backtest_spread.spread([SpreadPoint(named(p), p.start, p.row) for p in found.points])
    pairs = backtest_spread.differences(found.pairs)
    return {**({"spread": spread} if spread else {}), **({"paired": pairs} if pairs else {})}
