# make ablation     install everything and run the study of the likelihood on the embedded data set
# make test         install everything and run the tests, but for the slow ones
# make test-faults  the slow tests, one at a time: processes killed, nodes lost, clusters brought up (docs/reliability.md)
# make coverage     how much of cgd and ablations their own tests run; fails below the floor in pyproject.toml
# make reliability  the fault tests, and from what they saw the table of docs/reliability.md
# make ui           browse the results on http://127.0.0.1:5000 (docs/mlflow.md)

PYTHON ?= python3
VENV   ?= .venv
OUTPUT ?= outputs
PORT   ?= 5000
PIP     = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: ablation test test-faults coverage reliability lint ui clean

ablation: $(VENV)/.installed
	$(VENV)/bin/python tune/run_ablation.py --study likelihood --output $(OUTPUT)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-faults: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -m slow

coverage: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow" tests/cgd tests/ablations --cov

reliability: $(VENV)/.installed-dev
	$(VENV)/bin/python tests/faults/reliability_table.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Loopback only, one worker, no job runner: 3 processes in place of 15. Under gunicorn MLflow serves neither its
# Assistant, through which any process of this machine could run commands as you, nor its gateway (SECURITY.md).
ui: $(VENV)/.installed
	@test -f $(OUTPUT)/mlflow.db || { echo "no MLflow store at $(OUTPUT)/mlflow.db: run 'make ablation' first, or give OUTPUT=DIR"; exit 2; }
	@echo "MLflow UI: http://127.0.0.1:$(PORT)/#/experiments/1/runs?workflowType=machine_learning  (Ctrl-C stops it)"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
	MLFLOW_SERVER_ALLOWED_HOSTS="localhost,localhost:*,127.0.0.1,127.0.0.1:*" PYTHONWARNINGS=ignore::FutureWarning \
	$(VENV)/bin/mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
	  --backend-store-uri sqlite:///$(abspath $(OUTPUT))/mlflow.db \
	  --gunicorn-opts "--threads 4"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is older. Give another with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing the packages (a few minutes the first time) ..."
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
