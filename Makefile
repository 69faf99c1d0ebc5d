# `make run` and `make test` are all one needs; `make help` lists the other targets.
# Everything needed is installed into .venv, from hash-locked files.
ifneq ($(origin PYTHON),undefined)
CHOSEN_PYTHON := $(PYTHON)
endif
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# A .venv that was moved, is incomplete or belongs to another Python is deleted, and then created again.
ifneq ($(filter-out help clean lock,$(or $(MAKECMDGOALS),help)),)
CHECKED := $(shell requirements/check-venv $(CHOSEN_PYTHON) || echo failed)
ifneq ($(CHECKED),)
$(error .venv cannot be used)
endif
endif

.PHONY: help run test check container coverage format bench scale storm concurrency chaos outage cluster rolling overload flood slow stall fuzz guards mutation lint-api clients lock clean

# If the environment forbids storing bytecode, each process compiles Depot again.
run test check coverage guards: export PYTHONDONTWRITEBYTECODE =

help: # list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*# /\1#/p' Makefile | awk -F '#' '{ printf "%-12s %s\n", $$1, $$2 }'

run: .venv/local # run everything for development: PostgreSQL, migrations, a key, the API, a worker
	@$(BIN)/python -m compileall -qq src migrations || true
	@exec $(BIN)/python -m service dev

test: .venv/test # run the whole test suite
	@$(BIN)/pytest -n auto --dist worksteal

check: .venv/test # run all checks and the test suite, as CI does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/style.py
	$(BIN)/pytest -n auto --dist worksteal

container: .venv/local # build the image and run what is in deploy/, in namespaces of its own (as root)
	@$(BIN)/python deploy/check

coverage: .venv/test # run the test suite and report its coverage
	@$(BIN)/pytest -p pytest_cov -n auto --dist worksteal --cov --cov-report=term:skip-covered

storm: .venv/test # order from many clients at the same time: SECONDS=30
	@$(BIN)/python -m bench.storm --seconds $(or $(SECONDS),30)

concurrency: .venv/test # read the feed while 64 clients write, and count stock while selling: SECONDS=60 each
	@PROOF_SECONDS=$(or $(SECONDS),60) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/audit/test_feed_proof.py tests/items/test_stock_counts.py -k "reader or model"

chaos: .venv/test # kill processes at random under load: ROUNDS=20 SEED=42
	@$(BIN)/python -m bench.chaos --rounds $(or $(ROUNDS),20) $(if $(SEED),--seed $(SEED))

outage: .venv/test # take the database away in several ways: SECONDS=60 each
	@$(BIN)/python -m bench.outage --seconds $(or $(SECONDS),60)

cluster: .venv/test # lose hosts of a Patroni cluster under load (as root on Debian): ARGS=--all for all faults
	@$(BIN)/python -m bench.cluster $(ARGS)

rolling: .venv/test # restart replicas behind HAProxy: ROUNDS=20 RATE=300
	@$(BIN)/python -m bench.rolling --rounds $(or $(ROUNDS),20) --rate $(or $(RATE),300)

overload: .venv/test # send more than the service can do: SECONDS=8
	@$(BIN)/python -m bench.overload --seconds $(or $(SECONDS),8)

flood: .venv/test # flood with unknown keys and with webhooks that hang: SECONDS=10 each
	@$(BIN)/python -m bench.flood --seconds $(or $(SECONDS),10)

stall: .venv/test # send the largest requests and time a health check beside them: SECONDS=60
	@$(BIN)/python -m bench.stall --seconds $(or $(SECONDS),60)

slow: .venv/test # attack with slow clients: SECONDS=20; needs slowhttptest and h2load
	@$(BIN)/python -m bench.slow --seconds $(or $(SECONDS),20)

fuzz: .venv/test # send random requests and bytes: SECONDS=300 each, SEED=42
	@FUZZ_SECONDS=$(or $(SECONDS),300) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/http/test_fuzz.py tests/http/test_raw.py

guards: .venv/test # remove what keeps each promise and expect a failing test (5 minutes)
	@$(BIN)/python .ci/mutation/safeguards.py

mutation: .venv/test .venv-mutation # break modules bit by bit and expect failing tests: MODULES="http/merge errors"
	@$(BIN)/python .ci/mutation --cosmic-ray .venv-mutation/bin $(MODULES)

API := .ci/api/node_modules/.bin
lint-api: .venv/local .ci/api/node_modules # lint the OpenAPI document; needs Node 20 or newer
	@$(BIN)/depot openapi > .ci/api/openapi.json
	@$(API)/spectral lint --fail-severity hint --ruleset .ci/api/spectral.yaml .ci/api/openapi.json
	@REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
	  $(API)/redocly lint --config .ci/api/redocly.yaml --max-problems 1000 .ci/api/openapi.json

clients: .venv/test .venv-clients .ci/api/node_modules # generate clients and use them; needs Node 20 or newer
	@$(BIN)/pytest tests/test_clients.py

bench: .venv/bench # compare with peers; ARGS="--seconds 2 --peers depot --work get" for a part
	@$(BIN)/python -m bench.run $(ARGS)

scale: .venv/bench # measure with ten million rows; ARGS="--items 10000 --orders 100000" for fewer
	@$(BIN)/python -m bench.scale $(ARGS)

format: .venv/test # format the code and apply safe fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: # delete what make installed; data in .depot stays
	rm -rf .venv .venv-clients .venv-mutation .ci/api/node_modules bench/peers/fastify/node_modules
	find src tests bench migrations -name __pycache__ -prune -exec rm -r {} +

lock: # update the lock files; needs uv, which locks for all Pythons and platforms together
	./requirements/lock

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Depot needs Python 3.11 or newer; set PYTHON=...")'
	@$(PYTHON) -m venv .venv || (rm -rf .venv; exit 1)

.venv/local: requirements/local.txt pyproject.toml | .venv/bin/python
	@echo "Installing Depot into .venv ..."
	@$(PIP) install --require-hashes -r requirements/local.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -qq src migrations
	@touch $@

.venv/test: requirements/test.txt .venv/local
	@echo "Installing the test tools ..."
	@$(PIP) install --require-hashes -r requirements/test.txt
	@$(BIN)/pytest -n 0 --collect-only > /dev/null || true # compiles the tests once instead of in each worker
	@touch $@

.venv-clients: requirements/clients.txt # separate, because the service does not need a generator's dependencies
	@$(PYTHON) -m venv $@
	@$@/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/clients.txt
	@touch $@

.venv-mutation: requirements/mutation.txt
	@$(PYTHON) -m venv $@
	@$@/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/mutation.txt
	@touch $@

.ci/api/node_modules: .ci/api/package-lock.json
	@npm --prefix .ci/api ci --silent
	@touch $@

.venv/bench: requirements/bench.txt .venv/local
	@echo "Installing the peers to measure against ..."
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@
