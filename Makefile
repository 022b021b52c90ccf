# Needs python3 (3.11 or newer) with venv, and nothing else. Everything lands in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint check bench docs picture constraints clean

demo: .venv/installed  ## install, write sample volumes, find the cells and score them against the truth, map the fracture
	$(BIN)/cytolith sample cells demo/sample --overwrite
	$(BIN)/cytolith cells demo/sample/planes -o demo/cells --voxel-size 6,1.62,1.62 --overwrite
	$(BIN)/cytolith score demo/cells demo/sample/truth.csv
	@echo "The table of cells is demo/cells/cells.csv (and cells.parquet); demo/cells/report.html shows them."
	$(BIN)/cytolith sample fracture demo/rock --overwrite
	$(BIN)/cytolith fracture demo/rock/fracture.tif -o demo/fracture -n 1 --force
	@echo "The maps of the fracture are in demo/fracture; fracture-aperture-map.png is a picture of one."

test: .venv/installed-test  ## install and pass the tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: .venv/installed-test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## all that continuous integration asks

bench: .venv/installed-test  ## speed beside other libraries, as ratios in one run
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.fracture
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.scale

docs: .venv/installed-test  ## build the site in docs/_build/html, strictly and without the network
	$(BIN)/python -m sphinx -W --keep-going -n -b html docs docs/_build/html

picture: .venv/installed-test  ## draw the pictures of the README and the pages anew
	$(BIN)/python docs/make_picture.py

constraints:  ## pin the newest versions of everything
	$(PYTHON) -m venv .venv-new
	.venv-new/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-new/bin/python -m pip install --quiet ".[all]" --group test --group lint --group docs
	(echo "# What continuous integration installs; raise with: make constraints" && \
	 .venv-new/bin/python -m pip freeze | grep -v cytolith) > constraints.txt
	rm -rf .venv-new

clean:
	rm -rf .venv demo

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[report]"
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group test --group lint
	touch $@
