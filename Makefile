# make demo    the whole chain, end to end, on simulated data: runs/demo/report.html
# make test    ruff and all tests
# make docs    the documentation: site/index.html
# make help    the other targets

VENV   ?= .venv
PYTHON ?= python3
# torch goes in first, so that nothing else chooses another build of it.
TORCH  ?= torch==2.13.0
# Versions that the tests have passed with; `make LOCK=/dev/null` takes the newest that pyproject.toml allows.
LOCK   ?= requirements-lock.txt
SEED   ?= 0

PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
BUILT  := $(VENV)/.kernels
EXTRAS := all,docs,dev,release
NATIVE := CMakeLists.txt $(wildcard kernels/*/*)

export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint faults fuzz mutation soak coverage audit docs wheel release-check simulators gpu-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       train, distil, evaluate, profile, export and track on simulated data (runs/demo)"
	@echo "make test       ruff and all tests"
	@echo "make lint       ruff and pyright"
	@echo "make faults     full disks, kills at random moments, folders that vanish: FAULTS=50 of each (an hour)"
	@echo "make docs       build the documentation into site/"
	@echo "make fuzz       every kind of file, FUZZ_SECONDS=600 each (two hours)"
	@echo "make mutation   change single operators and numbers of the modules that all scores rest on: do tests fail?"
	@echo "make soak       track for an hour and train for an hour: memory, handles, threads, latency"
	@echo "make coverage   line and branch coverage of all tests"
	@echo "make audit      known weaknesses of the locked packages (pip-audit, in .venv-audit)"
	@echo "make wheel      build the wheel into dist/"
	@echo "make release-check  the wheel as an index takes it: manylinux, checked, into dist/"
	@echo "make simulators  the environment of the simulators that need one of their own (.venv-simulators)"
	@echo "make gpu-check  CUDA tests and GPU benchmark, on a machine with a GPU (needs no make demo before)"

$(STAMP): pyproject.toml requirements-simulators.txt $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint $(LOCK) "$(TORCH)"
	$(PY) -m pip install --quiet --constraint $(LOCK) "$(TORCH)" "scikit-build-core>=0.11" "cmake>=3.22" ninja
	$(PY) -m pip install --quiet --constraint $(LOCK) --no-build-isolation "$(TORCH)" -e ".[$(EXTRAS)]"
	$(PY) -m pip install --quiet --no-deps -r requirements-simulators.txt
	@touch $(STAMP) $(BUILT)

# A changed kernel source is compiled again; everything else of an editable install follows the sources by itself.
$(BUILT): $(STAMP) $(NATIVE)
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $(BUILT)

demo: $(BUILT)
	$(PY) -m had_snn demo seed=$(SEED)

test: $(BUILT)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n 2 --dist loadfile

lint: $(BUILT)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

FAULTS ?= 50
faults: $(BUILT)
	HAD_SNN_FAULTS=$(FAULTS) $(PY) -m pytest tests/faults

docs: $(BUILT)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

FUZZ_SECONDS ?= 600
fuzz: $(BUILT)
	$(PY) -m pip install --quiet "atheris>=2.3"
	for kind in nir weights state resume boxes labels names results; do \
	  $(PY) tests/fuzz/fuzz_files.py $$kind -max_total_time=$(FUZZ_SECONDS) || exit 1; done
	for kind in aedat4 hdf5 npz mat text; do \
	  $(PY) tests/recordings/fuzz_readers.py $$kind -max_total_time=$(FUZZ_SECONDS) || exit 1; done

# MUTANTS of each module, drawn; 0 for all of them.
MUTANTS ?= 40
mutation: $(BUILT)
	$(PY) tests/mutation/mutate.py --most $(MUTANTS)

soak: $(BUILT)
	$(PY) -m experiments.bench soak minutes=60 out=benchmarks/soak.json

coverage: $(BUILT)
	$(PY) -m pytest -n 2 --dist loadfile --cov=had_snn --cov-branch --cov-report=term-missing:skip-covered

# Asks a database on the network about the versions of the lock and of TORCH; a package it does not know is a failure.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit
	echo "$(TORCH)" | cat - $(LOCK) > $(VENV)-audit/requirements.txt
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)-audit/requirements.txt

# The time of every file in a wheel: that of the commit.
wheel release-check: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)

wheel: $(STAMP)
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

# Two builds are the same bytes. The wheel carries its OpenMP library and states the oldest glibc that it runs on; a
# tool that is missing fails here.
release-check: $(STAMP)
	rm -rf dist build
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation -w dist/again .
	rm -rf build
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation -w dist/linux .
	cmp dist/again/*.whl dist/linux/*.whl
	rm -r dist/again
	PATH="$(abspath $(VENV)/bin):$$PATH" $(PY) -m auditwheel repair --wheel-dir dist dist/linux/*.whl
	rm -r dist/linux
	$(PY) -m twine check --strict dist/*.whl

# They need another numpy than ours, or their licence keeps them out of ours; the exporter starts them as processes.
simulators:
	$(PYTHON) -m venv $(VENV)-simulators
	$(VENV)-simulators/bin/python -m pip install --quiet "$(TORCH)" -r requirements-simulators-apart.txt

gpu-check:
	$(PYTHON) -m experiments.bench.gpu_check

clean:
	rm -rf build dist runs site had_snn/ops/_native $(VENV) $(VENV)-simulators $(VENV)-audit
