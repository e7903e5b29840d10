# Every target is a short script in scripts/; CI calls the same ones.
.DEFAULT_GOAL := help
.PHONY: help setup demo stop test check bench bench-load bench-gpu profile roofline loadtest protos lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## make .venv, install the locked dependencies, generate the stubs
	@scripts/setup
demo: ## data, training, a running cluster and its recommendations; DATA=folder uses your data
	@scripts/demo
stop: ## take down the cluster that demo started
	@scripts/stop
test: ## the whole test suite; ARGS="-k name" passes options to pytest
	@scripts/test $(ARGS)
check: ## ruff, mypy, buf, generated files fresh, import rules
	@scripts/check
bench: ## CoreRec beside textbook Ray Serve on a million items: throughput, latency, CPU
	@scripts/bench $(ARGS)
bench-load: ## the cluster from a tenth to twice its capacity, open loop: latency and goodput
	@scripts/bench-load $(ARGS)
bench-gpu: ## ranking on a CUDA device, without Ray and FAISS
	@scripts/bench-gpu $(ARGS)
profile: ## where a request's time goes: flame graphs of the services, a waterfall
	@scripts/profile $(ARGS)
roofline: ## each stage against what this machine allows
	@scripts/roofline $(ARGS)
loadtest: ## ghz against the running cluster, closed and open loop, with a report
	@scripts/loadtest $(ARGS)
protos: ## generate the stubs and the reference from protos/
	@scripts/protos
	@scripts/proto-reference
lock: ## resolve requirements.lock again from pyproject.toml; ARGS=--upgrade takes newer versions
	@scripts/lock $(ARGS)
clean: ## remove what setup, demo and the tests made
	@scripts/clean
