"""Image data over HTTP by range, beside nginx on the same file."""

import json

import peers
import report
from cable import SERVER_IP
from image import sparse_image
from regild import HTTP_PORT, Regild

ROUNDS = 3
MIB = 1 << 20
# Clients at a time, and ranges of 4 MiB.
QUESTIONS = [(1, 1000), (4, 1500)]


def run(bench):
    rows = [["clients", "server", "MB/s", "regild : it", "p99 ms for 4 MiB", "CPU s per GB", "regild : it"]]
    summary = []
    with bench.cable() as cable:
        directory = bench.directory()
        regild = Regild(cable, directory / "regild")
        regild.import_image(sparse_image(directory / "image.raw", 1024 * MIB, 512 * MIB), "bench:1")
        pack, = regild.packs()
        nginx = peers.nginx(cable, directory, pack.parent)
        servers = {"regild": (regild.process, HTTP_PORT, f"/images/packs/{pack.stem}"),
                   "nginx": (nginx, peers.HTTP_PORT, f"/{pack.name}")}
        for clients, ranges in QUESTIONS:
            runs = {name: [] for name in servers}
            for _ in range(ROUNDS):
                for name, server in servers.items():
                    runs[name].append(measure(bench, cable, server, pack.stat().st_size, clients, ranges))
            faster, cheaper = (report.ratio(runs["regild"], runs["nginx"], key) for key in ("mb_per_second", "cpu_per_gb"))
            for name, found in runs.items():
                ratios = ["", ""] if name == "regild" else [f"{faster:.2f}", f"{cheaper:.2f}"]
                rows.append([clients, name, f"{report.median(found, 'mb_per_second'):.0f}", ratios[0],
                             f"{report.median(found, 'latency', 'p99_ms'):.1f}",
                             f"{report.median(found, 'cpu_per_gb'):.2f}", ratios[1]])
            ours = f"{report.median(runs['regild'], 'mb_per_second'):.0f} MB/s"
            summary.append((f"image data, {clients} client{'s' * (clients > 1)}", "",
                            f"{ours}; {faster:.2f} x nginx, {cheaper:.2f} x its CPU a GB", None))
        regild.stop()
        nginx.stop()
    notes = [f"Ranges of 4 MiB, as the agent asks, of a pack of {pack_bytes(runs)} that is in the page cache; plain TCP "
             f"over the cable between the namespaces. Medians of {ROUNDS} rounds, in each the servers one after another."]
    return report.Table("Image data over HTTP", rows, notes, summary)


def pack_bytes(runs):
    return f"{runs['regild'][0]['pack_bytes'] / 1e6:.0f} MB"


def measure(bench, cable, server, size, clients, ranges):
    process, port, path = server
    load = [bench.load, "http", "--server", f"{SERVER_IP}:{port}", "--path", path, "--bytes", size]
    before = process.cpu_seconds()
    found = json.loads(cable.ask(load + ["--clients", clients, "--ranges", ranges]))
    found["cpu_per_gb"] = (process.cpu_seconds() - before) * 1e9 / found["bytes"]
    found["pack_bytes"] = size
    if found["ranges"] != ranges:
        raise SystemExit(f"{path}: {ranges} ranges were asked for, {found}")
    return found
