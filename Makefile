# `make run` and `make test` are all one needs; the other targets are those of .PHONY.
# Everything needed is installed into .venv, from hash-locked files.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: run test check container coverage format bench scale storm chaos outage rolling overload slow fuzz guards mutation lint-api clients lock clean

# Where the environment forbids to store bytecode, each process would compile Depot again.
run test check coverage guards: export PYTHONDONTWRITEBYTECODE =

run: .venv/local
	@exec $(BIN)/depot dev

test: .venv/test
	@$(BIN)/pytest -n auto --dist worksteal

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -n auto --dist worksteal

container: .venv/local # as root: builds the image and runs what is in deploy/, in namespaces of its own
	@$(BIN)/python deploy/check

coverage: .venv/test # half as long again as the tests alone
	@$(BIN)/pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered

storm: .venv/local
	@$(BIN)/python -m bench.storm --seconds $(or $(SECONDS),30)

chaos: .venv/test # ROUNDS=20 SEED=42
	@$(BIN)/python -m bench.chaos --rounds $(or $(ROUNDS),20) $(if $(SEED),--seed $(SEED))

outage: .venv/test # SECONDS=60, each way it goes away
	@$(BIN)/python -m bench.outage --seconds $(or $(SECONDS),60)

rolling: .venv/test # ROUNDS=20 RATE=300; needs haproxy
	@$(BIN)/python -m bench.rolling --rounds $(or $(ROUNDS),20) --rate $(or $(RATE),300)

overload: .venv/test # SECONDS=8; needs h2load (nghttp2-client)
	@$(BIN)/python -m bench.overload --seconds $(or $(SECONDS),8)

slow: .venv/test # SECONDS=20; needs slowhttptest and h2load
	@$(BIN)/python -m bench.slow --seconds $(or $(SECONDS),20)

fuzz: .venv/test # SECONDS=300 each; SEED=42 for the raw bytes
	@FUZZ_SECONDS=$(or $(SECONDS),300) $(BIN)/pytest -s -o faulthandler_timeout=0 tests/http/test_fuzz.py tests/http/test_raw.py

guards: .venv/test # takes what keeps each promise away, and sees a test go red: 8 minutes
	@$(BIN)/python .ci/mutation/safeguards.py

mutation: .venv/test .venv-mutation # MODULES="http/merge errors" for some
	@$(BIN)/python .ci/mutation --cosmic-ray .venv-mutation/bin $(MODULES)

API := .ci/api/node_modules/.bin
lint-api: .venv/local .ci/api/node_modules # needs Node 20 or newer
	@$(BIN)/depot openapi > .ci/api/openapi.json
	@$(API)/spectral lint --fail-severity hint --ruleset .ci/api/spectral.yaml .ci/api/openapi.json
	@REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
	  $(API)/redocly lint --config .ci/api/redocly.yaml --max-problems 1000 .ci/api/openapi.json

clients: .venv/test .venv-clients .ci/api/node_modules # needs Node 20 or newer
	@$(BIN)/pytest tests/test_clients.py

bench: .venv/bench # ARGS="--seconds 2 --peers depot --work get" for a part of it
	@$(BIN)/python -m bench.run $(ARGS)

scale: .venv/bench # ten million rows; ARGS="--items 10000 --orders 100000" for fewer
	@$(BIN)/python -m bench.scale $(ARGS)

format: .venv/test
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-clients .venv-mutation .ci/api/node_modules bench/peers/fastify/node_modules .depot

lock: # needs uv, the only tool that locks for all Pythons and platforms at once
	./requirements/lock

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Depot needs Python 3.11 or newer; set PYTHON=...")'
	@$(PYTHON) -m venv .venv || (rm -rf .venv; exit 1)

.venv/local: requirements/local.txt pyproject.toml | .venv/bin/python
	@echo "Installing Depot into .venv ..."
	@$(PIP) install --require-hashes -r requirements/local.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test: requirements/test.txt .venv/local
	@echo "Installing the test tools ..."
	@$(PIP) install --require-hashes -r requirements/test.txt
	@touch $@

.venv-clients: requirements/clients.txt # apart: a generator's dependencies are none of the service's
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
