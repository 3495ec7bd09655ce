# Every target does its own set-up; python3 (3.11 to 3.13) with pip and venv is all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# xdist workers: one per core, but memory for one cluster and server each.
WORKERS ?= 2

.PHONY: install demo test check faults bench train definitions conformance viewer clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ai,test,dev]'
	touch $@

install: $(VENV)/.installed

# The whole main job on this machine, with synthetic patients. ONCE=1 stops after printing.
demo: install
	$(BIN)/python -m interop.demo $(if $(ONCE),--once)

test: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

check: install
	$(BIN)/ruff format --check src tests tools benchmarks conformance
	$(BIN)/ruff check src tests tools benchmarks conformance
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py

# Kills servers at random moments, many times; see docs/reliability.md.
faults: install
	$(BIN)/pytest -n 0 -m faults $(PYTEST_ARGS)

bench: install
	$(BIN)/python -m benchmarks.run

# Checks DICOMweb and DIMSE against the standard, of our own server started for it or of any other:
# make conformance CONFORMANCE_ARGS="--dicom-web URL --token T --dicom HOST:PORT --called AET"
conformance: install
	$(BIN)/python -m conformance --output build/conformance $(CONFORMANCE_ARGS)

# Trains the panoramic bundle on the synthetic phantom and writes weights, metrics and digest.
train: install
	$(BIN)/python -m ai.training.panoramic --fresh

# Derives the tables of profiles/ from the official definitions in ../shared/fhir, and our own.
definitions: install
	$(BIN)/python tools/derive_fhir_definitions.py
	$(BIN)/python tools/derive_terminology.py
	$(BIN)/python tools/derive_profiles.py
	$(BIN)/python tools/write_own_definitions.py

# OHIF for /viewer, from its npm package (50 MB): checked, rewritten, never in git. See docs/viewer.md.
viewer: install
	$(BIN)/python tools/fetch_viewer.py $(if $(ARCHIVE),--archive $(ARCHIVE))

clean:
	rm -rf $(VENV) data demo-data
