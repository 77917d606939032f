"""The default backbone, fetched and exported into the cache where it is missing: ``python -m export.default``."""

import sys
from pathlib import Path

from rich.console import Console

from edge_uad.errors import EdgeUadError
from edge_uad.files import sha256_of_file
from edge_uad.runtime.cache import DEFAULT_BACKBONE, default_model_path
from export.fetch import LOCK_TIMEOUT_S, fetch_weights, load_named, only_one_process
from export.request import ExportRequest
from export.to_onnx import export_onnx
from export.weights import named_backbone


def provide_default_model(console: Console | None = None, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> Path:
    """Fetch and export the default backbone into the cache, unless it is there.

    Two processes at once do the work once.

    Args:
        console: where progress is drawn; stderr if None.
        lock_timeout_s: how long another process may take over it.

    Raises:
        WeightsError: the weights cannot be had, or another process does not come to its end with it.
        ModelError: the export fails.
    """
    console = console or Console(stderr=True)
    path = default_model_path()
    with only_one_process(path.parent, timeout_s=lock_timeout_s):
        # another process may have made it meanwhile
        if not path.is_file():
            backbone = named_backbone(DEFAULT_BACKBONE)
            checkpoint = fetch_weights(DEFAULT_BACKBONE, console)
            request = ExportRequest(
                backbone=DEFAULT_BACKBONE,
                input_hw=(backbone.input_px, backbone.input_px),
                layers=backbone.layers,
                join=backbone.join,
                attention_layer=backbone.attention_layer,
                licence=backbone.licence,
                weights_sha256=sha256_of_file(checkpoint),
                mean=backbone.mean,
                std=backbone.std,
                neighbourhood=backbone.neighbourhood,
                top_ratio=backbone.top_ratio,
            )
            with console.status(f"exporting {DEFAULT_BACKBONE}"):
                export_onnx(load_named(DEFAULT_BACKBONE, checkpoint), request, path)
    return path


if __name__ == "__main__":
    stderr = Console(stderr=True)
    try:
        print(provide_default_model(stderr))
    except EdgeUadError as error:
        stderr.print(f"edge-uad: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
