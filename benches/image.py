"""The image store beside casync, zstd and qemu-img: what two versions take, and how long in and out take."""

import os
import random

import image_pairs as images
import report

ROUNDS = int(os.environ.get("REGILD_BENCH_ROUNDS", "5"))
MIB, BLOCK = 1 << 20, 4096
# Data of a made up image lies in runs of this length all over it, holes between them.
RUN = 32 * MIB


def run(bench):
    rows = [["pair", "what", "regild", "peer", "", "regild : it", "target", "met"]]
    speed = [["pair", "step", "regild s", "peer", "s", "regild : it", "target", "met", "CPU s", "peak MB"]]
    summary, notes = [], []
    with bench.cable() as cable:
        for at, pair in enumerate(images.pairs()):
            found = measure(bench, cable, pair, with_qcow2=at == 0)
            space(rows, summary, pair, found)
            times(speed, summary, pair, found)
            notes.append(f"{pair.what}: {found['data'] / 1e6:.0f} MB of data, {pair.new_files} new files of "
                         f"{pair.new_bytes / 1e6:.1f} MB, {pair.new_packed / 1e6:.1f} MB packed; casync make took "
                         f"{found['make'][0]['seconds']:.1f} s and {found['make'][1]['seconds']:.1f} s.")
    notes.append(f"Medians of {ROUNDS} rounds, ratios round by round, peer and regild in turn; sync(1) before each. Images in the "
                 "page cache. regild: the server's CPU and the command's together, the server's peak, "
                 "files that it has mapped included; it syncs what it "
                 "wrote, the peers do not (casync and zstd not at all). Every file that came out was compared (cmp).")
    return [report.Table("Images: bytes stored", rows, notes[:-1], summary),
            report.Table("Images: time", speed, notes[-1:])]


def measure(bench, cable, pair, with_qcow2):
    directory = bench.directory()
    for path in (pair.first, pair.second):
        images.warm(path)
    chunks = [images.casync_make(path, directory) for path in (pair.first, pair.second)]
    found = {"make": chunks, "alone": images.zstd_alone(pair.first, directory / "alone.zst"), "zstd": [], "first": [],
             "second": [], "extract": [], "export": [], "qcow2": [], "qcow2_qemu": [], "from_qcow2": [], "from_qcow2_qemu": []}
    out, theirs = directory / "out.raw", directory / "theirs.raw"
    for _ in range(ROUNDS):
        store = images.Store(bench, cable)
        found["zstd"].append(images.zstd(pair.first, directory / "out.zst"))
        found["first"].append(store.import_image(pair.first, "bench:1"))
        store.quiet(1)
        store.restart()
        found["second"].append(store.import_image(pair.second, "bench:2"))
        store.quiet(1)
        store.restart()
        found["extract"].append(images.casync_extract(pair.second.stem, directory, theirs))
        images.same(pair.second, theirs)
        found["export"].append(store.command("export", "bench:2", out))
        images.same(pair.second, out)
        if with_qcow2:
            beside_qemu(found, store, pair, directory)
        store.close()
    found["data"] = found["second"][0]["data"]
    return found


def beside_qemu(found, store, pair, directory):
    ours, theirs, raw = (directory / name for name in ("ours.qcow2", "theirs.qcow2", "back.raw"))
    images.settle()
    found["qcow2_qemu"].append(images.timed(["qemu-img", "convert", "-O", "qcow2", pair.second, theirs]))
    found["qcow2"].append(store.command("export", "bench:2", ours, "--format", "qcow2"))
    images.settle()
    found["from_qcow2_qemu"].append(images.timed(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", theirs, raw]))
    images.same(pair.second, raw)
    # Of blocks that are there already, so that it is about reading.
    found["from_qcow2"].append(store.import_image(theirs, "bench:3"))
    store.quiet(0)
    images.settle()
    images.timed(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", ours, raw])
    images.same(pair.second, raw)
    for path in (ours, theirs):
        path.unlink()


def space(rows, summary, pair, found):
    first, second = found["first"][0], found["second"][0]
    if any(one["stored"] != second["stored"] for one in found["second"]):
        raise SystemExit("the same pair took another number of bytes")
    add = lambda *row: judged(rows, summary, pair, *row)
    mb = lambda count: f"{count / 1e6:.1f} MB"
    add("v2, when v1 is there", mb(second["stored"]), "casync make", mb(found["make"][1]["stored"]),
        second["stored"] / found["make"][1]["stored"], 0.45)
    add("v2, when v1 is there", mb(second["stored"]), "its new files, each by zstd -3", mb(pair.new_packed),
        second["stored"] / pair.new_packed, 1.05)
    add("v1 alone", mb(first["stored"]), "zstd -3", mb(found["alone"]["stored"]), first["stored"] / found["alone"]["stored"], 1.03)
    for name, one in (("v1", first), ("v2", second)):
        add(f"manifest of {name}", f"{one['manifest'] / 1e3:.0f} kB", "the data", mb(one["data"]), one["manifest"] / one["data"], 0.0005)


def times(rows, summary, pair, found):
    def add(what, ours, peer, theirs, target):
        of = report.ratio(found[ours], found[theirs], "seconds")
        verdict = judge(summary, pair, what, peer, of, target)
        mine = found[ours]
        rows.append([pair.what, what, f"{report.median(mine, 'seconds'):.2f}", peer,
                     f"{report.median(found[theirs], 'seconds'):.2f}", f"{of:.2f}", f"{target}" if target else "", verdict,
                     f"{report.median(mine, 'cpu'):.2f}", f"{max(one['peak'] for one in mine) / 1e6:.0f}"])
    add("import v1", "first", "zstd -3 -T2", "zstd", 1.2)
    add("import v2", "second", "import v1", "first", 0.4)
    add("export v2", "export", "casync extract", "extract", 0.4)
    if found["qcow2"]:
        add("export as qcow2", "qcow2", "qemu-img convert", "qcow2_qemu", None)
        add("import from qcow2, no new block", "from_qcow2", "qemu-img convert", "from_qcow2_qemu", None)


def judged(rows, summary, pair, what, ours, peer, theirs, of, target):
    percent = of < 0.01
    verdict = judge(summary, pair, what, peer, of, target)
    shown = lambda number: f"{number:.3%}" if percent else f"{number:.3f}"
    rows.append([pair.what, what, ours, peer, theirs, shown(of), f"{target:.2%}" if percent else f"{target}", verdict])


def judge(summary, pair, what, peer, of, target):
    if target is None:
        return ""
    summary.append((f"{pair.what}: {what} : {peer}", f"{target}", f"{of:.4g}", of <= target))
    return "yes" if of <= target else "NO"


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
                image.write(b"".join(made_up(numbers) for _ in range(MIB // BLOCK)))
    return path


def made_up(numbers):
    noise = numbers.randbytes(1024)
    text = noise[512:].hex().encode()
    return noise[:512] + text + (text[:64] * 40)
