"""Switches the telemetry of the libraries off; imported before any of them, by every package of the project.

ONNX Runtime (from 1.29) starts an uploader when it is imported, writes a device id and a queue of events into the
user's cache, and sends them to its publisher; it reads its opt-out once, at that moment. OpenVINO sends an event at
every import through the package ``openvino_telemetry``, and has a stub of its own for machines without that package.
Ray reports usage from the head of a cluster, unless its environment says otherwise.
"""

import os
import sys

OPT_OUTS = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables that switch telemetry off, here and in the processes that are started from here."""
BLOCKED_MODULES = ("openvino_telemetry",)
"""Packages whose only purpose is to send events: importing them fails as if they were not installed."""


def switch_off_telemetry() -> None:
    """Set every opt-out; a value that the environment has is replaced.

    A library that the calling program imported earlier has read its environment already; of ONNX Runtime a call then
    stops all events but the one that its import has sent.
    """
    os.environ.update(OPT_OUTS)
    for name in BLOCKED_MODULES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None makes an import fail, as documented
    onnxruntime = sys.modules.get("onnxruntime")
    if onnxruntime is not None:
        onnxruntime.disable_telemetry_events()
