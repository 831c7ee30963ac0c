"""From the firmware's first DISCOVER to the agent's first byte on the disk: how long, and how much of it is ours.

Ours is the time that the machine waits for us, seen on the bridge: for each request, from its packet to the first
packet of the answer. Bodies are then moved at the pace of both sides, and shown apart. The agent's first write is what
it does when the server has answered its report that it now clears the disk's head.
"""

import json
import os
import re
import subprocess

import pcap
import report
from regild import BINARY, BOOT_ASSETS, HTTP_PORT, ROOT, built

SERVER = "10.77.0.1"
TARGET_PERCENT = 2.0
FIRMWARE = {"bios": "SeaBIOS, QEMU's iPXE ROM", "uefi": "OVMF, its own PXE, then ipxe.efi"}


def run(bench):
    rows = [["firmware", "phase", "seconds", "requests", "waiting for us ms", "moving bytes s", "MB"]]
    summary, notes = [], []
    for firmware, title in FIRMWARE.items():
        out = bench.directory()
        environment = {**os.environ, "TMPDIR": str(out), "RUST_LOG": "regild=debug"}
        done = subprocess.run([built("netboot"), BINARY, firmware, out / "found"], env=environment, cwd=ROOT,
                              capture_output=True, text=True, timeout=400)
        if done.returncode:
            raise SystemExit(f"netboot {firmware}: {done.stderr[-4000:]}")
        found = json.loads((out / "found/netboot.json").read_text())
        requests = requests_of(out / "found")
        check(requests, firmware, out / "found")
        phases = phases_of(requests)
        for name, begin, end in phases:
            inside = [one for one in requests if begin <= one.asked < end]
            rows.append([title, name, f"{end - begin:.2f}", *figures(inside)])
        begin, end = phases[0][1], phases[-1][2]
        rows.append([title, "all", f"{end - begin:.2f}", *figures(requests)])
        waited, cpu = sum(one.wait for one in requests), found["server_cpu_seconds"]
        percent = 100 * waited / (end - begin)
        summary.append((f"{firmware}: first DISCOVER to first byte written", "", f"{end - begin:.1f} s", None))
        summary.append((f"{firmware}: of it waiting for the server", f"{TARGET_PERCENT:.0f} %",
                        f"{percent:.2f} % ({waited * 1000:.0f} ms; CPU {cpu:.2f} s, {100 * cpu / (end - begin):.2f} %)",
                        percent < TARGET_PERCENT))
        power_on = found["power_on_to_first_write_seconds"]
        notes.append(f"{title}: {power_on:.1f} s from power-on. {len(requests)} requests, checked against the server's "
                     "log and the sizes of the files.")
    return report.Table("From DISCOVER to the first byte written", rows, notes, summary)


def figures(requests):
    moved = [one for one in requests if one.protocol == "HTTP"]
    return [len(requests), f"{sum(one.wait for one in requests) * 1000:.1f}", f"{sum(one.moving for one in moved):.2f}",
            f"{sum(one.body_bytes for one in requests) / 1e6:.2f}"]


def requests_of(found):
    """All requests until the agent's first write, by time."""
    packets = list(pcap.packets(found / "bridge.pcap"))
    http = pcap.http(packets, SERVER, HTTP_PORT)
    first_write = next(one for one in http if b'"clear_head"' in one.request)
    requests = pcap.dhcp(packets) + pcap.tftp(packets, SERVER) + http
    return sorted((one for one in requests if one.asked <= first_write.asked), key=lambda one: one.asked)


def phases_of(requests):
    """(name, begin, end) from the first DISCOVER to the answer that the first write follows."""
    first = lambda what, after=0.0: next(one for one in requests if what(one) and one.asked >= after)
    at = lambda path: first(lambda one: path in one.what)
    begin = first(lambda one: one.what == "DISCOVER").asked
    script, initramfs, check_in = at("GET /boot/"), at("GET /assets/initrd.img"), at("POST /agent/v1/checkin")
    kernel = at("GET /assets/vmlinuz").asked
    marks = [("iPXE: DHCP until its script", begin, script.asked)]
    transfers = [one for one in requests if one.protocol == "TFTP"]
    if transfers:
        ipxe = first(lambda one: one.what == "DISCOVER", transfers[-1].asked)
        marks = [("firmware: DHCP", begin, transfers[0].asked),
                 ("firmware: ipxe.efi by TFTP", transfers[0].asked, transfers[-1].asked),
                 ("iPXE: start", transfers[-1].asked, ipxe.asked),
                 ("iPXE: DHCP until its script", ipxe.asked, script.asked)]
    environment = first(lambda one: one.what == "DISCOVER", initramfs.last)
    return marks + [("iPXE: script", script.asked, kernel),
                    ("iPXE: kernel and initramfs by HTTP", kernel, initramfs.last),
                    ("kernel, initramfs, drivers", initramfs.last, environment.asked),
                    ("deploy environment: DHCP", environment.asked, check_in.asked),
                    ("agent: until its first write", check_in.asked, requests[-1].first)]


def check(requests, firmware, found):
    """The capture against what the server says it did, and against the files: a reader that misses or invents packets
    would make the figures worthless."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", (found / "serve.log").read_text())
    log = log[:log.index("to=deploying:clear_head")]
    count = lambda what: sum(one.what == what for one in requests)
    tftp = [one for one in requests if one.protocol == "TFTP"]
    paths = [one.what.split()[1] for one in requests if one.protocol == "HTTP"]
    size = lambda name: (BOOT_ASSETS / name).stat().st_size
    got = lambda path: sum(one.body_bytes for one in requests if f" {path} " in one.what)
    facts = [
        ("no packet lost", "\n0 packets dropped by kernel" in (found / "tcpdump.log").read_text(), True),
        ("offers", count("DISCOVER"), log.count(": offered ")),
        ("leases", count("REQUEST"), log.count(": leased ")),
        ("answers", sum(one.first is None for one in requests if one.protocol != "TFTP"), 0),
        # Nothing answers the acknowledgement of a file's last block.
        ("TFTP answers", sum(one.first is None for one in tftp), 1 if firmware == "uefi" else 0),
        ("TFTP requests", count("RRQ"), log.count(": sending ")),
        ("TFTP bytes", sum(one.body_bytes for one in tftp), size("ipxe.efi") if firmware == "uefi" else 0),
        ("scripts", sum(path.startswith("/boot/") for path in paths), log.count("boot script of the deploy environment")),
        ("kernel bytes", got("/assets/vmlinuz"), size("vmlinuz")),
        ("initramfs bytes", got("/assets/initrd.img"), size("initrd.img")),
        ("check-ins", paths.count("/agent/v1/checkin"), log.count("to=deploying:check_in")),
        # Every step is a move but the target, which is none.
        ("reports", paths.count("/agent/v1/report"), log.count("to=deploying:") + 1),
        ("manifests", sum(path.startswith("/images/manifests/") for path in paths), 1),
        # The survey looks at the beginning of the disk first, and needs the first frame for that.
        ("packs", sum(path.startswith("/images/packs/") for path in paths), 1),
        ("other paths", len(paths) - 6 - paths.count("/agent/v1/report"), 0),
        ("answers are whole", [one.what for one in requests if one.protocol == "HTTP"
                               and one.body_bytes != pcap.content_length(one.head.partition(b"\r\n\r\n")[0])], []),
    ]
    wrong = [f"{what}: {seen} in the capture, {known} expected" for what, seen, known in facts if seen != known]
    if wrong:
        raise SystemExit("the capture is not what happened:\n" + "\n".join(wrong))
