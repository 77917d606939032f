"""Image AUROC of the verdicts that ``edge-uad inspect --json`` printed.

    edge-uad inspect test/ --bank bank.safetensors --json | python benchmarks/auroc.py

An image is good where its folder is called ``good``. Also prints false alarms and recall at the calibrated threshold.
An invalid verdict counts as a reject and is left out of the AUROC.
"""

import json
import sys
from pathlib import Path

from bank_tools.metrics.image import image_auroc


def main() -> None:
    verdicts = [json.loads(line) for line in sys.stdin]
    if not verdicts:
        sys.exit("no verdicts on stdin; pipe edge-uad inspect --json into this")
    anomalous = [Path(verdict["part_id"]).parent.name != "good" for verdict in verdicts]
    scored = [
        (bad, verdict["score"])
        for bad, verdict in zip(anomalous, verdicts, strict=True)
        if verdict["score"] is not None
    ]
    auroc = image_auroc([bad for bad, _ in scored], [score for _, score in scored])
    rejected = [verdict["decision"] != "normal" for verdict in verdicts]
    false_alarms = sum(reject and not bad for reject, bad in zip(rejected, anomalous, strict=True))
    found = sum(reject and bad for reject, bad in zip(rejected, anomalous, strict=True))
    print(f"image AUROC   {'-' if auroc is None else f'{auroc:.4f}'} of {len(scored)} judged images")
    print(f"false alarms  {false_alarms} of {len(verdicts) - sum(anomalous)} good images")
    print(f"recall        {found} of {sum(anomalous)} anomalous images")


if __name__ == "__main__":
    main()
