#!/usr/bin/env bash
# run.sh [TARGET...]: fuzzes each target (all of them by default) for FUZZ_SECONDS and fails when one crashed, took too
# long or took too much memory. What a run finds interesting stays in fuzz/corpus and is where the next one begins.
#
#   FUZZ_SECONDS=30          for each target
#   FUZZ_SANITIZER=none      `address` finds memory errors in the C parts' callers, too, at half the speed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SECONDS_EACH=${FUZZ_SECONDS:-30}
SANITIZER=${FUZZ_SANITIZER:-none}
command -v cargo-fuzz >/dev/null || {
  echo "fuzz: no cargo-fuzz; do: cargo install cargo-fuzz --locked   (or: make fuzz-setup)" >&2
  exit 1
}
# Without a sanitizer a stable compiler does all of it; -Zsanitizer it takes only when it is told to act as a nightly.
[ "$SANITIZER" = none ] || export RUSTC_BOOTSTRAP=1

targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
cargo fuzz build --sanitizer "$SANITIZER"
failed=()
for target in "${targets[@]}"; do
  log=$(mktemp)
  # 2 GiB and 20 s for one input: far more than any of them needs on a busy machine.
  if cargo fuzz run --sanitizer "$SANITIZER" "$target" -- -max_total_time="$SECONDS_EACH" -timeout=20 -rss_limit_mb=2048 \
    -verbosity=0 -print_final_stats=1 >"$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    corpus=$(find "fuzz/corpus/$target" -type f | wc -l)
    echo "fuzz: $target: ${runs:-0} inputs in ${SECONDS_EACH} s, $corpus kept, no crash"
  else
    failed+=("$target")
    mkdir -p "fuzz/artifacts/$target"
    cp "$log" "fuzz/artifacts/$target/log"
    echo "fuzz: $target FAILED (all of it in fuzz/artifacts/$target/log):" >&2
    grep -a -A 4 -E 'panicked at|ERROR: libFuzzer|^error' "$log" | head -n 40 >&2 || tail -n 20 "$log" >&2
    grep -a 'cargo fuzz run' "$log" >&2 || true
  fi
  rm -f "$log"
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "fuzz: failed: ${failed[*]}; the inputs are in fuzz/artifacts" >&2
  exit 1
fi
