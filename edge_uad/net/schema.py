"""JSON Schema of every header, generated from the records; what docs/wire.schema.json holds.

``python -m edge_uad.net.schema > docs/wire.schema.json``
"""

import ast
import inspect
import itertools
import json
import sys
import textwrap
from typing import Literal

from pydantic.json_schema import models_json_schema

from edge_uad.net.headers import MODELS, Frame, Resynchronise, Trigger
from edge_uad.net.wire import LEFT_OUT_WHERE_NONE, Heatmap, Json
from edge_uad.records import WIRE_SCHEMA, StationStatus, Verdict

_TOPICS = {
    "Verdict": "Header of verdict/<station>.",
    "Heatmap": "Header of heatmap/<station>; the message's third part is the picture.",
    "StationStatus": "Header of status/<station>.",
    "Frame": "Header of an incoming frame, the second part of [station, header, image].",
    "Trigger": "Header of an incoming trigger, the second part of [station, header].",
    "Resynchronise": "Header of the request to count frames and triggers anew, the second part of [station, header].",
}
_INCOMING: dict[str, type] = {"Frame": Frame, "Trigger": Trigger, "Resynchronise": Resynchronise}
_RECORDS: dict[str, type] = {"Verdict": Verdict, "Heatmap": Heatmap, "StationStatus": StationStatus, **_INCOMING}


def wire_schema() -> Json:
    """The schema: one definition per header, its fields described as their records' docstrings describe them.

    Published headers may hold further fields, added by later versions; the three kinds are told apart by topic.
    """
    modes: dict[str, Literal["serialization", "validation"]] = dict.fromkeys(MODELS, "serialization")
    modes |= dict.fromkeys(_INCOMING, "validation")  # what a sender may leave out is not required
    _, described = models_json_schema([(model, modes[name]) for name, model in MODELS.items()])
    definitions: Json = described["$defs"]
    for name, record in _RECORDS.items():
        definition = definitions[name]
        definition["description"] = _TOPICS[name]
        if "schema" in definition["properties"]:
            definition["properties"]["schema"] = {"const": WIRE_SCHEMA}
        if name not in _INCOMING:
            definition["required"] = [field for field in definition["required"] if field not in LEFT_OUT_WHERE_NONE]
        for field, text in _field_docs(record).items():
            if field in definition["properties"]:
                definition["properties"][field]["description"] = text
    for definition in definitions.values():
        for described_field in definition.get("properties", {}).values():
            described_field.pop("title", None)  # the field's name again
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Headers of edge-uad's messages, schema {WIRE_SCHEMA}",
        "description": "Headers are msgpack maps of these fields; see wire.md for topics and payloads.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in MODELS],
        "$defs": definitions,
    }


def _field_docs(record: type) -> dict[str, str]:
    """The docstring below each field of a class."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    return {
        field.target.id: " ".join(doc.value.value.split())
        for field, doc in itertools.pairwise(body.body if isinstance(body, ast.ClassDef) else ())
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }


def rendered() -> str:
    """The schema as the text of docs/wire.schema.json."""
    return json.dumps(wire_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rendered())
