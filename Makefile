# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test extended check bench notebooks clean

demo: $(VENV)/.user  ## install into .venv, index examples/corpus with the bundled model, answer questions
	$(BIN)/grit demo

# Two processes of one thread are faster than one process of two: most tests are small models and waiting.
test: $(VENV)/.dev check  ## everything that must hold before a commit lands
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

extended: $(VENV)/.dev  ## half an hour: 5,000 cases of hit against miss, 200 kills, 64 threads for 10 minutes, fuzzing
	GRIT_EXACT_CASES=5000 $(BIN)/pytest -m "" tests/kv/test_exact.py
	GRIT_HAMMER_SECONDS=600 $(BIN)/pytest -m extended
	$(BIN)/pip install --quiet -c constraints.txt atheris
	$(BIN)/python tests/fuzz/by_coverage.py checkpoint -max_total_time=300
	$(BIN)/python tests/fuzz/by_coverage.py store -max_total_time=300
	$(BIN)/pip install --quiet -c constraints.txt -e '.[mteb]'
	$(BIN)/pytest tests/evaluation/test_mteb.py

check: $(VENV)/.dev  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## the figures of docs/benchmarks.md; writes JSON and plots to benchmarks/results
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/pip install --quiet -c constraints.txt --no-deps kvboost==0.9.0
	$(BIN)/python benchmarks/caching.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/reranking.py
	$(BIN)/python benchmarks/reranker_conformance.py
	$(BIN)/python benchmarks/ingest.py

notebooks: $(VENV)/.dev  ## run the notebooks and keep their outputs
	$(BIN)/python -m jupyter execute --inplace examples/*.ipynb

# A plain `torch` pulls gigabytes of CUDA on Linux, so the pinned one is installed first.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e '.[all]'
	touch $@

# gritlm is the reference that tests and benchmarks compare with; its other dependencies (mteb, wandb) are not needed.
$(VENV)/.dev: $(VENV)/.user
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps gritlm==1.0.2
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
