"""Image import: time and peak memory, beside zstd on the same file."""

import pathlib
import random
import time

import report
from regild import ROOT, Regild, run_measured

ROUNDS = 3
MIB = 1 << 20
BLOCK = 4096
# Data lies in runs of this length all over the image, holes between them.
RUN = 32 * MIB


def run(bench):
    directory = bench.directory()
    small = sparse_image(directory / "2g.raw", 2048 * MIB, 256 * MIB)
    large = sparse_image(directory / "8g.raw", 8192 * MIB, 1024 * MIB)
    tiny = ROOT / "target/lab/tiny-v1.raw"
    rows = [["image", "program", "seconds", "regild : it", "CPU s", "peak MB", "stored MB"]]
    summary = []
    with bench.cable() as cable:
        for what, path, rounds in ((f"tiny ({size_of(tiny)})", tiny, ROUNDS), (size_of(small), small, ROUNDS),
                                   (size_of(large), large, ROUNDS)):
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(import_once(bench, cable, path))
                theirs.append(compress_once(directory, path))
            ratio = report.ratio(ours, theirs, "seconds")
            for name, found in (("regild image import", ours), ("zstd -3 -T2", theirs)):
                rows.append([what, name, f"{report.median(found, 'seconds'):.2f}", "" if found is theirs else f"{ratio:.2f}",
                             f"{report.median(found, 'cpu_seconds'):.2f}", f"{max(one['peak'] for one in found) / 1e6:.0f}",
                             f"{report.median(found, 'stored') / 1e6:.0f}"])
            measured = f"{report.median(ours, 'seconds'):.2f} s, peak {max(one['peak'] for one in ours) / 1e6:.0f} MB"
            summary.append((f"import of {what}", "", f"{measured}; {ratio:.2f} x the time of zstd -3 -T2", None))
    notes = [f"Medians of {ROUNDS} rounds, peaks the highest of them; the files are in the page cache. regild: server and "
             "command together in CPU, the server alone in memory (the command has "
             f"{max(one['command_peak'] for one in ours) / 1e6:.0f} MB), into an empty store, synced. zstd does not sync, "
             "and finds no blocks that repeat."]
    return report.Table("Image import", rows, notes, summary)


def import_once(bench, cable, path):
    server = Regild(cable, bench.directory() / "regild")
    before = server.process.cpu_seconds()
    began = time.monotonic()
    command_peak, command_cpu = server.import_image(path, "bench:1")
    seconds = time.monotonic() - began
    found = {"seconds": seconds, "cpu_seconds": server.process.cpu_seconds() - before + command_cpu,
             "peak": server.process.memory("VmHWM"), "command_peak": command_peak,
             "stored": sum(pack.stat().st_size for pack in server.packs())}
    server.stop()
    return found


def compress_once(directory, path):
    out = directory / "out.zst"
    began = time.monotonic()
    peak, cpu = run_measured(["zstd", "-3", "-T2", "-q", "-f", path, "-o", out])
    found = {"seconds": time.monotonic() - began, "cpu_seconds": cpu, "peak": peak, "stored": out.stat().st_size}
    out.unlink()
    return found


def sparse_image(path, size, data):
    """Of `size` bytes, `data` of them not zeros: blocks that compress to about 30 %, as those of a Debian do, none of
    them twice. The same in every run."""
    numbers = random.Random(f"regild bench {size}")
    runs = data // RUN
    with open(path, "wb") as image:
        image.truncate(size)
        for run in range(runs):
            image.seek(run * (size // runs))
            for _ in range(RUN // MIB):
                image.write(b"".join(block(numbers) for _ in range(MIB // BLOCK)))
    return path


def block(numbers):
    noise = numbers.randbytes(1024)
    text = noise[512:].hex().encode()
    return noise[:512] + text + (text[:64] * 40)


def size_of(path):
    stat = pathlib.Path(path).stat()
    return f"{stat.st_size / 2**30:.2g} GiB, {stat.st_blocks * 512 / MIB:.0f} MiB of data"
