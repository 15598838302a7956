# The few verbs. `make demo` and `make test` need only Python 3.11 and make; the rest is fetched.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .uv/bin/uv
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv

.PHONY: help demo test check format test-extras schemas bench-listener bench-embedder bench-tasks bench-explainer bench-query fuzz faults clean
.DEFAULT_GOAL := help

help:
	@echo "make demo          start everything, push about 24 studies, show the results (ARGS='--exit --json out.json')"
	@echo "make test          set up and run all tests (ARGS='-k listener')"
	@echo "make check         format, lint, types, import contracts, schemas"
	@echo "make test-extras   install each service's extra alone and run its tests"
	@echo "make bench-listener  measure the listener beside Orthanc and storescp (ARGS='--quick')"
	@echo "make bench-embedder  measure file to embedding beside the stock pipeline (ARGS='--quick', '--models none --soak 20000')"
	@echo "make bench-tasks   measure every task's head and write docs/tasks.md (ARGS='--studies 60')"
	@echo "make bench-explainer  measure ViT-CX beside a plain transcription of the published procedure"
	@echo "make bench-query   measure the vector index beside exact numpy, and the query service over it"
	@echo "make fuzz          at least 20,000 cases against the listener and 5,000 against the query service"
	@echo "make faults        at least 200 kills of the listener"
	@echo "make schemas       write schemas and generated documents from the code"

$(UV):
	@echo "Installing uv $(UV_VERSION) into .uv"
	@$(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

# What `similis` needs to run; the tools for tests stay if they are there.
.venv/runtime: $(UV) uv.lock pyproject.toml
	$(UV) sync --locked --all-extras --no-dev --inexact --python $(PYTHON)
	@touch $@

.venv/development: $(UV) uv.lock pyproject.toml
	$(UV) sync --locked --all-extras --python $(PYTHON)
	@touch .venv/runtime $@

demo: .venv/runtime
	.venv/bin/similis demo $(ARGS)

test: .venv/development
	.venv/bin/python -m pytest $(ARGS)

check: .venv/development
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/similis schemas check

format: .venv/development
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

test-extras: $(UV)
	@for extra in listener embedder explainer query; do \
		echo "== the $$extra extra alone"; \
		export UV_PROJECT_ENVIRONMENT=build/env-$$extra; \
		$(UV) sync --locked --quiet --no-default-groups --group test --extra $$extra --python $(PYTHON) || exit 1; \
		build/env-$$extra/bin/python -m pytest -q -m "not slow" tests/services/$$extra || exit 1; \
	done
	@! build/env-listener/bin/python -c "import torch" 2>/dev/null || { echo "the listener's environment has torch"; exit 1; }

schemas: .venv/development
	.venv/bin/similis schemas export

bench-listener: .venv/development
	.venv/bin/python -m bench.listener --json bench/results/listener.json --plot docs/listener.png $(ARGS)

bench-embedder: .venv/development
	.venv/bin/python -m bench.embedder --json bench/results/embedder.json --plot docs/embedder.png $(ARGS)

bench-tasks: .venv/development
	.venv/bin/python -m bench.tasks --json bench/results/tasks.json $(ARGS)

bench-explainer: .venv/development
	.venv/bin/python -m bench.explainer --json bench/results/explainer.json $(ARGS)

bench-query: .venv/development
	.venv/bin/python -m bench.query.engine --json bench/results/query-engine.json $(ARGS)
	.venv/bin/python -m bench.query.service --json bench/results/query-service.json

fuzz: .venv/development
	SIMILIS_FUZZ_CASES=20000 SIMILIS_FUZZ_QUERY_CASES=7000 .venv/bin/python -m pytest tests/fuzz -p no:logging --timeout 3600 $(ARGS)

faults: .venv/development
	SIMILIS_FAULT_KILLS=200 SIMILIS_FAULT_CUTS=60 .venv/bin/python -m pytest tests/faults --timeout 3600 $(ARGS)

# What was built; never data.
clean:
	rm -rf .venv .uv build
