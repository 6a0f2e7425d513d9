# Two commands do everything: `make demo` and `make test`. Each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := src tests benchmarks

# Tests start many processes: each would compile all of Windfall again where the environment says to keep nothing.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-long check bench bench-backtest bench-microgrid bench-meters bench-policies bench-parity bench-training \
  bench-data bench-differences bench-messages bench-federation verify-federation bench-anywhere verify-anywhere bench-gpu \
  verify-d20 study bench-dashboard verify-dashboard bench-long-run chaos chaos-short docs reference setup setup-tests \
  clean

demo: setup
	$(BIN)/windfall demo

# The slow suite starts real processes, which mostly wait for each other: two files at a time, in their order, which ends with short
# ones, so that there is room beside it for the rest, in one process. What fails does not keep the others from being run.
test: setup setup-tests
	@scripts/all "& $(MAKE) -k check test-fast WORKERS=0" \
	  "$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder tests/test_docs_run.py tests"

# Each worker imports and collects everything again: some ten seconds of a processor.
WORKERS ?= auto
test-fast: setup setup-tests
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --maxprocesses 4

# Properties with ten times as many examples, and every fault at every point: an hour.
test-long: setup setup-tests
	WINDFALL_LONG=1 $(BIN)/python -m pytest -m "not slow" -n auto
	WINDFALL_LONG=1 $(BIN)/python -m pytest -m slow tests/faults

check: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

bench: bench-backtest bench-microgrid bench-parity bench-long-run bench-training bench-data bench-messages

bench-backtest: setup
	$(BIN)/python benchmarks/backtest.py

# A year with a microgrid, battery and three sites; under a minute.
bench-microgrid: setup
	$(BIN)/python benchmarks/microgrid_year.py

# What reading a meter once a second costs a step.
bench-meters: setup
	$(BIN)/python benchmarks/meters.py

# Policies beside the oracle, on the bundled year and on prices where the data are: some twenty minutes.
bench-policies: setup
	$(BIN)/python -m benchmarks.policies $(if $(DATA),--data $(DATA))

bench-parity: setup
	$(BIN)/python benchmarks/parity.py

bench-training: setup
	$(BIN)/python benchmarks/training.py

bench-data: setup
	$(BIN)/python benchmarks/data.py

# What travels between sites and coordinator, at the study's size: some 14 GB of files, two minutes.
bench-differences: setup
	$(BIN)/python benchmarks/differences.py

bench-messages: setup
	$(BIN)/python benchmarks/messages.py

# What a federation costs trainers, links and coordinator: some fifteen minutes, and the machine to itself.
bench-federation: setup
	$(BIN)/python -m benchmarks.federation

# What takes longer too: real trainers, and the study's 561M parameters through the whole path (24 GB of memory, 40 GB of disk).
verify-federation: setup
	$(BIN)/python -m benchmarks.federation --all

# Decision to first step and to released, by driver, and links cut in mid-bulk: some ten minutes; as root, with Slurm.
bench-anywhere: setup setup-tests
	$(BIN)/python -m benchmarks.anywhere

# Sites on other machines, at length: a thousand storms over doubled clusters, an hour of a hundred sites, real runs of every kind.
verify-anywhere: setup setup-tests
	WINDFALL_LONG=1 $(BIN)/python -m pytest -m slow tests/kubernetes tests/exalsius tests/fleet tests/deploy tests/run/test_run_hosts.py tests/run/test_run_resident.py tests/run/test_run_elsewhere.py

# The study's model on a GPU; says so in one line where there is none.
bench-gpu: setup
	$(BIN)/python benchmarks/gpu_d20.py

# A real d20 with default time-outs, its trainer killed in its second step: 15 minutes or more, 12 GB of memory, 25 GB of disk.
verify-d20: setup
	$(BIN)/python benchmarks/d20.py

# The study's scenarios with real training at CPU scale, its day and its figures beside ours: a page in runs/study, 25 minutes.
study: setup
	$(BIN)/python -m benchmarks.study

# The dashboard over a generated run of 30 days, 20 sites and a million events: size, first load, memory, events, many pages. Ten minutes.
bench-dashboard: setup setup-tests
	$(BIN)/python -m benchmarks.dashboard

# The same at length, a thousand clients and slow ones among them, and schemathesis with many cases.
verify-dashboard: setup setup-tests
	$(BIN)/python -m benchmarks.dashboard --all
	$(BIN)/python -m benchmarks.dashboard_live
	$(BIN)/python -m benchmarks.grid_events
	WINDFALL_LONG=1 $(BIN)/python -m pytest -m slow tests/ui/test_ui_web_browser.py tests/ui/test_ui_web_contract.py
	WINDFALL_LONG=1 $(BIN)/python -m pytest tests/ui/test_ui_web.py -k thousands

bench-long-run: setup
	$(BIN)/python benchmarks/long_run.py

# A hundred faults in real runs, about half an hour; the short form takes about three minutes and is part of CI.
chaos: setup setup-tests
	$(BIN)/python benchmarks/chaos.py

chaos-short: setup setup-tests
	$(BIN)/python benchmarks/chaos.py --short

# The documentation as a site: build/docs/index.html. A link that leads nowhere is a failure.
docs: setup
	$(BIN)/zensical build --strict

# What is made from the code in docs/: tests compare.
reference: setup
	$(BIN)/python -m windfall.cli.reference configuration > docs/configuration.md
	$(BIN)/python -m windfall.cli.reference command-line > docs/command-line.md
	$(BIN)/python -m windfall.view.dictionary > docs/columns.md
	$(BIN)/python docs/images/draw.py

setup: $(VENV)/.done

setup-tests:
	@scripts/setup tests

$(VENV)/.done: pyproject.toml constraints.txt scripts/setup
	PYTHON=$(PYTHON) scripts/setup
	touch $@

clean:
	rm -rf $(VENV) runs
