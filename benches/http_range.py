"""Image data over HTTP by range: one stream of warm and of cold data and some at once, beside nginx on the same file; 200
streams at once; and limits: what they let through, and how evenly."""

import json
import os
import subprocess

import peers
import report
from cable import CLIENT_LINK, SERVER_IP
from regild import BINARY, CONFIG, HTTP_PORT, Regild

ROUNDS = 5
MIB = 1 << 20
RANGE = 4 * MIB
DATA = 768 * MIB
# Where, whether the file is in the page cache, clients at a time, ranges. Cold: each byte once.
QUESTIONS = [("loopback", "warm", 1, 750), ("loopback", "cold", 1, DATA // RANGE - 1), ("cable", "warm", 1, 750),
             ("cable", "cold", 1, DATA // RANGE - 1), ("cable", "warm", 4, 750)]
STREAMS = 200
SECONDS = 6
# Addresses of the client's end that nobody leases.
STRANGERS = [f"10.90.8.{number}" for number in range(1, 51)]


def run(bench):
    with bench.cable() as cable:
        directory = bench.directory()
        regild = Regild(cable, directory / "regild")
        regild.import_image(noise_image(directory / "image.raw", DATA), "bench:1")
        # Anew, since its peak so far is the import's; and it looks once for a baseline in each image.
        settle(regild)
        regild.stop()
        regild = Regild(cable, directory / "regild")
        settle(regild)
        pack = max(regild.packs(), key=lambda pack: pack.stat().st_size)
        beside = beside_nginx(bench, cable, directory, regild, pack)
        many = many_streams(bench, cable, regild, pack)
        regild.stop()
        limits = limited(bench, cable, directory / "regild", pack)
    return report.Table("Image data over HTTP", *(sum(parts, []) for parts in zip(beside, many, limits)))


def beside_nginx(bench, cable, directory, regild, pack):
    nginx = peers.nginx(cable, directory, pack.parent)
    servers = {"regild": (regild.process, HTTP_PORT, f"/images/packs/{pack.stem}"),
               "nginx": (nginx, peers.HTTP_PORT, f"/{pack.name}")}
    rows = [["clients", "server", "MB/s", "regild : it", "p99 ms for 4 MiB", "CPU s per GB", "regild : it"]]
    summary = []
    for where, what, clients, ranges in QUESTIONS:
        runs = {name: [] for name in servers}
        for _ in range(ROUNDS):
            for name, server in servers.items():
                (drop_from_cache if what == "cold" else bring_into_cache)(pack)
                runs[name].append(measure(bench, cable, where, server, pack.stat().st_size, clients, ranges))
        faster, cheaper = (report.ratio(runs["regild"], runs["nginx"], key) for key in ("mb_per_second", "cpu_per_gb"))
        for name, found in runs.items():
            ratios = ["", ""] if name == "regild" else [f"{faster:.2f}", f"{cheaper:.2f}"]
            rows.append([f"{clients}, {what}, {where}", name, f"{report.median(found, 'mb_per_second'):.0f}", ratios[0],
                         f"{report.median(found, 'latency', 'p99_ms'):.1f}",
                         f"{report.median(found, 'cpu_per_gb'):.3f}", ratios[1]])
        ours = f"{report.median(runs['regild'], 'mb_per_second'):.0f} MB/s"
        targets = ("1 x its throughput, 0.8 x its CPU", faster >= 1 and cheaper <= 0.8) if clients == 1 else ("", None)
        summary.append((f"image data, {clients} client{'s' * (clients > 1)}, {what}, {where}", targets[0],
                        f"{ours}; {faster:.2f} x nginx, {cheaper:.2f} x its CPU a GB", targets[1]))
    nginx.stop()
    notes = [f"Ranges of 4 MiB, as the agent asks, of a pack of {pack.stat().st_size / 1e6:.0f} MB; plain TCP, over the "
             f"cable between the namespaces or inside one. Medians of {ROUNDS} rounds, in each the servers one after another. nginx: a worker for "
             "each core, sendfile, no log. Cold: the pack is dropped from the page cache before each run, and read once."]
    return rows, notes, summary


def many_streams(bench, cable, regild, pack):
    """The load program ends with an error when one of them fails."""
    server = regild.process, HTTP_PORT, f"/images/packs/{pack.stem}"
    bring_into_cache(pack)
    found = measure(bench, cable, "cable", server, pack.stat().st_size, STREAMS, 2500)
    peak = regild.process.memory("VmHWM")
    rows = [[f"{STREAMS}, warm, cable", "regild", f"{found['mb_per_second']:.0f}", "", f"{found['latency']['p99_ms']:.0f}",
             f"{found['cpu_per_gb']:.3f}", ""]]
    summary = [(f"{STREAMS} streams at once", "none fails, below 200 MB", f"none failed; peak {peak / 1e6:.0f} MB of resident "
                "memory, what is mapped of packs counted", peak < 200e6)]
    return rows, [], summary


def limited(bench, cable, directory, pack):
    """All under one limit, one of them with 16 connections; then one group under a limit of its own beside others."""
    # Any address below is one of the client's: it answers ARP for it, and a socket may be bound to it.
    subprocess.run(cable.client + "ip route add local 10.90.8.0/24 dev lo".split(), check=True)
    subprocess.run(cable.client + "ip route add local 10.90.16.0/24 dev lo".split(), check=True)
    config = CONFIG.replace("[http]", '[http]\nbandwidth = "400MB/s"')
    regild = Regild(cable, directory, config)
    greedy = [STRANGERS[0]] * 15
    found = fetch_for(bench, cable, pack, STRANGERS + greedy)
    regild.stop()
    shares = list(found["by_address"].values())
    fairness = sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
    most = found["by_address"][STRANGERS[0]] / (sum(shares) / len(shares))
    summary = [(f"400 MB/s for {len(shares)} hosts, one of them with 16 connections", "",
                f"{found['mb_per_second']:.0f} MB/s; fairness index {fairness:.3f}; that one got {most:.2f} of the mean", None)]

    regild = Regild(cable, directory, CONFIG)
    hosts = grouped(bench, cable, regild, 25, "100MB/s")
    found = fetch_for(bench, cable, pack, hosts + STRANGERS[:25])
    regild.stop()
    group = [found["by_address"][host] for host in hosts]
    fairness = sum(group) ** 2 / (len(group) * sum(share**2 for share in group))
    slow = sum(group) / 1e6 / found["seconds"]
    rest = (found["bytes"] - sum(group)) / 1e6 / found["seconds"]
    summary.append((f"100 MB/s for a group of {len(group)} hosts, beside 25 others without a limit", "",
                    f"{slow:.1f} MB/s, fairness index {fairness:.3f}; the others {rest:.0f} MB/s", None))
    notes = [f"Limits: {SECONDS} s each; the first burst (an eighth of a second) is in the figures. The index is Jain's, by host: "
             "1 when all got the same."]
    return [], notes, summary


def grouped(bench, cable, regild, count, bandwidth):
    """Hosts with a lease each, in a group with a limit: their addresses."""
    macs = [f"52:54:00:00:00:{number:02x}" for number in range(1, count + 1)]
    hosts = "".join(f'[[host]]\nmac = "{mac}"\ngroup = "slow"\n' for mac in macs)
    document = regild.directory / "fleet.toml"
    document.write_text(f'[group.slow]\nbandwidth = "{bandwidth}"\n{hosts}')
    subprocess.run([BINARY, "--server", "state/regild.sock", "apply", "-f", document], cwd=regild.directory, check=True,
                   stdout=subprocess.DEVNULL)
    cable.ask([bench.load, "dhcp", "--interface", CLIENT_LINK, "--waiting", 1, "--exchanges", count])
    known = regild.api("GET", "/v1/inventory/ansible")["_meta"]["hostvars"].values()
    return [host["ansible_host"] for host in known if host.get("regild_group") == "slow"]


def fetch_for(bench, cable, pack, addresses):
    bring_into_cache(pack)
    return json.loads(cable.ask([bench.load, "http", "--server", f"{SERVER_IP}:{HTTP_PORT}", "--path",
                                 f"/images/packs/{pack.stem}", "--bytes", pack.stat().st_size, "--from", ",".join(addresses),
                                 "--seconds", SECONDS]))


def settle(regild):
    regild.process.wait_until(lambda: "gives no baseline" in regild.process.log(), "done with the baseline", 120)


def measure(bench, cable, where, server, size, clients, ranges):
    process, port, path = server
    load = [bench.load, "http", "--server", f"{SERVER_IP}:{port}", "--path", path, "--bytes", size]
    before = process.cpu_seconds()
    said = cable.ask(load + ["--clients", clients, "--ranges", ranges], inside=cable.server if where == "loopback" else None)
    found = json.loads(said)
    found["cpu_per_gb"] = (process.cpu_seconds() - before) * 1e9 / found["bytes"]
    if found["ranges"] != ranges:
        raise SystemExit(f"{path}: {ranges} ranges were asked for, {found}")
    return found


def noise_image(path, size):
    """Data that does not compress: then the pack is as long as the image."""
    with open(path, "wb") as image:
        for _ in range(size // MIB):
            image.write(os.urandom(MIB))
    return path


def bring_into_cache(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(MIB):
            pass


def drop_from_cache(path):
    """Only pages that nobody has mapped go."""
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    said = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", path], capture_output=True, text=True)
    left = int(said.stdout.strip() or 0)
    if left > path.stat().st_size // 50:
        raise SystemExit(f"{path}: {left} bytes are still in the page cache")
