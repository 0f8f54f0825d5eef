# Two commands do everything: `make sweep` and `make test`. Each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Python keeps what it compiles, whatever the environment says: of the time that a process takes which imports PyTorch and
# little else, compiling is more than half, and the tests start hundreds of them.
unexport PYTHONDONTWRITEBYTECODE
# Two at a time, unless whoever calls has said how many: `make --jobs=N`.
SIDE_BY_SIDE = --no-print-directory $(if $(findstring --jobserver,$(MAKEFLAGS)),,--jobs=2 --output-sync=target)

.PHONY: sweep test test-library test-kernels test-emulated coverage truth endurance fuzz lint types wheel release kernels kernels-3.9 kernels-3.6 bench cards notebook attention factors
.PHONY: docs docs-build docs-pictures
.PHONY: gpu-check gpu-measure gpu-reproduce gpu-carry gpu-rehearse hub clean

sweep: .venv/.ready
	$(BIN)/fastrank sweep experiments/configs/digits.toml --out runs/digits
	$(BIN)/fastrank report runs/digits

# The library, and the kernels in Triton's interpreter, which has to be chosen before Triton is imported: side by side.
test: .venv/.ready
	$(MAKE) $(SIDE_BY_SIDE) test-library test-kernels

test-library: .venv/.ready
	$(BIN)/pytest

test-kernels: .venv/.ready
	TRITON_INTERPRET=1 $(BIN)/pytest tests/kernels

# The kernels once more, as the PTX that Triton compiles for sm_90, where there is an emulator of it: layouts, shared
# memory, barriers and races, which the interpreter knows nothing of. SHORT=--short leaves out what takes longest. The
# kernels of INT8 slices are left out always, for the emulator does not know their instructions.
test-emulated: .venv/.ready build/triton-3.6.0
	PYTHONPATH=build/triton-3.6.0:$(EMULATOR) $(BIN)/pytest tests/kernels -p sm90_emulator -q -m "not int8$(if $(SHORT), and not heavy)"

# Names the lines of fastrank/ and kernels/ that no test of theirs reaches, and fails if these are more than one line in
# twenty. It takes twice as long as the tests. Those of bench/ and experiments/ are left out: lines that only they reach
# ought to have a test of their own.
COVERED := $(filter-out tests/bench tests/experiments tests/helpers tests/conftest.py tests/__pycache__ \
	tests/test_examples.py,$(wildcard tests/*))
coverage: .venv/.ready
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run $(BIN)/pytest $(COVERED)
	TRITON_INTERPRET=1 $(BIN)/coverage run $(BIN)/pytest tests/kernels
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Ten thousand matrices of known rank; not a single bound may be false. DEVICE=cuda LARGEST=4096 where there is a GPU.
# MATRICES=1000000 JOBS=2 takes an hour or two, goes on where it was ended, and writes what is committed.
DEVICE ?= cpu
LARGEST ?= 512
MATRICES ?= 10000
JOBS ?= 1
TRUTH ?= build/truth-$(DEVICE)
WORST = $(if $(filter 1000000,$(MATRICES)),tests/counting,$(TRUTH))/worst.npz
SUMMARY = $(if $(filter 1000000,$(MATRICES)),bench/results/truth,$(TRUTH))/truth.csv
truth: .venv/.ready
	env OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python bench/truth.py --matrices $(MATRICES) --largest $(LARGEST) \
		--device $(DEVICE) --jobs $(JOBS) --out $(TRUTH) --results $(SUMMARY) --report --worst $(WORST)

# Malformed files, many more of them than the tests have: FUZZ of each kind.
FUZZ ?= 5000
fuzz: .venv/.ready
	FASTRANK_FUZZ=$(FUZZ) $(BIN)/pytest tests/attacks/test_fuzz.py

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready
	$(BIN)/mypy -p fastrank

# An sdist, and the wheel that is built from it: each has every file of the packages once, and none of an earlier build.
wheel: .venv/.ready
	$(BIN)/python tools/archives.py build/wheel

# Checks a release and builds it, and uploads nothing. REHEARSE=--rehearse does so whatever is found, without the tests.
release: .venv/.ready
	$(BIN)/python tools/release.py $(REHEARSE)

# A project for Hugging Face's kernels hub, see hub/README.md, and what its builder makes of it.
hub: .venv/.ready
	$(BIN)/python hub/assemble.py --out build/hub

# Five hundred trials whose workers and driver are killed at random; each is to be done exactly once.
endurance: .venv/.ready
	FASTRANK_TRIALS=500 $(BIN)/pytest tests/experiments/sweeps/test_endurance.py

# Every kernel, compiled for every architecture by two Tritons: they emit different instructions. No GPU is needed. Those
# in CUDA C++ are compiled by nvcc, beside the first of them, where there is one. AOT=--no-sass takes a third less time.
kernels: .venv/.ready build/triton-3.6.0
	$(MAKE) $(SIDE_BY_SIDE) kernels-3.9 kernels-3.6

# ARCH_3_9 names the architectures of each process of the first one, joined by a plus.
ARCH_3_9 ?= sm_80+sm_90 sm_86+sm_89 sm_100+sm_120
kernels-3.9: $(ARCH_3_9:%=kernels-3.9-%)

kernels-3.9-%: .venv/.ready
	$(BIN)/python bench/aot.py --arch $(subst +, ,$*) $(AOT)

# ARCH_3_6="--arch sm_90" compiles with the second one for the architecture that is measured only.
kernels-3.6: build/triton-3.6.0
	PYTHONPATH=build/triton-3.6.0 $(BIN)/python bench/aot.py --only-triton $(ARCH_3_6) $(AOT)

build/triton-3.6.0: | .venv/.ready
	rm -rf $@.part
	$(BIN)/pip install --quiet --no-compile --no-deps --target $@.part triton==3.6.0
	mv $@.part $@

# The quick set on this machine's CPU, with its figures; then the tables of docs/performance.md and the README.
bench: .venv/.ready
	$(BIN)/pytest bench --quick --device cpu --deadline 420 --benchmark-columns=median,iqr,rounds
	$(BIN)/python bench/throughput.py --device cpu
	$(BIN)/python bench/figures.py
	$(BIN)/python bench/tables.py --write

# Rooflines of cards that nobody has measured, into bench/results/cards.md.
cards: .venv/.ready
	$(BIN)/python bench/cards.py --write

# The notebooks with their outputs, which are committed; in a folder of their own, as they write files beside themselves.
notebook: .venv/.ready
	rm -rf build/notebooks && mkdir -p build/notebooks && cp examples/*.ipynb build/notebooks
	$(BIN)/jupyter-execute --inplace --NotebookClient.record_timing=False build/notebooks/*.ipynb
	cp build/notebooks/*.ipynb examples

# The documentation: served while it is written, or built once; its pictures, after bench/results or the library changed.
MKDOCS = NO_MKDOCS_2_WARNING=1 PYTHONPATH=docs/tools:$$PYTHONPATH $(BIN)/python -m mkdocs
docs: .venv/.ready
	$(MKDOCS) serve

docs-build: .venv/.ready
	$(MKDOCS) build --quiet

docs-pictures: .venv/.ready
	$(BIN)/python docs/tools/pictures.py

attention: .venv/.ready
	$(BIN)/python examples/gpt_attention.py --trainer both --out experiments/results/attention

# What factors of low rank save, and cost in accuracy. FASHION: a folder of Fashion-MNIST's Parquet files.
FASHION ?= ../shared/data/fashion_mnist
factors: .venv/.ready
	$(BIN)/python examples/low_rank_factors.py --fashion $(FASHION) --out experiments/results/factorize

# The drill on a CUDA machine, with the Python that is there and no network: bench/gpu.md says what each is for.
# RESULTS names the folder of all that is measured; CARRY, of the wheels and the data that `make gpu-carry` gathers.
GPU_PYTHON ?= python3
RESULTS ?= bench/results
CARRY ?= .carry
DRILLS := check measure reproduce

$(DRILLS:%=gpu-%): gpu-%:
	$(GPU_PYTHON) bench/gpu.py $* --results $(RESULTS) --carry $(CARRY)

# DATA: a folder of CIFAR-10's Parquet files. The last thing before the call: it notes the commit.
gpu-carry: .venv/.ready
	$(BIN)/python bench/gpu_carry.py --folder $(CARRY) $(if $(DATA),--data $(DATA))

# The same stages without a GPU, little of each; where EMULATOR is a folder, the kernels run there as the PTX of a GPU.
# SHORT=--short is what CI runs.
EMULATOR ?= ../shared/gpu
gpu-rehearse: .venv/.ready build/triton-3.6.0
	rm -rf build/rehearsal
	$(foreach drill,$(DRILLS),$(BIN)/python bench/gpu.py $(drill) --rehearse $(SHORT) --results build/rehearsal/results \
		--emulator $(EMULATOR) &&) true

# Without --no-compile pip compiles every module of every package, and takes twice as long; Python compiles what it uses.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fastrank needs Python >= 3.11; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[experiments,bench,dev,docs]'
	$(BIN)/python -c 'import torch, fastrank; fastrank.linalg.spectral_norm(torch.eye(2))'  # Numba compiles, once
	touch $@

clean:
	rm -rf .venv build  # not runs/: sweeps that took long
