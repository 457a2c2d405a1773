# Each target sets up .venv by itself. `make demo ARGS=--help` and `make test ARGS="-k house"` pass arguments on.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLD_TRITON := $(VENV)/triton-3.6.0
TESTED := $(shell sed -n 's/^TESTED = //p' modeling/transformers_versions.py | tr -d '(",)')
TRANSFORMERS := $(addprefix $(VENV)/transformers-,$(firstword $(TESTED)) $(lastword $(TESTED)))

export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
export GRADIO_ANALYTICS_ENABLED := False

CPU_BENCHMARKS := $(filter-out benchmarks/gpu_% benchmarks/_% benchmarks/report.py,$(sort $(wildcard benchmarks/*.py)))
GPU_BENCHMARKS := $(sort $(wildcard benchmarks/gpu_*.py))
REPORT := $(wildcard benchmarks/report.py)

.PHONY: help demo test lint bench gpu clean

help:
	@echo 'make demo    show what the models, kernels and trainers do (about a minute once installed)'
	@echo 'make test    run the tests on the CPU'
	@echo 'make lint    check style and known weaknesses (ruff, bandit) and types (mypy)'
	@echo 'make bench   run the CPU benchmarks and render their report'
	@echo 'make gpu     run the tests and benchmarks that need a CUDA device'
	@echo 'make clean   remove caches and build outputs; .venv stays'

# Only the large downloads are shown: the full list is long, and silence would look like a hang.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt needs Python 3.11 or newer; try make PYTHON=python3.11")'
	@echo 'Installing into $(VENV) (the first time takes a few minutes) ...'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@set -o pipefail; $(BIN)/pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]' \
		| sed -unE -e 's/^ +((Downloading|Using cached) .*\([0-9.]+ [MG]B\)).*/  \1/p' \
			-e 's/^(Installing) collected packages.*/  \1 .../p'
	@touch $@

demo: $(STAMP)
	$(BIN)/mimo-hf demo $(ARGS)

# Beside the installed ones: the oldest Triton that the kernels support, for tests/kernels, and the oldest and the newest
# transformers that the models support, for tests/test_versions.py. Where one can't be had (no network, another system), the
# test that wants it says so.
define install_beside
	@rm -rf $@.new
	@if $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@.new $(1); \
		then rm -rf $@ && mv $@.new $@; else echo '$(1) could not be installed into $@.'; fi
endef

$(OLD_TRITON): $(STAMP)
	$(call install_beside,triton==3.6.0)

$(TRANSFORMERS): $(VENV)/transformers-%: $(STAMP)
	$(call install_beside,transformers==$*)

# One process a core, at most four: each takes 2 to 3 GB. tests/_workers.py says which tests keep together.
WORKERS ?= logical

test: $(STAMP) $(OLD_TRITON) $(TRANSFORMERS)
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 15 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive mimo_hf modeling trainers kernels spaces
	$(BIN)/mypy -p mimo_hf

bench: $(STAMP)
	@set -e; for script in $(CPU_BENCHMARKS) $(REPORT); do echo "== $$script"; $(BIN)/python $$script; done

gpu: $(STAMP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make gpu: no CUDA device is present")'
	$(BIN)/pytest -m gpu $(ARGS)
	@set -e; for script in $(GPU_BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
