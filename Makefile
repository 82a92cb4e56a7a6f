# make demo    install into .venv, fit real data, leave a report
# make test    install what the tests need, then lint, types, layers, doctests, tests
# make parity  every rule x loss x layout x batch size against the reference
# make reliability   kills, power cuts, full disks, flipped bits, files from strangers: one table
# make study   the study of learning-rate finders: ours and everybody else's on the same cells (20 minutes; what is done is kept)
# make coverage   how often the interval of find_lr holds the best rate (four minutes)
# make bench   the speed table, side by side with its peers
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
# Two processes with one OpenMP thread each: two threads in each would spin against each other. The linear engine's own
# threads are not OpenMP's, and the tests of PyTorch's threads set their number themselves.
APART  := -n 2 --dist loadfile

.PHONY: demo test parity reliability bench study coverage images wheel clean

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,test]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/fallline fit digits --out runs/demo --overwrite

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python src
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(APART)

parity: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(APART) -m parity tests/parity

reliability: $(VENV)/.test
	$(BIN)/python -m tests.reliability

bench: $(VENV)/.test
	$(BIN)/python benchmarks/linear.py
	$(BIN)/python benchmarks/torch_loop.py
	$(BIN)/python benchmarks/update.py

.venv-finders/.made:
	$(PYTHON) -m venv .venv-finders
	.venv-finders/bin/python -m pip install --quiet torch==2.13.0 fastai lightning torch-lr-finder pytorch-ignite
	.venv-finders/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

study: $(VENV)/.test .venv-finders/.made
	$(BIN)/python -m benchmarks.advice --finders .venv-finders/bin/python --record build/advice/record

coverage: $(VENV)/.test
	$(BIN)/python -m benchmarks.advice.coverage --record build/advice/coverage
	$(BIN)/python -m benchmarks.advice.coverage --training --record build/advice/coverage-training

images: $(VENV)/.demo
	$(BIN)/python docs/make_images.py

wheel: $(VENV)/.test
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) dist build runs .pytest_cache .ruff_cache .hypothesis
