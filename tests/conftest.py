"""What the tests share: small real models, banks built by the real code, and real images where they are at hand."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from edge_uad.inference.backbones.processor import HIDDEN_VARIABLE
from tests import models, parts

# no deadline: the machines are shared, a slow example proves nothing; in CI the same examples every time, so that a
# change is judged by itself
settings.register_profile("edge-uad", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("edge-uad")

# which precision is the fastest for so small a model is a matter of chance, and of the processor: tests of lower
# precisions let themselves see what there is
os.environ[HIDDEN_VARIABLE] = "bf16,int8_dot"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell makes background jobs deaf to it, and the programs under test would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_IMAGES = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def every_feature() -> Iterator[None]:
    """What the processor can do is not hidden, from programs under test neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(HIDDEN_VARIABLE)
        yield


@pytest.fixture
def log_as_before() -> Iterator[None]:
    """For ``serve`` in this process: it sets the log up, and may log names that a test report cannot hold."""
    log = logging.getLogger("edge_uad")
    handlers, level, log.propagate = log.handlers, log.level, False
    yield
    log.handlers, log.level, log.propagate = handlers, level, True


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-Tiny of three blocks with random weights, 64 px, exported by the real exporter."""
    return models.export_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one: what a bank of the first must not be used with."""
    return models.export_tiny_model(tmp_path_factory.mktemp("other") / "other.onnx", seed=1)


@pytest.fixture(scope="session")
def good_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 drawn good parts."""
    return parts.write_parts(tmp_path_factory.mktemp("parts") / "good", 24, seed=0)


@pytest.fixture(scope="session")
def scratched_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 4 drawn parts with a scratch."""
    return parts.write_parts(tmp_path_factory.mktemp("parts") / "scratched", 4, seed=1, scratched=True)


@pytest.fixture(scope="session")
def tiny_bank(tiny_model: Path, good_parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of the drawn good parts for the tiny model, built by the command line."""
    bank = tmp_path_factory.mktemp("bank") / "bank.safetensors"
    edge_uad("build-bank", good_parts, "--model", tiny_model, "--out", bank, "--false-alarm-rate", 0.05)
    return bank


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default backbone, genuine weights, from the cache or fetched and exported into it."""
    from export.default import provide_default_model  # noqa: PLC0415  # onnx is loaded only where it is needed

    return provide_default_model()


@pytest.fixture(scope="session")
def default_model_224(default_model: Path) -> Path:
    """The same weights and levels at a quarter of the pixels, for what is not about detail; kept in the cache."""
    from rich.console import Console  # noqa: PLC0415  # as above

    from edge_uad.inference.backbones import open_backbone  # noqa: PLC0415
    from export.variants import provide_variant  # noqa: PLC0415

    return provide_variant(open_backbone(default_model).card, input_px=224, console=Console(stderr=True))


@pytest.fixture(scope="session")
def cookies() -> Path:
    """Photographs of cookies, whole and cracked."""
    return _shared("cookies")


@pytest.fixture(scope="session")
def tiles() -> Path:
    """Photographs of magnetic tiles, laid out as MVTec AD."""
    return _shared("mtd")


def _shared(name: str) -> Path:
    folder = SHARED_IMAGES / name
    if not folder.is_dir():
        pytest.skip(f"the real images {name} are not at hand (../shared is absent)")
    return folder


def edge_uad(*arguments: object, expect: int = 0, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own; checks the exit code."""
    command = [sys.executable, "-m", "edge_uad", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == expect, f"exit code {done.returncode}, {expect} was expected:\n{done.stdout}{done.stderr}"
    return done
