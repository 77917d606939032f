"""A large matrix product on demand, in a process of its own, because a BLAS takes its threads when it is loaded.

``python -m bank_tools.bench.matmul SIDE`` answers each line on stdin with the seconds of one product.
"""

import sys
from time import perf_counter

import numpy as np


def main() -> None:
    """Answer until stdin ends."""
    side = int(sys.argv[1])
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, side, side), np.float32)
    product = np.empty_like(one)
    np.matmul(one, other, out=product)
    for _ in sys.stdin:
        started_s = perf_counter()
        np.matmul(one, other, out=product)
        print(perf_counter() - started_s, flush=True)


if __name__ == "__main__":
    main()
