"""Dense bf16 peak of GPUs in FLOP/s by their names, accumulated in fp32, from their makers' data sheets and white papers."""

from __future__ import annotations

import re

TERA = 1e12
# Sheets that give only the rate with sparsity are halved. A GeForce multiplies bf16 at half the rate of the same chip in a workstation
# card: twice its fp32 rate, which the white papers of Ampere, Ada and Blackwell confirm for the cards they list.
PEAK_FLOPS = {
    # Blackwell (DGX B200, DGX B300, GB200 and GB300 NVL72)
    "GB300": 2500 * TERA, "GB200": 2500 * TERA, "B300": 2250 * TERA, "B200": 2250 * TERA, "B100": 1800 * TERA,
    "RTX PRO 6000": 503.8 * TERA, "RTX 5090": 209.5 * TERA, "RTX 5080": 112.6 * TERA, "RTX 5070 Ti": 87.9 * TERA, "RTX 5070": 61.7 * TERA,
    "RTX 5060 Ti": 47.4 * TERA, "RTX 5060": 38.4 * TERA,
    # Hopper
    "GH200": 989 * TERA, "H200": 989 * TERA, "H200 NVL": 835 * TERA, "H100": 989 * TERA, "H100 PCIe": 756 * TERA, "H100 NVL": 835 * TERA,
    "H800": 989 * TERA, "H800 PCIe": 756 * TERA, "H20": 148 * TERA,
    # Ada
    "L40S": 362 * TERA, "L40": 181 * TERA, "L4": 121 * TERA, "RTX 6000 Ada Generation": 364.2 * TERA, "RTX 4090": 165.2 * TERA,
    "RTX 4080 SUPER": 104.4 * TERA, "RTX 4080": 97.5 * TERA, "RTX 4070 Ti SUPER": 88.2 * TERA, "RTX 4070 Ti": 80.2 * TERA,
    "RTX 4070 SUPER": 71.0 * TERA, "RTX 4070": 58.3 * TERA, "RTX 4060 Ti": 44.1 * TERA, "RTX 4060": 30.2 * TERA,
    # Ampere
    "A100": 312 * TERA, "A800": 312 * TERA, "A40": 149.7 * TERA, "A30": 165 * TERA, "A10": 125 * TERA, "A10G": 70 * TERA,
    "RTX A6000": 154.8 * TERA, "RTX 3090": 71 * TERA,
    # AMD CDNA
    "MI355X": 2516.6 * TERA, "MI350X": 2306.9 * TERA, "MI325X": 1307.4 * TERA, "MI300X": 1307.4 * TERA, "MI300A": 980.6 * TERA,
    "MI250X": 383 * TERA,
}  # fmt: skip
# Makers and lines before a model's name, and after it its form, memory and edition. Any other word makes another model: a laptop's
# RTX 4090, an RTX 5090 D or a part of a MIG device has less than its namesake.
_KEYS = {key.upper(): key for key in PEAK_FLOPS}
_BEFORE = {"NVIDIA", "AMD", "GEFORCE", "INSTINCT", "TESLA", "GRAPHICS", "DEVICE"}
_AFTER = re.compile(r"\d+GB?|SXM\d?|HBM\d\w?|PCIE|OAM|VF|HF|BLACKWELL|WORKSTATION|SERVER|EDITION", re.IGNORECASE)


def peak_flops(name: str) -> float | None:
    """Peak of the GPU that its driver calls `name`; None if it is not known."""
    words = [word for word in re.split(r"[\s/-]+", name) if word.upper() not in _BEFORE]
    for count in range(len(words), 0, -1):
        key = _KEYS.get(" ".join(words[:count]).upper())
        if key is not None:
            return PEAK_FLOPS[key] if all(_AFTER.fullmatch(word) for word in words[count:]) else None
    return None
