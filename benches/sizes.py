"""Sizes of what a machine is sent before its image."""

import report
from regild import BINARY, BOOT_ASSETS, ROOT

AGENT = ROOT / "target/x86_64-unknown-linux-gnu/agent/regild-agent"
MB = 1e6


def run(bench):
    figures = [
        ("agent (static)", AGENT, 6 * MB),
        ("deploy initramfs", BOOT_ASSETS / "initrd.img", 40 * MB),
        ("deploy kernel (Debian's)", BOOT_ASSETS / "vmlinuz", None),
        ("ipxe.efi (Debian's)", BOOT_ASSETS / "ipxe.efi", None),
        ("local-boot.efi", BOOT_ASSETS / "local-boot.efi", None),
        ("regild, with symbols for backtraces", BINARY, None),
    ]
    rows, summary = [["file", "MB", "target MB"]], []
    for what, path, target in figures:
        size = path.stat().st_size
        rows.append([what, f"{size / MB:.2f}", f"{target / MB:.0f}" if target else ""])
        if target:
            summary.append((f"size of {what}", f"{target / MB:.0f} MB", f"{size / MB:.2f} MB", size <= target))
    return report.Table("Sizes", rows, [], summary)
