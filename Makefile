# Every verb that a developer or CI needs; `make help` lists them. No logic here: see tools/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# A module's tests mostly stay together. Those with real processes have time-outs to keep: two at a time.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
PARALLEL_E2E := -n auto --maxprocesses 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup proto proto-check proto-release fmt lint types test test-unit test-property \
	test-crash test-sim test-e2e cover bench bench-quick bench-ibc bench-snapshots demo samples check monitoring image clean

help: ## list these verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: ## install everything the other verbs need (Debian packages when root, a virtual environment)
	@PYTHON=$(PYTHON) tools/setup.sh

proto: setup ## generate slackwater/v1 from protos/
	@tools/proto.sh generate

proto-check: setup ## lint protos/, compare with the last release, and with the generated code
	@tools/proto.sh check

proto-release: setup ## make today's protos the ones that changes are compared with
	@tools/proto.sh release

fmt: setup ## format the code
	@ruff format . && ruff check --fix --select I .

lint: setup ## ruff, buf, layers, sizes of modules
	@ruff format --check . && ruff check . && buf lint && lint-imports --no-cache && python tools/sizes.py

types: setup ## mypy, strict
	@mypy slackwater services tests demo examples benchmarks tools

test: setup ## all tests
	@pytest $(PARALLEL) -m "not e2e" tests
	@pytest $(PARALLEL_E2E) -m e2e tests

test-unit: setup ## tests without processes: seconds
	@pytest -m "unit or contract or scenarios"

test-property: setup ## random operations against models
	@pytest $(PARALLEL) -m property

test-crash: setup ## a crash at every storage call
	@pytest $(PARALLEL) -m crash

test-sim: setup ## whole groups on a virtual clock, network and disk
	@pytest $(PARALLEL) -m simulation

test-e2e: setup ## real processes, real clients
	@pytest $(PARALLEL_E2E) -m e2e

cover: setup ## branch coverage of the tests without processes
	@coverage run -m pytest -m "not e2e" && coverage report

bench-quick: setup ## ratios to fio and nbdkit in under four minutes; 1 if a goal is missed
	@python -m benchmarks.quick

bench-ibc: setup ## what a message costs, and what applications pay today (some eight minutes)
	@python -m benchmarks.ibc

bench-snapshots: setup ## what snapshots cost, beside qcow2 and nbdkit's cow, in under six minutes
	@python -m benchmarks.snapshots

bench: bench-quick bench-ibc bench-snapshots ## all of them

demo: setup ## the main job, end to end, on this machine
	@python -m demo

samples: setup ## tasks on real file systems and databases, each with its own scene (as root)
	@python -m examples

check: lint types proto-check test ## all that guards main

monitoring: setup ## write the dashboards, and the alerts for Kubernetes, from their sources
	@python -m tools.dashboards && python -m tools.prometheusrule

image: ## build the container image with podman, docker or buildah; BASE=... as in tools/image.sh
	@tools/image.sh

clean: ## remove what the verbs made
	@rm -rf $(VENV) build .hypothesis .mypy_cache .ruff_cache .pytest_cache *.egg-info
