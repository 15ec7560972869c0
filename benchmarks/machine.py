"""What a measurement was made on."""

import platform
from pathlib import Path

import numpy as np


def machine() -> str:
    """Return the processor's name and vector width, NumPy's and Python's versions."""
    name = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        named = [
            line.partition(":")[2].strip()
            for line in listing.read_text().splitlines()
            if "model name" in line
        ]
        name = named[0] if named else name
    return (
        f"{name} ({platform.machine()}, {vector_width()}), NumPy {np.__version__},"
        f" Python {platform.python_version()}"
    )


def vector_width() -> str:
    """Return the widest vectors of the processor that NumPy knows of."""
    found = np._core._multiarray_umath.__cpu_features__
    return "AVX-512" if found.get("AVX512_SKX") else "AVX2" if found.get("AVX2") else "no AVX2"
