"""TFTP: ROMs that fetch ipxe.efi in blocks of 1468 bytes, one for each acknowledgement, or four as EDK2 asks."""

import json
import shutil

import peers
import report
from cable import SERVER_IP
from regild import BOOT_ASSETS, Regild

ROUNDS = 3
FILE = "ipxe.efi"
SERVERS = {
    "regild": lambda cable, files: Regild(cable, files.parent / "regild").process,
    "dnsmasq": peers.dnsmasq_tftp,
    "atftpd": peers.atftpd,
    "tftpd-hpa": peers.tftpd_hpa,
}
# Clients at a time, transfers, and the window that is asked for.
QUESTIONS = [(1, 60, 1), (50, 300, 1), (50, 300, 4)]


def run(bench):
    size = (BOOT_ASSETS / FILE).stat().st_size
    rows = [["clients", "window", "server", "MB/s", "regild : it", "p50 s", "p99 s", "CPU s per GB", "asked again"]]
    summary = []
    with bench.cable() as cable:
        for clients, transfers, window in QUESTIONS:
            runs = {name: [] for name in SERVERS}
            for _ in range(ROUNDS):
                for name in SERVERS:
                    runs[name].append(measure(bench, cable, name, (clients, transfers, window), size))
            for name, found in runs.items():
                against = "" if name == "regild" else f"{report.ratio(runs['regild'], found, 'mb_per_second'):.2f}"
                times = [report.median(found, "latency", key) / 1000 for key in ("p50_ms", "p99_ms")]
                rows.append([clients, granted(found, window), name, f"{report.median(found, 'mb_per_second'):.1f}", against,
                             *(f"{one:.3f}" for one in times), f"{report.median(found, 'cpu_per_gb'):.1f}",
                             sum(one["repeats"] for one in found)])
            ratios = ", ".join(f"{report.ratio(runs['regild'], runs[name], 'mb_per_second'):.2f} x {name}"
                               for name in SERVERS if name != "regild")
            ours = f"{report.median(runs['regild'], 'mb_per_second'):.1f} MB/s"
            summary.append((f"TFTP, {clients} client{'s' * (clients > 1)}, window {window}", "", f"{ours}; {ratios}", None))
    notes = [f"{FILE}, {size} bytes, blksize 1468. Medians of {ROUNDS} rounds, in each the servers one after "
             "another."]
    return report.Table("TFTP", rows, notes, summary)


def granted(found, window):
    got = found[0]["window"]
    return str(got) if got == window else f"{got} (asked: {window})"


def measure(bench, cable, name, question, size):
    clients, transfers, window = question
    files = bench.directory() / "files"
    files.mkdir()
    shutil.copy(BOOT_ASSETS / FILE, files)
    process = SERVERS[name](cable, files)
    load = [bench.load, "tftp", "--server", f"{SERVER_IP}:69", "--file", FILE, "--bytes", size]
    # The first transfer brings the file into memory, for all alike.
    cable.ask(load + ["--clients", 1, "--transfers", 1])
    before = process.cpu_seconds()
    found = json.loads(cable.ask(load + ["--clients", clients, "--transfers", transfers,
                                    "--window", window]))
    found["cpu_per_gb"] = (process.cpu_seconds() - before) * 1e9 / found["bytes"]
    process.stop()
    if found["transfers"] != transfers or found["block_bytes"] != 1468:
        raise SystemExit(f"{name}: {transfers} transfers were asked for, {found}")
    return found
