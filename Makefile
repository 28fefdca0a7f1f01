# fqdnwall: `sudo make demo` shows it, `sudo make test` checks it. Works from any directory (make -C …).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
root := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
python := $(root)/.venv/bin/python

# A bare environment and a user's PATH without the sbin folders are both fine.
export PATH := $(if $(PATH),$(PATH):)/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

.PHONY: help setup demo test check bench lock format clean

help: ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' '$(root)/Makefile' | expand -t 18

setup: ## Debian packages, .venv and the BPF file system; does only what is missing
	@'$(root)/setup/prepare.sh' setup

demo: setup ## a small internet, a policy, and a client that reaches what the policy allows and nothing else
	@cd '$(root)' && exec '$(python)' -m tests.lab.demo

test: setup ## everything: linters, types, import contracts, all tests, nothing left behind
	@'$(root)/setup/verify.sh' all

check: setup ## the inner loop: as test, without the slow tests
	@'$(root)/setup/verify.sh' quick

bench: setup ## measures the datapath and the proxy against what they stand beside; prints ratios
	@cd '$(root)' && exec '$(python)' -m benchmarks

format: setup ## formats Python and C
	@cd '$(root)' && .venv/bin/ruff check --fix -q . ; .venv/bin/ruff format -q . ; \
	  git ls-files 'bpf/*.[ch]' | xargs -r .venv/bin/clang-format -i

lock: ## writes the lock files anew; make lock UPGRADE="trio ruff" moves only those
	@'$(root)/setup/lock.sh' $(UPGRADE)

clean: ## takes away what make made: .venv, build/, caches, and what a killed run left on the machine
	@if [ -x '$(python)' ] && [ "$$(id -u)" -eq 0 ]; then \
	  cd '$(root)' && '$(python)' -m tests.lab.leftovers clear; fi
	@cd '$(root)' && rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage *.egg-info
	@cd '$(root)' && find . -name __pycache__ -type d -prune -exec rm -rf {} +
