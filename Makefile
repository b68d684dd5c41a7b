# make demo   see it work          make test    run all tests
# make check  the gates of CI      make bench   measure, and write benchmarks/results/
# make demo-frequency              a load step with and without frequency control, drawn
# make demo-voltage                a sunny day of a feeder with and without voltage control, drawn
# make demo-mpc                    the same with storages, forecasts and a market; two minutes
# make demo-vpp                    a day of a virtual power plant, drawn
# make bench-inertia               measure estimates of inertia
# make bench-mqtt, bench-stores    measure connectors; both: bench-connectors
# make bench-control               measure controllers, in closed loops
# make bench-policy                measure the policy system, and how soon policies take effect
# make bench-devices               measure the management of 10,000 devices on a 5G network
# make bench-replay                measure recording and replay
# make bench-cluster               measure one flow over several processes
# make bench-site                  measure a site under `edgeflex up`, and a cluster: 45 minutes

PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Where it is set, each of the many processes that tests and demos start compiles all sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-frequency demo-voltage demo-mpc demo-vpp test check bench bench-inertia bench-mqtt bench-stores bench-connectors bench-control bench-policy bench-cluster bench-devices bench-site bench-replay reference clean

demo: $(VENV)/.demo
	@$(BIN)/edgeflex demo $(ARGS)

demo-frequency: $(VENV)/.demo
	@$(BIN)/python -m edgeflex_flow.cli.demo.frequency --picture frequency.png $(ARGS)

demo-voltage: $(VENV)/.demo-voltage
	@$(BIN)/python -m edgeflex_flow.cli.demo.voltage --picture voltage.png $(ARGS)

demo-mpc: $(VENV)/.demo-voltage
	@$(BIN)/python -m edgeflex_flow.cli.demo.mpc --picture mpc.png $(ARGS)

demo-vpp: $(VENV)/.demo-vpp
	@$(BIN)/python -m edgeflex_services.vpp_demo $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/edgeflex reference --check

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks $(ARGS)

bench-inertia: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.inertia $(ARGS)

bench-mqtt: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.mqtt $(ARGS)

bench-stores: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.stores $(ARGS)

bench-connectors: bench-mqtt bench-stores

bench-policy: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.policy_preview
	@$(BIN)/python -m benchmarks.policy

bench-devices: $(VENV)/.dev
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.devices $(ARGS)

bench-replay: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.replay $(ARGS)

bench-cluster: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.cluster $(ARGS)

bench-site: $(VENV)/.dev bench-cluster
	@$(BIN)/python -m benchmarks.site $(ARGS)

bench-control: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.control_voltage
	@$(BIN)/python -m benchmarks.control_mpc
	@$(BIN)/python -m benchmarks.control_frequency
	@$(BIN)/python -m benchmarks.control_latency
	@$(BIN)/python -m benchmarks.control_vpp

reference: $(VENV)/.dev
	$(BIN)/edgeflex reference

clean:
	rm -rf $(VENV)

$(VENV)/.venv:
	@test -n "$(PYTHON)" || { echo "edgeflex-flow needs Python 3.11 or 3.12 on the PATH" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "installing edgeflex-flow (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.demo-vpp: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "installing edgeflex-flow, scipy and matplotlib"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[plot,control]'
	@touch $@

$(VENV)/.demo-voltage: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "installing edgeflex-flow, pandapower and matplotlib"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[plot,grid]'
	@touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "installing edgeflex-flow and what its tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.demo $(VENV)/.demo-voltage $(VENV)/.demo-vpp
