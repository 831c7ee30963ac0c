# shellcheck shell=bash
# Sourced behind debian.sh by what takes the agent along: the deploy environment, and the package for installed systems.

# Static, so that the initramfs needs no C library. No path of this machine may end up in it: two checkouts
# must give the same agent.
build_agent() {
  local cargo_home=${CARGO_HOME:-$HOME/.cargo} target=x86_64-unknown-linux-gnu
  command -v cargo >/dev/null || die "cargo is missing; install Rust (rustup.rs), or set REGILD_AGENT=FILE"
  (
    cd "$REPOSITORY"
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$REPOSITORY=/regild --remap-path-prefix=$cargo_home=/cargo" \
      CFLAGS="-ffile-prefix-map=$cargo_home=/cargo" \
      cargo build --quiet --profile agent --target $target --no-default-features --features agent --bin regild-agent
  ) || die "the agent does not build; see above"
  AGENT=${CARGO_TARGET_DIR:-$REPOSITORY/target}/$target/agent/regild-agent
}
