"""The commands of the command line as typer knows them, and a right call of each: no new one can be forgotten."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main
import zmq

from edge_uad.cli import app
from tests.conftest import edge_uad
from tests.models import export_tiny_model, random_vit
from tests.trees import write_tree

CUSTOM = ("--arch", "vit_tiny", "--patch", "16", "--input", "64", "--layers", "0-1", "--attention-layer", "1")


def leaves() -> dict[str, Any]:
    """Every command by its words, such as ``inspect`` or ``records verify``."""
    return dict(_leaves(typer.main.get_command(app), ()))


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(words), command
        return
    for name, one in inner.items():
        yield from _leaves(one, (*words, name))


@dataclass(frozen=True)
class Inputs:
    """Small right inputs for every command."""

    model: Path
    lower: Path
    """The model at fp16."""
    bank: Path
    good: Path
    tree: Path
    checkpoint: Path
    log: Path
    frames_endpoint: str
    """Where somebody takes frames."""


@contextlib.contextmanager
def made_inputs(folder: Path, *, model: Path, bank: Path, good: Path) -> Iterator[Inputs]:
    """Inputs in a folder, from a model, its bank and good parts; frames are taken while the block runs."""
    import torch  # noqa: PLC0415  # export alone needs it

    torch.save({"teacher": random_vit(seed=0).state_dict()}, folder / "mine.pth")
    config = folder / "line.yaml"
    config.write_text(
        f"stations: [{{name: line, source: {good}, bank: {bank}}}]\nmodel: {model}\nthreads: 1\n"
        "publish: {endpoint: 'tcp://127.0.0.1:*'}\naudit: {file: log.jsonl}\nevidence: {folder: evidence}\n"
    )
    edge_uad("serve", "--config", config)
    with zmq.Context() as context, context.socket(zmq.PULL) as frames:
        yield Inputs(
            model=model,
            lower=export_tiny_model(folder / "fp16.onnx", precision="fp16"),
            bank=bank,
            good=good,
            tree=write_tree(folder / "tree", {"nut": 1}, n_good=4, n_test=2),
            checkpoint=folder / "mine.pth",
            log=folder / "log.jsonl",
            frames_endpoint=f"tcp://127.0.0.1:{frames.bind_to_random_port('tcp://127.0.0.1')}",
        )


def right_call(command: str, inputs: Inputs, folder: Path) -> list[str]:
    """Arguments with which the command does its work, writing below ``folder`` alone."""
    calls: dict[str, list[object]] = {
        "build-bank": [inputs.good, "--model", inputs.model, "--out", folder / "b.safetensors"],
        "inspect": [inputs.good, "--bank", inputs.bank, "--model", inputs.model, "--heatmaps", folder / "heat"],
        "serve": ["--source", inputs.good, "--bank", inputs.bank, "--model", inputs.model]
        + ["--publish", "tcp://127.0.0.1:*", "--threads", "1"],
        "watch": ["tcp://127.0.0.1:9", "--timeout", "0.2"],
        "send": [inputs.good, "--to", inputs.frames_endpoint],
        "export": ["custom", "--checkpoint", inputs.checkpoint, *CUSTOM, "--out", folder / "m.onnx"],
        "certify": [inputs.lower, "--against", inputs.model, "--good", inputs.good, "--out", folder / "certified.onnx"],
        "evaluate": [inputs.tree, "--backbone", inputs.model, "--out", folder / "out", "--false-alarm-rate", "0.3"],
        "ablate": [inputs.tree, "--backbone", inputs.model, "--out", folder / "out", "--sweep", "bpm-kernel=1,3"],
        "bench": [inputs.good, "--bank", inputs.bank, "--model", inputs.model, "--frames", "2", "--no-settings"]
        + ["--batch", "1"],
        "keys": [folder / "keys"],
        "replay": [inputs.log, "--bank", inputs.bank, "--model", inputs.model],
    }
    assert command in calls, f"edge-uad {command} is new: write a right call of it here, and it is held to every law"
    return [*command.split(), *map(str, calls[command])]
