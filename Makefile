# `make` alone lists the targets.
WORKERS ?= 2
OVERLAY ?= cpu
ARGS ?=
POINTS ?= 3
MINUTES ?= 20
PYTHON ?= python3
# Two tests at a time fill two cores. More would take the memory of a small machine.
PARALLEL ?= --numprocesses=2 --dist=worksteal
# The name in the manifests. `make push` prints the name by digest for clusters with a registry.
IMAGE ?= mnist-job:dev
TARGET ?= cpu
RUN := .venv/bin/python
# The tests on GPUs need TensorFlow for CUDA. Without NVIDIA's driver they are skipped, so what `make setup` installs is enough.
GPU_VENV := $(if $(wildcard /proc/driver/nvidia/version),build/gpu,.venv)
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement
# The image needs the packages of two extras, without the launcher's.
EXTRAS = import sys, tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
EXTRAS += ; print(*(package for extra in sys.argv[1:] for package in extras[extra]), sep="\n")
LOCK := $(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header

.DEFAULT_GOAL := help
.PHONY: help setup data train submit test test-faults test-gpu test-cluster test-systems soak bench image push load pictures lint format lock release clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/installed  ## make the virtual environment with the locked dependencies

.venv/installed: requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13: run make PYTHON=python3.12" >&2; exit 64; }
	$(PYTHON) -m venv .venv
	$(INSTALL) requirements/dev.txt
	@# The scripts mnist-job and kubectl-mnist_job, which run the code in this folder.
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index \
		--config-settings editable_mode=compat --editable .
	@touch $@

data: setup  ## download the dataset and prepare it in data/
	$(RUN) -m job data

train: data  ## train on this machine: WORKERS=2 ARGS="--epochs 3"
	$(RUN) -m job train --workers $(WORKERS) $(ARGS)

submit: setup  ## train on the cluster and follow the run: WORKERS=2 OVERLAY=local ARGS="--name demo -- --epochs 3"
	$(RUN) -m k8s submit --wait $(if $(filter file,$(origin IMAGE)),,--image $(IMAGE)) --overlay $(OVERLAY) --workers $(WORKERS) $(ARGS)

test: setup  ## run the tests
	$(RUN) -m pytest $(PARALLEL) $(ARGS)

test-faults: setup  ## kill, stop and break real workers: POINTS=3 moments for each fault
	POINTS=$(POINTS) $(RUN) -m pytest tests/faults $(PARALLEL:worksteal=loadfile) $(ARGS)

test-gpu: $(GPU_VENV)/installed data  ## run the tests on this machine's NVIDIA GPUs; they are skipped if there is none
	$(GPU_VENV)/bin/python -m pytest tests/gpu $(ARGS)

build/gpu/installed: requirements/dev.txt requirements/gpu.txt
	$(PYTHON) -m venv build/gpu
	build/gpu/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	@# It has the same files as tensorflow.
	build/gpu/bin/python -m pip uninstall --quiet --yes tensorflow-cpu
	build/gpu/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/gpu.txt
	@touch $@

test-cluster: setup  ## run the tests on the cluster that KUBECONFIG names: see tests/cluster/conftest.py
	$(RUN) -m pytest tests/cluster --ignore=tests/cluster/systems $(PARALLEL) $(ARGS)

test-systems: setup  ## run the tests with real systems around the job, such as Kueue: see tests/cluster/systems/conftest.py
	$(RUN) -m pytest tests/cluster/systems $(ARGS)

soak: setup  ## kill workers at random for MINUTES=20
	MINUTES=$(MINUTES) $(RUN) -m pytest tests/faults/test_soak.py --capture=no $(ARGS)

bench: data  ## measure the job and its alternatives
	$(INSTALL) requirements/bench.txt --no-deps
	$(RUN) -m benchmarks $(ARGS)
	$(RUN) -m benchmarks.recovery
	$(RUN) -m benchmarks.start

image: data  ## build the container image: IMAGE=mnist-job:dev TARGET=cpu
	@./image.sh build $(IMAGE) --target $(TARGET) $(ARGS)

push: data  ## build the image, push it, and print its name by digest: IMAGE=registry.example/you/mnist-job:1
	@./image.sh push $(IMAGE) --target $(TARGET) $(ARGS)

load: data  ## build the image and load it into kind or minikube (kubectl's current context)
	@./image.sh load $(IMAGE) --target $(TARGET) $(ARGS)

pictures: data  ## make the pictures in README from a real run
	$(RUN) docs/pictures/make.py

lint: setup  ## check style, types, imports and the Dockerfile
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	PYTHONPATH=. .venv/bin/lint-imports --no-cache --no-logo
	.venv/bin/hadolint Dockerfile

format: setup  ## format the code
	$(RUN) -m ruff check --fix --exit-zero
	$(RUN) -m ruff format

lock: setup  ## lock the dependencies again after a change in pyproject.toml
	$(RUN) -c '$(EXTRAS)' train cpu | $(LOCK) - --output-file requirements/cpu.txt
	$(RUN) -c '$(EXTRAS)' train gpu | $(LOCK) - --output-file requirements/gpu.txt
	$(LOCK) pyproject.toml --extra train --extra predict --extra cpu --extra dev --output-file requirements/dev.txt
	@# --no-deps: tf-keras depends on tensorflow, whose files would overwrite those of tensorflow-cpu.
	echo 'tf-keras~=2.21.0' | $(LOCK) --no-deps - --output-file requirements/bench.txt

release: setup  ## build the wheel and the sdist in dist/, and check the wheel's launcher in an empty environment
	rm -rf build dist
	$(RUN) -m build --no-isolation
	$(PYTHON) -m venv build/release
	build/release/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	@# In another folder, where Python does not find this one's packages.
	cd build/release && bin/mnist-job --help >/dev/null && bin/kubectl-mnist_job --version && \
		bin/mnist-job submit --dry-run=client --name x -n y | grep -q 'kind: Job' && \
		bin/mnist-job completion bash | bash -n

clean:  ## remove build products, but not data/ and output/
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
