"""What a config file may say, and how it is told what is wrong with it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from edge_uad.errors import SettingsError
from edge_uad.runtime.assemble import settings_recipe
from edge_uad.runtime.settings import Settings, StationSettings, load_settings, parse_settings

REPO = Path(__file__).parents[3]
DEFAULT_YAML = REPO / "config" / "default.yaml"
STATION = "stations: [{name: line, source: '0', bank: b.safetensors}]\n"


def keys_of(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_the_default_file_says_exactly_the_defaults() -> None:
    written = parse_settings(DEFAULT_YAML.read_text())
    assert written == Settings(
        stations=(StationSettings(name="line", source="0", bank=Path("bank.safetensors")),),
    )


def test_the_default_file_holds_every_key() -> None:
    def check(content: dict[str, Any], model: BaseModel) -> None:
        assert set(content) == keys_of(type(model))
        for key, value in content.items():
            inner = getattr(model, key)
            if isinstance(inner, BaseModel):
                check(value, inner)

    content = yaml.safe_load(DEFAULT_YAML.read_text())
    settings = parse_settings(DEFAULT_YAML.read_text())
    check(content, settings)
    check(content["stations"][0], settings.stations[0])


def test_every_key_of_the_default_file_has_a_comment() -> None:
    lines = [line for line in DEFAULT_YAML.read_text().splitlines() if re.match(r"\s*(- )?\w+:", line)]
    assert len(lines) > 10
    assert [line for line in lines if "#" not in line and not line.rstrip().endswith(":")] == []


@pytest.mark.parametrize("path", sorted((REPO / "config" / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert load_settings(path).stations


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (STATION + "modle: m.onnx", "modle: there is no such key; did you mean model?"),
        (STATION + "publish: {heatmaps: never}", "publish.heatmaps: there is no such key; did you mean heatmap?"),
        (STATION + "zzz: 1", "zzz: there is no such key; known here are stations, model,"),
        (
            "stations: [{name: a, source: '0', bankk: b}]",
            "stations[0].bankk: there is no such key; did you mean bank?",
        ),
        ("stations: [{name: a, source: '0'}]", "stations[0].bank: this key is required"),
        ("publish: {}", "stations: this key is required"),
        ("stations: []", "stations: "),
        (STATION + "provider: gpu", "provider: input should be 'cpu', 'cuda', 'tensorrt' or 'openvino', not 'gpu'"),
        (STATION + "threads: -1", "threads: input should be greater than or equal to 0, not -1"),
        (STATION + "stop_timeout_s: .nan", "stop_timeout_s: input should be"),
        (STATION + "reconnect: {first_s: 9, max_s: 3}", "reconnect: first_s (9) is longer than max_s (3)"),
        ("stations: [{name: 'a/b', source: '0', bank: b}]", "stations[0].name: "),
        (
            "stations: [{name: a, source: '0', bank: b}, {name: a, source: '1', bank: b}]",
            "the station name 'a' is used twice; every station needs its own",
        ),
        (
            "stations: [{name: a, source: '0', bank: b, trigger: software}]",
            "stations[0]: trigger: software needs deadline_ms, so that each trigger has its verdict in time; add it",
        ),
        (
            "stations: [{name: a, source: '0', bank: b, trigger: hardware, deadline_ms: 9, mode: latest}]",
            "stations[0]: mode: latest would leave triggers without a verdict; remove it, or the trigger: hardware",
        ),
        (
            STATION + "triggers: {endpoint: 'tcp://127.0.0.1:5565'}",
            "triggers.endpoint is set and no station is triggered; set the trigger of one to software",
        ),
        (
            "stations: [{name: a, source: '0', bank: b, plc: {control: modbus}}]",
            "plc.control of station a is modbus and plc.modbus.endpoint is not given; name one",
        ),
        (
            "stations: [{name: a, source: '0', bank: b}, {name: c, source: '1', bank: b, plc: {unit: 1}}]",
            "two stations have the Modbus unit id 1; give each its own plc.unit",
        ),
        (STATION + "plc: {modbus: {allow: [192.168.0.1/24]}}", "plc.modbus.allow[0]"),
        (STATION + "plc: {modbus: {allow: [plc.local]}}", "plc.modbus.allow[0]"),
        ("[1, 2]", "a map of keys was expected, this is list"),
        ("", "a map of keys was expected, this is NoneType"),
        ("a: [", "this is not YAML"),
        ("a: !!python/object/apply:os.system ['true']", "this is not YAML"),
    ],
)
def test_a_wrong_config_is_one_sentence_that_names_the_place(text: str, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings(text, name="line.yaml")
    assert str(error.value).startswith("line.yaml: " + told)
    assert "\n" not in str(error.value)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_settings_error(text: str) -> None:
    try:
        parse_settings(text)
    except SettingsError as error:
        assert str(error)  # noqa: PT017  (any other exception fails the test)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = tmp_path / "line.yaml"
    config.write_text(
        "stations:\n"
        "  - {name: a, source: parts/, bank: a.safetensors}\n"
        "  - {name: b, source: '0', bank: /banks/b.safetensors}\n"
        "  - {name: c, source: 'rtsp://host/1', bank: c.safetensors}\n"
        "model: m.onnx\n"
    )
    settings = load_settings(config)
    assert [station.bank for station in settings.stations] == [
        tmp_path / "a.safetensors",
        Path("/banks/b.safetensors"),
        tmp_path / "c.safetensors",
    ]
    assert [station.source for station in settings.stations] == [str(tmp_path / "parts"), "0", "rtsp://host/1"]
    assert settings.model == tmp_path / "m.onnx"


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(SettingsError, match=r"missing.yaml: the config file cannot be read: No such file"):
        load_settings(missing)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"binary.yaml: the config file is not UTF-8"):
        load_settings(binary)
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(SettingsError, match="at most"):
        load_settings(huge)


def test_the_former_section_audit_stands_for_records_beside_the_log_that_it_names(tmp_path: Path) -> None:
    config = tmp_path / "line.yaml"
    config.write_text(STATION + "audit: {file: verdicts.jsonl, max_bytes: 20000000, max_files: 3, fsync_s: 0.5}")
    records = load_settings(config).records_in_use()
    assert (records.file, records.max_bytes, records.commit_s) == (tmp_path / "verdicts.sqlite", 60_000_000, 0.5)
    config.write_text(STATION + "audit: {file: log, max_bytes: 65536, max_files: 1}")
    records = load_settings(config).records_in_use()
    assert (records.file, records.max_bytes) == (tmp_path / "log.sqlite", 8 * 1024**2)  # less would be no database
    config.write_text(STATION + "audit: {max_files: 3}")
    assert load_settings(config).records_in_use().file is None
    config.write_text(STATION + "records: {file: r.sqlite, fsync_s: 2}")
    records = load_settings(config).records_in_use()
    assert (records.file, records.commit_s) == (tmp_path / "r.sqlite", 2.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("audit: {file: a, maxfiles: 3}", "audit.maxfiles: there is no such key; did you mean max_files?"),
        ("records: {max_row: 3}", "records.max_row: there is no such key; did you mean max_rows?"),
        ("records: {max_bytes: 1000}", "records.max_bytes: input should be greater than or equal to 8388608, not 1000"),
        ("records: {file: a}\naudit: {file: b}", "records.file and audit.file mean the same; remove the section audit"),
    ],
)
def test_records_that_cannot_be_meant(text: str, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings(STATION + text, name="line.yaml")
    assert str(error.value) == "line.yaml: " + told


def test_the_recorded_settings_hold_no_password_and_their_digest_depends_on_each_key() -> None:
    camera = "stations: [{name: line, source: 'rtsp://user:secret@host/1', bank: b}]\n"
    recipe = settings_recipe(parse_settings(camera))
    assert "secret" not in str(recipe)
    assert recipe["settings"]["stations"][0]["source"] == "rtsp://host/1"
    assert recipe == settings_recipe(parse_settings(camera))
    assert recipe["recipe_id"] != settings_recipe(parse_settings(camera + "threads: 2"))["recipe_id"]
