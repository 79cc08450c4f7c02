# `make demo` and `make test` are all a newcomer needs; each sets up what it uses.
SHELL := /bin/bash
UV := build/tools/uv/bin/uv
RUN := $(UV) run --no-sync
CARGO := CARGO_TARGET_DIR=$(CURDIR)/build/cargo cargo
MANIFEST := --manifest-path agent/Cargo.toml
FUZZ_SECONDS ?= 600
ARGS ?=
# Hundreds of processes are started here: each would compile everything it imports, again and again.
unexport PYTHONDONTWRITEBYTECODE
CHAOS := $(filter-out %_soak.py,$(wildcard tests/integration/test_cluster*.py)) tests/integration/test_rotation.py tests/integration/test_restore.py tests/integration/test_bridge_crashes.py

.DEFAULT_GOAL := help
.PHONY: help setup demo check test console-test lab chaos chaos-soak upgrade races clones gateway scale hostile bench bench-gateway bench-micro soak fuzz proofs packages packages-test ansible-test image image-test clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install and build what is missing (apt, uv, cargo, etcd)
	@tools/setup

demo: setup  ## two clouds and an office on one vSubnet, proof by proof (ARGS=--once ends by itself)
	@$(RUN) python -m tests.demo $(ARGS)

check: setup  ## formats, lints, types and import directions
	@tools/check

test: setup  ## everything under 20 minutes on 2 cores
	@tools/test

console-test: setup  ## the console in a real browser, at length: first login to first ping, 1,000 nodes (ARGS)
	@tools/promtool
	@$(RUN) pytest -q -m slow tests/unit/test_monitoring_files.py
	@$(RUN) pytest -m "slow or not slow" tests/browser $(ARGS)

lab: setup  ## end-to-end tests only (ARGS: pytest arguments)
	@$(RUN) pytest tests/integration $(ARGS)

chaos: setup  ## faults of clusters: cut off, killed, lost, damaged, full, replaced, restored: about 40 min
	@$(RUN) pytest -m "slow or not slow" $(CHAOS) $(ARGS)

chaos-soak: setup  ## 20 minutes of random faults, over each other (CAIRN_SOAK_S, CAIRN_SOAK_SEED)
	@$(RUN) pytest -s -m slow tests/integration/test_cluster_soak.py $(ARGS)

upgrade: setup  ## from the version before (tests/previous-build.txt) to this one and back, one by one
	@tools/previous-build
	@$(RUN) pytest -m slow tests/integration/test_upgrade.py $(ARGS)

bench: setup  ## Cairn beside veth, VXLAN and other overlays (ARGS=--quick under 5 minutes)
	@tools/bench $(ARGS)

bench-gateway: setup  ## what crosses a gateway beside two VMs of a vSubnet; on a machine that does nothing else
	@$(RUN) python -m tests.bench.gateway $(ARGS)

scale: setup  ## simulated agents against one replica (ARGS="--agents 5000", 1000 unless given)
	@$(RUN) python -m tests.sim $(ARGS)

hostile: setup  ## both APIs under hostile input, 1,000 requests an operation and more: about 20 min (ARGS: pytest arguments)
	@$(RUN) python -m tests.hostile $(ARGS)

races: setup  ## two replicas on real etcd asked for the same things at once, 100,000 steps
	@CAIRN_RACE_STEPS=100000 $(RUN) pytest -s tests/contract/test_two_replicas.py $(ARGS)
	@CAIRN_FORWARDING_RUNS=5000 CAIRN_ADDRESS_RUNS=300 $(RUN) pytest -m "slow or not slow" --timeout 1800 \
		tests/contract/test_two_gateways.py tests/unit/appliance/domain/test_forwarding.py \
		tests/unit/appliance/services/test_addressing_machine.py $(ARGS)

soak: setup  ## 100 GB, ten minutes of rekeys, floods and bad networks: about half an hour
	@$(RUN) pytest -m slow tests/load tests/integration/test_packet_path.py tests/integration/test_demo.py tests/integration/test_views.py $(ARGS)

gateway:  ## a LAN behind a pair of gateways: killed, looped, flooded, 200 schedules of faults, applications: 45 min
	@tools/setup gateway
	@CAIRN_GATEWAY_SCHEDULES=$${CAIRN_GATEWAY_SCHEDULES:-200} $(RUN) pytest -s -m 'slow or not slow' \
		tests/integration/test_gateway.py tests/integration/test_gateway_applications.py \
		tests/integration/test_gateway_lans.py \
		tests/integration/test_gateway_split.py tests/load/test_gateway.py $(ARGS)

clones: setup  ## fifty copies of a node start within two seconds; a node moves; its memory is put back (ARGS: pytest arguments)
	@CAIRN_CLONES=50 $(RUN) pytest -m 'slow or not slow' tests/integration/test_main_job_identity.py \
		tests/integration/test_main_job_memory.py -k 'b11 or moved or b10 or kt_7' $(ARGS)

bench-micro: setup  ## single steps of the packet path, by the nanosecond (ARGS: a name to pick)
	@$(CARGO) bench --quiet --locked $(MANIFEST) -p cairn-engine --bench packet_path -- $(ARGS)

fuzz: setup  ## every fuzz target for FUZZ_SECONDS (default 600)
	@tools/fuzz $(FUZZ_SECONDS)

packages:  ## the agent as deb, rpm and tarball, signed, with install.sh, in build/packages/dist (RELEASE=, KEY=)
	@tools/setup packages
	@$(RUN) python -m images.agent.build --release $${RELEASE:-1} $${KEY:+--key $$KEY}

packages-test:  ## packages on minimal Debian 12 and 13: from the appliance only, upgraded, put back, removed
	@tools/setup packages
	@images/agent/test-systems
	@$(RUN) pytest -s -m slow tests/packages $(ARGS)

ansible-test:  ## the Ansible collection: linted, then over SSH on systems without Python, molecule (ARGS)
	@tools/setup packages
	@tools/ansible
	@tools/ansible-lint
	@$(RUN) pytest -s -m slow tests/playbooks $(ARGS)

image:  ## the appliance's disk as raw, qcow2, OVA and installer ISO, the agent's packages in it, in build/image/dist (RELEASE=, KEY=, ARGS=--fresh)
	@tools/setup image
	@$(RUN) python -m images.agent.build $${KEY:+--key $$KEY}
	@$(RUN) python -m images.appliance.build --release $${RELEASE:-1} $${KEY:+--key $$KEY} $(ARGS)

image-test:  ## the image in QEMU by BIOS and by UEFI: from the seed to two agents that ping, from the OVA, installed from the ISO (ARGS)
	@tools/setup image
	@[ -e build/image/dist/SHA256SUMS ] || $(MAKE) image ARGS=
	@$(RUN) pytest -s -m slow tests/image $(ARGS)

proofs:  ## the proofs under build/proofs as a table
	@$(RUN) python -m tools.proofs

clean:  ## remove everything that was built
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
