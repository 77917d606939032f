"""What this processor can do beyond fp32."""

import os
from functools import cache
from pathlib import Path

HIDDEN_VARIABLE = "EDGE_UAD_HIDDEN_FEATURES"
"""Names features, with commas between them, that are taken as absent: to see what a lesser machine would do."""
_FLAGS = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "int8_dot": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"},
}
"""A feature, and the flags of Linux, on x86 or ARM, each of which says that it is there."""


@cache
def cpu_info() -> dict[str, str]:
    """What Linux says of the first processor; empty where there is no /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = text.split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def cpu_flags() -> frozenset[str]:
    """The instruction sets, as Linux names them."""
    info = cpu_info()
    return frozenset(info.get("flags", info.get("Features", "")).split())


def cpu_features() -> frozenset[str]:
    """What products of lower precision need: *bf16* for bfloat16 numbers, *int8_dot* for whole ones."""
    hidden = os.environ.get(HIDDEN_VARIABLE, "").split(",")
    return features_of(cpu_flags()).difference(name.strip() for name in hidden)


def features_of(flags: frozenset[str]) -> frozenset[str]:
    """The features that some instruction sets bring."""
    return frozenset(feature for feature, names in _FLAGS.items() if names & flags)
