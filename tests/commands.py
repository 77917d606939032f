"""The commands of the command line as typer knows them, and a right call of each: no new one can be forgotten."""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import typer.main
import zmq
from safetensors.numpy import save_file

from edge_uad.cli import app
from tests.conftest import edge_uad
from tests.models import export_tiny_model, random_weights
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
    records: Path
    log: Path
    """The records as JSON Lines."""
    frames_endpoint: str
    """Where somebody takes frames."""


@contextlib.contextmanager
def made_inputs(folder: Path, *, model: Path, bank: Path, good: Path) -> Iterator[Inputs]:
    """Inputs in a folder, from a model, its bank and good parts; frames are taken while the block runs."""
    save_file(dict(random_weights(seed=0).state), folder / "mine.safetensors")
    config = folder / "line.yaml"
    config.write_text(
        f"stations: [{{name: line, source: {good}, bank: {bank}}}]\nmodel: {model}\nthreads: 1\n"
        "publish: {endpoint: 'tcp://127.0.0.1:*'}\nrecords: {file: records.sqlite}\nevidence: {folder: evidence}\n"
    )
    edge_uad("serve", "--config", config)
    edge_uad("records", "export", folder / "records.sqlite", "--out", folder / "log.jsonl")
    with zmq.Context() as context, context.socket(zmq.PULL) as frames:
        yield Inputs(
            model=model,
            lower=export_tiny_model(folder / "fp16.onnx", precision="fp16"),
            bank=bank,
            good=good,
            tree=write_tree(folder / "tree", {"nut": 1}, n_good=4, n_test=2),
            checkpoint=folder / "mine.safetensors",
            records=folder / "records.sqlite",
            log=folder / "log.jsonl",
            frames_endpoint=f"tcp://127.0.0.1:{frames.bind_to_random_port('tcp://127.0.0.1')}",
        )


def right_call(command: str, inputs: Inputs, folder: Path) -> list[str]:
    """Arguments with which the command does its work, writing below ``folder`` alone."""
    judging = ("--bank", inputs.bank, "--model", inputs.model)
    calls: dict[str, list[object]] = {
        "build-bank": [inputs.good, "--model", inputs.model, "--out", folder / "b.safetensors"],
        "inspect": [inputs.good, *judging, "--heatmaps", folder / "heat"],
        "serve": ["--source", inputs.good, *judging, "--publish", "tcp://127.0.0.1:*", "--threads", "1"],
        "watch": ["tcp://127.0.0.1:9", "--timeout", "0.2"],
        "send": [inputs.good, "--to", inputs.frames_endpoint],
        "export": ["custom", "--checkpoint", inputs.checkpoint, *CUSTOM, "--out", folder / "m.onnx"],
        "certify": [inputs.lower, "--against", inputs.model, "--good", inputs.good, "--out", folder / "certified.onnx"],
        "evaluate": [inputs.tree, "--backbone", inputs.model, "--out", folder / "out", "--false-alarm-rate", "0.3"],
        "ablate": [inputs.tree, "--backbone", inputs.model, "--out", folder / "out", "--sweep", "bpm-kernel=1,3"],
        "tune": [
            inputs.good,
            "--rejects",
            inputs.tree / "nut" / "test",
            "--backbone",
            inputs.model,
            "--out",
            folder / "out",
            "--candidate",
            "coreset=1",
        ],
        "bench": [inputs.good, *judging, "--frames", "2", "--no-settings", "--batch", "1", "--live", "0"],
        "keys": [folder / "keys"],
        "replay": [inputs.records, *judging],
        "records show": [inputs.records],
        "records export": [inputs.records, "--out", folder / "verdicts.jsonl"],
        "records import": [inputs.log, "--into", folder / "imported.sqlite"],
        "records verify": [inputs.records],
        "records head": [inputs.records],
        "records label": [inputs.records, "1", "normal", "--who", "A. Smith"],
        "records upgrade": [inputs.records],
    }
    assert command in calls, f"edge-uad {command} is new: write a right call of it here, and it is held to every law"
    return [*command.split(), *map(str, calls[command])]


PLAIN_TEXTS = frozenset(
    {
        "endpoint",
        "to",
        "station",
        "cluster",
        "encoding",
        "backbone",
        "layers",
        "batches",
        "live",
        "name",
        "categories",
        "layout",
        "shots",
    }
    | {"scales", "roi", "tiles", "sweep", "candidate", "mode", "publish", "heatmap", "provider", "search_device"}
    | {"since", "until", "heads", "who", "comment", "cluster"}
)
"""Parameters given as text that name no file; all others are paths or sources."""


@dataclass(frozen=True)
class PathParameter:
    """A parameter that takes a path."""

    command: str
    name: str
    option: str | None
    """None for an argument."""

    @property
    def suffix(self) -> str:
        """Without which the command looks no further."""
        if self.name in {"model", "backbone", "against", "lower"} or str(self) == "export --out":
            return ".onnx"
        return {"checkpoint": ".safetensors", "logs": ".jsonl"}.get(self.name, ".png")

    def given(self, call: list[str], value: str) -> list[str]:
        """The right call with this value instead, and with what it demands beside it."""
        beside = {
            "serve --server-key": ["--client-keys", "."],
            "serve --client-keys": ["--server-key", "."],
        }.get(str(self), [])
        if self.command in {"watch", "send"}:
            beside = ["--client-key" if self.name == "server_key" else "--server-key", "."]
        if str(self) in {"serve --camera", "serve --config"}:
            call = call[:1]
        if self.option is not None:
            return [*call, *beside, self.option, value]
        at = len(self.command.split())
        return [*call[:at], value, *call[at + 1 :]]

    def __str__(self) -> str:
        return f"{self.command} {self.option or self.name}"


def path_parameters() -> list[PathParameter]:
    """Every parameter of every command that takes a path: of the type Path, or a source given as text."""
    found = []
    for command, leaf in leaves().items():
        for name, parameter in inspect.signature(leaf.callback).parameters.items():
            types = set(types_in(parameter.annotation))
            if Path in types or (str in types and name not in PLAIN_TEXTS):
                words = next(one.opts for one in leaf.params if one.name == name)
                found.append(PathParameter(command, name, words[0] if words[0].startswith("-") else None))
    return found


def types_in(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for inner in get_args(annotation):
        yield from types_in(inner)
