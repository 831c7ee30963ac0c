"""A thousand versions of one image in one store: what looking at them takes, and how the next import fares."""

import os
import random
import statistics
import subprocess

import image_pairs as images
import report

VERSIONS = int(os.environ.get("REGILD_BENCH_VERSIONS", "1000"))
# Versions after which the figures are taken: a median over as many imports before.
STEPS = [step for step in (10, 100, 250, 500, 750, 1000) if step <= VERSIONS] or [VERSIONS]
OVER = 10
BLOCK, MIB = 4096, 1 << 20
# What a version changes: the content of a file or two, in one run, and the same places of the file system's own.
CHANGED, SCATTERED = MIB, 32
QUERIES = 5


def run(bench):
    # Built when it is not there.
    base = images.pairs()[0].first
    path = bench.directory() / "changing.raw"
    subprocess.run(["cp", "--sparse=always", base, path], check=True)
    rows = [["versions", "import s", "CPU s", "packs MB", "indexes MB", "manifests MB", "list ms", "show ms", "gc --dry-run ms",
             "server's peak MB"]]
    with bench.cable() as cable:
        # The versions are to stay, and each is made of nearly all blocks of the first: no policy takes one away.
        store = images.Store(bench, cable)
        images.warm(path)
        first = store.import_image(path, "bench:0")
        store.quiet(1)
        recent, worst = [], {"list": 0, "show": 0, "gc": 0}
        change = Change(path)
        for version in range(1, VERSIONS):
            change.next()
            # Without sync(1) before it: a thousand times that is long, and the import itself syncs what it wrote.
            recent = (recent + [store.plain_import(path, f"bench:{version}")])[-OVER:]
            if version + 1 in STEPS:
                rows.append(figures(store, version + 1, recent, worst))
        last = statistics.median(one["seconds"] for one in recent)
        store.close()
    met = lambda milliseconds: milliseconds < 1000
    summary = [(f"{VERSIONS} versions: {what}", "1 s", f"{worst[key]:.0f} ms", met(worst[key]))
               for what, key in (("image list", "list"), ("image show", "show"), ("image gc --dry-run", "gc"))]
    summary.append((f"import of the last of {VERSIONS} versions", "", f"{last:.2f} s; the first: {first['seconds']:.2f} s", None))
    notes = [f"The first image of the pairs ({first['data'] / 1e6:.0f} MB of data; its import took {first['seconds']:.2f} s), and "
             f"each version with one run of {CHANGED // MIB} MiB and {SCATTERED} scattered blocks new. Imports: medians of {OVER}; "
             f"list, show, dry run: the worst of {QUERIES}, the commands' own start included. Baselines are made behind "
             "the imports, at the lowest priority."]
    return report.Table("A thousand versions", rows, notes, summary)


def figures(store, versions, recent, worst):
    took = {"list": ("list", "-o", "json"), "show": ("show", f"bench:{versions // 2}"), "gc": ("gc", "--dry-run", "-o", "json")}
    for key, words in took.items():
        took[key] = 1000 * max(store.plain(*words)["seconds"] for _ in range(QUERIES))
        worst[key] = max(worst[key], took[key])
    mb = lambda *patterns: f"{store.bytes_of(*patterns) / 1e6:.1f}"
    return [versions, f"{report.median(recent, 'seconds'):.2f}", f"{report.median(recent, 'cpu'):.2f}", mb("packs/*.pack"),
            mb("packs/*.idx"), mb("manifests/*"), *(f"{took[key]:.0f}" for key in ("list", "show", "gc")),
            f"{store.server.process.memory('VmHWM') / 1e6:.0f}"]


class Change:
    """Makes one version of an image the next. The same in every run."""

    def __init__(self, path):
        self.numbers = random.Random("regild bench versions")
        self.image = open(path, "r+b", buffering=0)
        runs = list(images.extents(self.image))
        # Long enough for a change of 1 MiB, which then lies on data.
        self.long = [(start, end) for start, end in runs if end - start >= 2 * CHANGED]
        self.scattered = [self.numbers.randrange(start // BLOCK, end // BLOCK) * BLOCK
                          for start, end in self.numbers.choices(self.long, k=SCATTERED)]

    def next(self):
        start, end = self.numbers.choice(self.long)
        at = self.numbers.randrange(start // BLOCK, (end - CHANGED) // BLOCK) * BLOCK
        os.pwrite(self.image.fileno(), b"".join(self.block() for _ in range(CHANGED // BLOCK)), at)
        for place in self.scattered:
            os.pwrite(self.image.fileno(), self.block(), place)

    def block(self):
        noise = self.numbers.randbytes(1024)
        return noise + noise[:512].hex().encode() * 3
