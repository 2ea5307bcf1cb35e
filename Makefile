# dgnb: `make figures` regenerates every figure and table, `make test` runs every test. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
UV := 0.13.9
WORKERS ?= 2
SCALE ?= laptop
QUIET ?= --quiet
TRAIN_FLAG := $(if $(FRESH),--fresh,$(if $(TRAIN),--train,))
export PYTHONWARNINGS ?= ignore
export OMP_NUM_THREADS ?= 1

.PHONY: help setup install figures test lab bench paper-check readme site course outputs ship clean distclean

help:
	@echo "make figures   every figure and table of the papers from the shipped runs (ALL=1 adds ours, TRAIN=1 trains what is missing, FRESH=1 retrains all)"
	@echo "make test      everything the tests cover: export, notebooks, pytest, the whole catalogue at smoke scale"
	@echo "make lab       JupyterLab on this machine only"
	@echo "make site      the notebooks as a static site in _site/, searchable, to be read without a network"
	@echo "make course    for a class: _course/student (no solutions), _course/teacher (solutions that run, a plan), _course/slides"
	@echo "make bench     speed and memory as ratios against named baselines"
	@echo "make paper-check  does every item start at paper scale? tiny sets in the official layouts, published sizes, two steps of each training (most of an hour on one core)"
	@echo "make outputs   run the lessons again and store what they show (NB=path for one)"
	@echo "make ship      run the result notebooks at laptop scale and store what they show (ITEM=name for one)"
	@echo "make readme    README.md from nbs/index.ipynb and the records"
	@echo "make clean     remove what was computed here; make distclean also removes .venv"

setup: $(STAMP)

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dgnb needs Python 3.11 or newer; this is `$(PYTHON) --version`. Say which with: make PYTHON=python3.12 ..."; exit 1; }
	@if [ -L .venv ]; then echo ".venv is a link: used as it is (an installation from here would turn it away from the folder it belongs to)"; else $(MAKE) --no-print-directory install; fi

install:
	@echo "Setting up .venv: about 6 GB with the default build of torch (see README: without a GPU); some minutes without a word, QUIET= shows each step"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV)' 2>/dev/null \
	  && $(BIN)/uv pip install $(QUIET) --compile-bytecode -p $(BIN)/python -c constraints.txt -e '.[all]' \
	  || { echo "uv is not available here; using pip (slower)"; $(BIN)/python -m pip install $(QUIET) --disable-pip-version-check -c constraints.txt -e '.[all]'; }
	@touch $(STAMP)

figures: $(STAMP)
	@$(BIN)/dgnb verify first-light --quick
	@$(BIN)/dgnb run $(if $(ALL),all,dgnet vrstc) --scale $(SCALE) --workers $(WORKERS) $(TRAIN_FLAG)

test: $(STAMP)
	@$(BIN)/python tools/check.py fresh
	@$(BIN)/nbdev_test --n_workers $(WORKERS) --timing
	@$(BIN)/dgnb run all --scale smoke --train --workers $(WORKERS)
	@$(BIN)/python tools/website/build.py
	@$(BIN)/python -m pytest -n $(WORKERS)
	@$(BIN)/python tools/check.py unchanged

lab: $(STAMP)
	$(BIN)/jupyter lab nbs --ip 127.0.0.1

site: $(STAMP)
	@$(BIN)/python tools/website/build.py

course: $(STAMP)
	@$(BIN)/python tools/course.py

bench: $(STAMP)
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/run.py $(BENCH)

paper-check: $(STAMP)
	$(BIN)/python -m pytest -n0 tests/paper_scale.py $(if $(ITEM),-k $(ITEM))

outputs: $(STAMP)
	$(BIN)/python tools/notebooks.py execute $(NB)

ship: $(STAMP)
	$(BIN)/dgnb run $(if $(ITEM),$(ITEM),all) --scale laptop --ship --workers $(WORKERS) $(TRAIN_FLAG)
	$(BIN)/python tools/readme.py

readme: $(STAMP)
	$(BIN)/python tools/readme.py

clean:
	rm -rf _runs _figures _data _docs _proc _site _course build dist .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
