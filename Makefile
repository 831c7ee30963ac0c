# regild: the front door. `make demo` shows it, `make test` proves it.
.DELETE_ON_ERROR:
.PHONY: demo test test-fast test-power test-roads test-full setup assets images images-full build audit fuzz fuzz-setup clean help
.PHONY: bench bench-setup rules test-sim deb

ASSETS := target/boot-assets/SHA256SUMS
AGENT_SOURCES := $(shell find src/agent src/volume src/wire src/decide src/bin src/gpt.rs src/clock.rs src/lib.rs Cargo.toml Cargo.lock 2>/dev/null)
ASSET_SOURCES := $(shell find boot-assets -type f -not -path 'boot-assets/package/*')
PACKAGE_SOURCES := $(shell find boot-assets/package -type f) boot-assets/debian.sh boot-assets/agent.sh
IMAGE_SOURCES := tests/images/gpt-image.sh boot-assets/debian.sh

# Management controllers for tests/power, from PyPI.
CONTROLLERS := target/controllers/.installed

help:
	@echo "make demo       a blank machine becomes v1, then v2, before your eyes (QEMU, about 5 minutes)"
	@echo "make test       all tests that CI runs"
	@echo "make test-full  the long roads as well: a real Debian, power cuts, firmware without a server (about 30 minutes)"
	@echo "make rules      takes each rule of tests/rules.toml out, and expects its test to fail (about 15 minutes)"
	@echo "make test-sim   ten thousand lives of a simulated fleet, each under one seed (about 6 minutes; in test-full)"
	@echo "make setup      installs the Debian packages that all of this needs (as root)"
	@echo "make assets     builds the deploy environment and the bootloaders into target/boot-assets"
	@echo "make deb        the installed agent as a Debian package, target/regild-agent_VERSION_amd64.deb"
	@echo "make build      the release binary, target/release/regild"
	@echo "make fuzz       hostile input for every parser, FUZZ_SECONDS (30) for each of the targets in fuzz/"
	@echo "make bench      measures speed, memory and sizes, beside peers (docs/benchmarks.md; as root, more than an hour)"
	@echo "make bench-NAME one of: sizes, serve, fleet (the first time about 20 minutes), agents, drift, drift_watch, drift_fleet,"
	@echo "                dhcp, tftp, image, http, netboot"
	@echo "make audit      licences, bans and sources of the crates; the Vagrantfile"

setup:
	@tests/setup.sh

build:
	cargo build --release --bin regild

assets: $(ASSETS)

$(ASSETS): $(ASSET_SOURCES) $(AGENT_SOURCES)
	boot-assets/build.sh target/boot-assets

# The agent for installed systems; docs/installed-agent.md says how it comes into a golden image.
DEB := target/regild-agent_$(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -n 1 | sed 's/-/~/')_amd64.deb
deb: $(DEB)

$(DEB): $(PACKAGE_SOURCES) $(AGENT_SOURCES)
	boot-assets/package/build-deb.sh target

images: target/lab/tiny-v1.raw target/lab/tiny-v2.raw target/lab/tiny-v2-sick.raw

target/lab/tiny-%.raw: tests/images/build-tiny.sh $(IMAGE_SOURCES) $(wildcard tests/images/tiny/*)
	@mkdir -p target/lab
	tests/images/build-tiny.sh $* $@

# The tiny image with a root that the server cannot read.
target/lab/xfs-%.raw: export REGILD_ROOT = xfs
target/lab/xfs-%.raw: tests/images/build-tiny.sh $(IMAGE_SOURCES) $(wildcard tests/images/tiny/*)
	@mkdir -p target/lab
	tests/images/build-tiny.sh $* $@

# The tiny image with the agent as a service; v2 uses kexec. The agent is the one of the deploy environment.
STANDBY_IMAGES := target/lab/standby-v1.raw target/lab/standby-v2.raw
target/lab/standby-v2.raw: export REGILD_STANDBY_OPTIONS = --kexec
target/lab/standby-%.raw: tests/images/build-tiny.sh $(IMAGE_SOURCES) $(wildcard tests/images/tiny/*) $(ASSETS)
	@mkdir -p target/lab
	REGILD_STANDBY_AGENT=$${REGILD_AGENT:-target/x86_64-unknown-linux-gnu/agent/regild-agent} tests/images/build-tiny.sh $* $@

# The tiny image that watches itself.
WATCH_IMAGES := target/lab/watch-v1.raw target/lab/watch-v2.raw
target/lab/watch-%.raw: tests/images/build-tiny.sh $(IMAGE_SOURCES) $(wildcard tests/images/tiny/*) $(ASSETS)
	@mkdir -p target/lab
	REGILD_WATCH_AGENT=$${REGILD_AGENT:-target/x86_64-unknown-linux-gnu/agent/regild-agent} tests/images/build-tiny.sh $* $@

# Debian with the package in it, as a golden image of one's own would have it.
target/lab/debian-watch.raw: export REGILD_WATCH = 1
target/lab/debian-watch.raw: $(DEB)

# A golden image as people use them: Debian 12 from its archive (200 MB to download, 800 MB of data, about 5 minutes).
images-full: images $(STANDBY_IMAGES) $(WATCH_IMAGES) target/lab/xfs-v1.raw target/lab/debian-v1.raw target/lab/debian-watch.raw

target/lab/debian-%.raw: tests/images/build-debian.sh $(IMAGE_SOURCES) $(wildcard tests/images/debian/*) target/lab/ssh-key
	REGILD_AUTHORIZED_KEY="$$(cat target/lab/ssh-key.pub)" tests/images/build-debian.sh $* $@

# Who may log in to the machines of the tests.
target/lab/ssh-key:
	@mkdir -p target/lab
	ssh-keygen -q -t ed25519 -N '' -C 'regild tests' -f $@

demo: setup assets images
	cargo build --quiet --bin regild --example demo
	@# Machines and server die with the demo (PR_SET_PDEATHSIG), the namespace with them; files go here. In the
	@# background: while it waits for a command in the foreground a shell heeds no signal but the terminal's.
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; trap 'kill "$$demo"; wait "$$demo"; exit 130' INT TERM HUP; \
	TMPDIR="$$dir" target/debug/examples/demo target/debug/regild & demo=$$!; wait "$$demo"

# Fast first: a broken unit test shows within the first minutes, not after the boots.
test: setup test-fast test-power test-roads

test-fast:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	tests/with-ticker.sh cargo clippy --all-targets --quiet -- -D warnings
	cargo clippy --quiet --no-default-features --features agent --bin regild-agent -- -D warnings
	cargo clippy --quiet --lib -- --cfg fuzzing -D warnings
	@# The fuzz targets are a workspace of their own: nothing else sees that they fell behind. Seconds, once it is built.
	RUSTFLAGS="--cfg fuzzing" cargo check --quiet --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-check
	cargo test --lib --bins --test tidy --test rollout_text
	cargo test --test net --test write_path --test write_cuts
	cargo test --test store_cuts
	cargo test --test watch --test drift --test volume
	cargo test --test image_store --test image_diff --test image_plan --test image_facts
	cargo test --test sim
	@# These wait for the server, for timers and for disks more than they compute.
	cargo test --test http -- --test-threads 6

# Apart from test-fast: it needs PyPI once.
test-power: $(CONTROLLERS)
	cargo test --test power

$(CONTROLLERS): tests/power/requirements.txt
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

test-roads: assets images target/lab/watch-v1.raw
	cargo test --test outside --test outside_kernel --test baseline
	tests/with-ticker.sh cargo test --test lab_selftest --test boot_path -- --test-threads 2
	tests/with-ticker.sh cargo test --test power -- --ignored
	tests/with-ticker.sh cargo test --test fleet_road -- --nocapture
	tests/with-ticker.sh cargo test --test drift_road -- --nocapture

# What takes minutes each. One machine at a time: two cores emulate one at a pace that the tests' patience was made for.
test-full: test images-full
	tests/with-ticker.sh cargo test --test long_roads -- --ignored --test-threads 1
	tests/with-ticker.sh cargo test --test verify_road --test xfs_road -- --ignored --nocapture --test-threads 1
	tests/with-ticker.sh cargo test --test standby_road -- --ignored --nocapture --test-threads 1
	tests/with-ticker.sh cargo test --test debian_road -- --ignored --test-threads 1
	tests/with-ticker.sh cargo test --test store_cuts -- --ignored --nocapture --test-threads 1
	tests/with-ticker.sh cargo test --test image_store -- --ignored --nocapture --test-threads 1
	tests/with-ticker.sh $(MAKE) test-sim
	tests/rules.py

# The fleet's simulation, ten thousand seeds or five minutes. Optimised: the build takes two minutes, and it runs four to
# five times as fast.
test-sim:
	CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test --test sim -- --include-ignored --nocapture --test-threads 1

bench-setup:
	@tests/setup.sh bench
	@benches/unpack-peers.sh

# On a copy of the tree.
rules:
	tests/rules.py

# Everything that it writes is under target/.
bench: setup bench-setup build assets images
	benches/run.py

# A large fleet on record, and one of which a thousand machines are written at once.
bench-fleet: setup bench-setup build assets images
	benches/run.py fleet agents

# Two real pairs of images beside casync, zstd and qemu-img; a thousand versions; 40 GiB. The first time ten minutes more,
# for the images (target/bench-images).
bench-image: setup bench-setup build assets
	benches/run.py image image_versions image_large

# A Debian's files beside AIDE, and the service while a package upgrade runs: needs no server.
bench-drift: setup bench-setup assets
	benches/run.py drift drift_watch

bench-%: setup bench-setup build assets images
	benches/run.py $*

# Advisories are not asked for: their database would have to be fetched from GitHub.
audit:
	@command -v cargo-deny >/dev/null || { echo "audit: no cargo-deny; do: cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny --locked check bans licenses sources
	tests/vagrant-validate.sh

# Finds what nobody thought of; what it found is kept as a named test. Builds everything anew with its own flags.
fuzz:
	fuzz/run.sh

fuzz-setup:
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked

clean:
	cargo clean
