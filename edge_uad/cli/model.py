"""Which model a command runs: the one named, or the default backbone, fetched and exported where it is missing."""

from pathlib import Path

from edge_uad.cli.console import stderr
from edge_uad.runtime.cache import DEFAULT_BACKBONE, default_model_path


def model_or_default(model: Path | None) -> Path:
    """The path of the model file named, or of the default backbone's.

    Raises:
        WeightsError: the default backbone is not in the cache, and its weights cannot be fetched.
        ModelError: it cannot be written into the cache.
    """
    if model is not None:
        return model
    path = default_model_path()
    if path.is_file():
        return path
    from export.default import provide_default_model

    stderr.print(f"the default backbone {DEFAULT_BACKBONE} is not in the cache yet: fetching and exporting it")
    return provide_default_model()
