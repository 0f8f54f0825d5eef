# Two commands do everything: `make sweep` and `make test`. Each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: sweep test lint types clean

sweep: .venv/.ready
	$(BIN)/fastrank sweep experiments/configs/digits.toml --out runs/digits
	$(BIN)/fastrank report runs/digits

test: .venv/.ready
	$(BIN)/python -m pytest

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot see through the editable mapping of experiments/: it checks the wheel, unpacked in a folder of its own.
types: .venv/.ready
	rm -rf build/wheel build/site build/lib
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/pip install --quiet --no-deps --target build/site build/wheel/*.whl
	cd build/wheel && MYPYPATH=../site ../../$(BIN)/mypy --config-file ../../pyproject.toml -p fastrank

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fastrank needs Python >= 3.11; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[experiments,dev]'
	touch $@

clean:
	rm -rf .venv build runs
