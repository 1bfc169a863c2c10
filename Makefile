# Every target sets up .venv when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test check docs bench bench-sweep bench-vllm serve-check gpu conformance environments format clean

quickstart: $(READY)  ## base model -> SFT -> GRPO -> vote, on a CPU, in minutes
	$(BIN)/posttrain run recipes/quickstart.yaml output=$(or $(OUTPUT),runs/quickstart)

test: $(READY)  ## the whole suite, files side by side on all cores (JOBS=1: one after another)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(or $(JOBS),auto) --dist loadfile

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

docs: $(READY)  ## the site, into docs/_build/html; every warning is an error
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --builder html docs docs/_build/html

bench: $(READY)  ## the README's table: beside TRL, its defaults and its best (PAIRS rounds; ONLY=sft,grpo)
	$(if $(ONLY),,$(BIN)/python benchmarks/forest_cost.py --pairs $(or $(PAIRS),3) --prompts 1000)
	$(BIN)/python benchmarks/peer.py --pairs $(or $(PAIRS),3) $(if $(ONLY),--only $(ONLY))

bench-sweep: $(READY)  ## TRL's best settings on this machine, for `make bench` to read (once; ONLY=sft,grpo)
	$(BIN)/python benchmarks/sweep.py $(if $(ONLY),--only $(ONLY))

bench-vllm: $(READY)  ## the embedded engine beside vLLM on this CPU (its environment is 2.9 GB; ROUNDS=3)
	$(BIN)/python benchmarks/engine_peer.py --rounds $(or $(ROUNDS),3)

serve-check: $(READY)  ## GRPO through a real vLLM on this CPU (VLLM=its interpreter, else one is made: 2.9 GB; SEEDS=5)
	$(BIN)/python benchmarks/serve_check.py --seeds $(or $(SEEDS),5) --steps $(or $(STEPS),20) $(if $(VLLM),--python $(VLLM))

# No network is needed, and no .venv: any Python with PyTorch for CUDA, transformers and pytest will do.
gpu:  ## on a machine with a GPU: its tests, then figures; 8 minutes at most (ONLY="0.6b sft,tests")
	PYTHONPATH=src $(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py $(if $(ONLY),--only "$(ONLY)")

conformance: $(READY)  ## value, gradients and metrics of losses beside TRL's, in its environment
	$(BIN)/python benchmarks/peer.py --install
	benchmarks/.peer/bin/python -m pip install --quiet --constraint constraints.txt pytest --editable .
	benchmarks/.peer/bin/python -m pytest tests/conformance

environments: $(READY)  ## published environments of TRL and verifiers, run as they are (ONLY=trl-2048)
	$(BIN)/python benchmarks/environments.py $(if $(ONLY),--only $(ONLY))

format: $(READY)
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache

# torch is installed first and alone: the constraint then keeps every later package from replacing it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
