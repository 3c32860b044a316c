# Every target runs in the virtual environment of the project, and creates it if needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   := $(VENV)/.demo

.PHONY: demo check test audit bench chaos fuzz soak storms pictures dist format clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

# What the package needs and nothing else.
$(DEMO): pyproject.toml
	@test -e $(READY) || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --editable .; }
	@touch $@

demo: $(DEMO)  ## run a real job over the sample tickets through the simulator
	rm -rf runs/ticket_triage.simulated
	$(BIN)/batchrun run jobs/ticket_triage.toml --simulate
	$(BIN)/python -c "import polars as pl; pl.Config(tbl_hide_dataframe_shape=True, fmt_str_lengths=34, tbl_width_chars=110); print(pl.read_parquet('runs/ticket_triage.simulated/results.parquet').select('ticket_id', 'subject', 'label', 'response', 'status', 'cost_usd').head(8))"
	@echo
	@echo "Try next:"
	@echo "  $(BIN)/batchrun report jobs/ticket_triage.toml              charts and scores as a web page"
	@echo "  $(BIN)/batchrun preview jobs/ticket_triage.toml -n 2        the requests, without sending them"
	@echo "  $(BIN)/batchrun estimate jobs/ticket_triage.toml            what a real run would cost"
	@echo "  $(BIN)/batchrun init YOUR_TABLE.csv                         a job file for a table of yours"

check: $(READY)  ## formatting, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: $(READY)  ## the whole test suite, on every core
	$(BIN)/pytest -n auto --dist worksteal

audit: $(READY)  ## check the installed packages for known vulnerabilities (needs the network)
	$(BIN)/python -m pip install --quiet --group audit
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/installed.txt || { \
	echo "audit: a package is vulnerable, or the check failed (it needs the network); see above" >&2; exit 1; }

bench: $(READY)  ## measure the figures of docs/performance.md (hours; 15 GB in the folder for temporary files)
	$(BIN)/python -m benchmarks.large_input
	$(BIN)/python -m benchmarks.resume 10000000
	$(BIN)/python -m benchmarks.checkpoint_size
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.workers
	$(BIN)/python -m benchmarks.workers --ray
	$(BIN)/python -m benchmarks.parts
	$(BIN)/python -m benchmarks.limits
	$(BIN)/python -m benchmarks.limits --simulated
	$(BIN)/python -m benchmarks.report_page
	$(BIN)/python -m benchmarks.batches

chaos: $(READY)  ## kill a run 300 times over 50,000 rows; CHAOS="--only batches --rows N --kills N --seed N --workers N"
	$(BIN)/python -m tests.support.chaos $(CHAOS)

storms: $(READY)  ## measure refusals and outages of a local server (two minutes)
	$(BIN)/python -m tests.support.storms

soak: $(READY)  ## run for 15 minutes with faults and check for leaks; SOAK="--minutes N"
	$(BIN)/python -m tests.support.soak $(SOAK)

fuzz: $(READY)  ## generate job files, tables, responses and damaged runs; FUZZ=N examples
	FUZZ_EXAMPLES=$(or $(FUZZ),2000) $(BIN)/pytest -q tests/run/test_fuzz.py tests/run/test_fuzz_runs.py tests/client/test_fuzz_servers.py

pictures: $(READY)  ## draw docs/images again (needs Chromium)
	$(BIN)/python -m tests.support.pictures

dist: $(READY)  ## build the wheel and the sdist, install each in a clean environment, and run the demo from there
	rm -rf dist
	$(BIN)/python -m pip install --quiet --group dist
	$(BIN)/python -m build --outdir dist .
	for package in dist/*.whl dist/*.tar.gz; do \
	  rm -rf dist/try && mkdir dist/try && cp -r jobs sample_data dist/try/ && $(PYTHON) -m venv dist/try/venv && \
	  dist/try/venv/bin/python -m pip install --quiet "$$package" && \
	  (cd dist/try && venv/bin/batchrun run jobs/ticket_triage.toml --simulate) || exit 1; \
	done
	rm -rf dist/try

format: $(READY)  ## apply formatting and safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs dist .mypy_cache .ruff_cache .pytest_cache
