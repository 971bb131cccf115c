# All commands use .venv, created with the first Python found that is new enough.
VENV := .venv
RUN := $(VENV)/bin
CANDIDATES := $(PYTHON) python3.12 python3.13 python3.14 python3 python

.PHONY: demo test test-slow test-suites test-kills test-mutations suites learning bench bench-check lint format ci clean

demo: $(VENV)/ready
	$(RUN)/rljax train ppo --env CartPole-v1 --seeds 64 --total-steps 100000 --out runs/demo --overwrite
	$(RUN)/rljax watch runs/demo --out runs/demo/policy.gif
	$(RUN)/rljax report runs/demo --out runs/demo/report.html

# Tests mostly compile, on one core each: use several processes, and keep each file in one process.
test: $(VENV)/ready
	$(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/ready
	$(RUN)/python -m pytest -m slow

# Installs the suites of environments that run on this machine; takes about 3 GB.
suites: $(VENV)/ready
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[suites]'

# Runs all tests of the suites that are installed, long ones included; takes an hour or more, mostly to compile.
test-suites: $(VENV)/ready
	$(RUN)/python -m pytest -m "slow or not slow" -n auto --maxprocesses 4 tests/envs/suites

# Kills and damages runs and the nodes of a cluster, and prints the counts.
test-kills: $(VENV)/ready
	$(RUN)/python -m pytest -m slow -s tests/experiment/test_kills.py tests/experiment/test_cluster_kills.py \
		tests/experiment/test_damage.py tests/experiment/test_together.py

# Plants faults in copies of the package and lists those that no test notices. All of them take most of a day;
# `python tests/mutations.py PATH` plants those of a file.
test-mutations: $(VENV)/ready
	$(RUN)/python tests/mutations.py

learning: $(VENV)/ready
	$(RUN)/python benchmarks/learning.py

# Takes about an hour, mostly for the peers; leave the machine idle meanwhile.
bench: $(VENV)/ready
	$(RUN)/rljax bench

# Compares the speed of a few algorithms with benchmarks/results/baseline.json.
bench-check: $(VENV)/ready
	$(RUN)/rljax bench check

lint: $(VENV)/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(VENV)/ready
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# Everything that must pass before a change lands.
ci:
	.ci/run

$(VENV)/ready: pyproject.toml
	@for python in $(CANDIDATES); do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "rljax needs Python 3.12 or newer with its venv module: install it, or name it with make PYTHON=/path/to/python." >&2; \
		exit 2; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version); this happens once and takes a few minutes." && \
	$$found -m venv $(VENV) && \
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' && \
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
