"""The league's figures of each input size, as they are packaged for ``edge-uad bench --frontier``.

    python -m benchmarks.league_of_inputs RESULTS.json [RESULTS.json …]

Each is the results.json of ``edge-uad evaluate`` with candidates such as ``--candidate "at 336: input=336"``.
"""

import argparse
import json
import sys
from pathlib import Path

from bank_tools.bench.league import summary_of
from edge_uad.runtime.cache import DEFAULT_INPUT_PX

TARGET = Path(__file__).parent.parent / "bank_tools" / "bench" / "league.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    leagues = [json.loads(path.read_text(encoding="utf-8")) for path in parser.parse_args().results]
    summary = summary_of(leagues, default_input_px=DEFAULT_INPUT_PX)
    TARGET.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
