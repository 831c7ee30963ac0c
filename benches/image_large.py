"""A sparse image of 40 GiB with 8 GiB of data: what an import and an export need in memory, whatever the size."""

import os
import shutil

import image_pairs as images
import report
from image import sparse_image

GIB, MIB = 1 << 30, 1 << 20
SIZE = 40 * GIB
DATA = int(os.environ.get("REGILD_BENCH_LARGE_GIB", "8")) * GIB
MEMORY_MAX = 300e6


def run(bench):
    directory = bench.directory()
    free = shutil.disk_usage(directory).free
    # The image, the store, and the image once more.
    if free < 3 * DATA:
        raise SystemExit(f"{directory}: {free / 1e9:.0f} GB free, {3 * DATA / 1e9:.0f} are needed")
    path, out = sparse_image(directory / "large.raw", SIZE, DATA), directory / "out.raw"
    rows = [["step", "seconds", "CPU s", "server's own MB", "with mapped files MB", "command's MB", "stored MB"]]
    with bench.cable() as cable:
        store = images.Store(bench, cable)
        first = store.import_image(path, "bench:1")
        add = lambda what, one, stored="": rows.append(
            [what, f"{one['seconds']:.1f}", f"{one['cpu']:.1f}", *(f"{one[key] / 1e6:.0f}" for key in ("own", "peak", "command_peak")),
             stored])
        add("import", first, f"{first['stored'] / 1e6:.0f}")
        store.quiet(1)
        store.restart()
        # Another length, so another image: nothing in it is new.
        with open(path, "r+b") as image:
            image.truncate(SIZE + MIB)
        again = store.import_image(path, "bench:2")
        add("import of a second version, nothing new", again, f"{again['stored'] / 1e6:.0f}")
        store.quiet(1)
        store.restart()
        exported = store.command("export", "bench:2", out)
        add("export", exported)
        images.same(path, out)
        peak = max(one["own"] for one in (first, again))
        store.close()
    path.unlink()
    summary = [("memory of an import of 40 GiB", "300 MB", f"{peak / 1e6:.0f} MB", peak < MEMORY_MAX)]
    notes = [f"{SIZE // GIB} GiB, {DATA // GIB} GiB of it data that packs to 30 % and never repeats; a server that was started for "
             "each step. Mapped files: packs and indexes, which the page cache holds anyway and gives back when others need "
             "memory; a scrub that was due read them beside. Compared after the export."]
    return report.Table("A large image", rows, notes, summary)
