#!/usr/bin/env python3
"""`make bench`: builds what is measured, measures, prints. Needs root (namespaces), writes under target/ only.

usage: run.py [NAME...]     names as in BENCHES; all of them when none is given
"""

import functools
import importlib
import os
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True

import cable
import report
from regild import BINARY, BOOT_ASSETS, ROOT, built

# Quiet ones first: they do not heat up the disk for the others.
BENCHES = [
    "sizes", "serve", "fleet", "agents", "drift_fleet", "dhcp", "tftp", "image", "image_versions", "image_large",
    "drift", "drift_watch", "http", "netboot",
]
WORK = ROOT / "target/bench"


class Bench:
    """What one benchmark is given: programs, and directories that are gone when it is done."""

    def __init__(self, work):
        self.work = work

    @functools.cached_property
    def load(self):
        return built("load")

    def directory(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.work))

    def cable(self):
        return cable.Cable(self.directory())


def main(names):
    unknown = set(names) - set(BENCHES)
    if unknown:
        raise SystemExit(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    for needed, how in ((BINARY, "make build"), (BOOT_ASSETS / "SHA256SUMS", "make assets")):
        # The scan is the agent's alone.
        if not needed.exists() and not (needed == BINARY and names == ["drift"]):
            raise SystemExit(f"{needed} is missing; do: {how}")
    os.chdir(ROOT)
    WORK.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in names or BENCHES:
        print(f"bench: {name}, load average {report.load()}", file=sys.stderr, flush=True)
        began = time.monotonic()
        # Short: Unix sockets lie under it, and their paths have 107 bytes at most.
        work = pathlib.Path(tempfile.mkdtemp(prefix="", dir=WORK))
        try:
            module = importlib.import_module({"http": "http_range"}.get(name, name))
            before = report.load()
            made = module.run(Bench(work))
            made = made if isinstance(made, list) else [made]
            seconds = time.monotonic() - began
            made[-1].notes.append(f"{seconds:.0f} s; load average {before} before, {report.load()} after.")
            tables += made
            for table in made:
                print(f"\n{table.text()}", flush=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    verdict = {None: "", True: "yes", False: "NO"}
    rows = [[what, target, measured, verdict[met]] for table in tables
            for what, target, measured, met in table.summary]
    print(report.Table("Summary", [["figure", "target", "measured", "met"]] + rows, [report.machine()]).text())


if __name__ == "__main__":
    main(sys.argv[1:])
