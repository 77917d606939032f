"""Which model a command runs: the one named, or the default backbone, fetched and exported where that can be done."""

from importlib.util import find_spec
from pathlib import Path

from edge_uad.cli.console import stderr
from edge_uad.errors import ModelError
from edge_uad.runtime.cache import DEFAULT_BACKBONE, default_model_path

EXPORT_PACKAGES = ("torch", "onnx", "onnxscript")
"""What the [export] extra brings."""


def has_export_extra() -> bool:
    """Whether models can be exported here."""
    return all(find_spec(name) is not None for name in EXPORT_PACKAGES)


def model_or_default(model: Path | None) -> Path:
    """The path of a model file that is there.

    Raises:
        ModelError: none was named, the default one is not in the cache, and the [export] extra is not installed.
        WeightsError: the default backbone's weights cannot be fetched.
    """
    if model is not None:
        return model
    path = default_model_path()
    if path.is_file():
        return path
    if not has_export_extra():
        raise ModelError(
            f"the default backbone {DEFAULT_BACKBONE} is not at {path}; run pip install 'edge-uad[export]' and this "
            "command again, or copy the file there from a machine that has it, or name one with --model"
        )
    from export.default import provide_default_model

    stderr.print(f"the default backbone {DEFAULT_BACKBONE} is not in the cache yet: fetching and exporting it")
    return provide_default_model()
