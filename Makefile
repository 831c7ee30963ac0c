# regild: the front door. `make demo` shows it, `make test` proves it.
.DELETE_ON_ERROR:
.PHONY: demo test test-fast test-roads setup assets images build audit fuzz fuzz-setup clean help

ASSETS := target/boot-assets/SHA256SUMS
AGENT_SOURCES := $(shell find src/agent src/wire src/decide src/bin src/gpt.rs src/clock.rs src/lib.rs Cargo.toml Cargo.lock 2>/dev/null)
ASSET_SOURCES := $(shell find boot-assets -type f)

help:
	@echo "make demo       a blank machine becomes v1, then v2, before your eyes (QEMU, about 5 minutes)"
	@echo "make test       all tests that CI runs"
	@echo "make setup      installs the Debian packages that all of this needs (as root)"
	@echo "make assets     builds the deploy environment and the bootloaders into target/boot-assets"
	@echo "make build      the release binary, target/release/regild"
	@echo "make fuzz       hostile input for every parser, FUZZ_SECONDS (30) for each of the targets in fuzz/"
	@echo "make audit      licences, bans and sources of the crates; the Vagrantfile"

setup:
	@tests/setup.sh

build:
	cargo build --release --bin regild

assets: $(ASSETS)

$(ASSETS): $(ASSET_SOURCES) $(AGENT_SOURCES)
	boot-assets/build.sh target/boot-assets

images: target/lab/tiny-v1.raw target/lab/tiny-v2.raw

target/lab/tiny-%.raw: $(shell find tests/images -type f)
	@mkdir -p target/lab
	tests/images/build-tiny.sh $* $@

demo: setup assets images
	cargo build --quiet --bin regild --example demo
	@# Machines and server die with the demo (PR_SET_PDEATHSIG), the namespace with them; files go here.
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; trap 'exit 130' INT TERM; \
	TMPDIR="$$dir" target/debug/examples/demo target/debug/regild

# Fast first: a broken unit test shows within the first minutes, not after the boots.
test: setup test-fast test-roads

test-fast:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	tests/with-ticker.sh cargo clippy --all-targets --quiet -- -D warnings
	cargo clippy --quiet --no-default-features --features agent --bin regild-agent -- -D warnings
	cargo clippy --quiet --lib -- --cfg fuzzing -D warnings
	cargo test --lib --bins --test tidy
	cargo test --test net --test write_path --test write_cuts

test-roads: assets images
	tests/with-ticker.sh cargo test --test lab_selftest --test boot_path -- --test-threads 2

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
