"""The keys of a config file, checked. ``config/default.yaml`` shows every key with its unit and its default.

Model, masking and scoring parameters are not here: they live in the bank's manifest.
"""

import difflib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from edge_uad.errors import SettingsError, UsageError
from edge_uad.files import open_regular
from edge_uad.net.endpoints import DEFAULT_VERDICT_ENDPOINT
from edge_uad.net.wire import MAX_STATION_CHARS
from edge_uad.outputs.store import MIN_BYTES
from edge_uad.outputs.zmq import DEFAULT_QUEUE_MESSAGES, HeatmapPolicy
from edge_uad.paths import expand_user
from edge_uad.records import Decision, Provider, QueueMode, SearchDevice, TriggerMode, WantedPrecision
from edge_uad.sources.frozen import FROZEN_AFTER_S

MAX_CONFIG_BYTES = 1024 * 1024
MAX_STATIONS = 64

PlcControl = Literal["none", "modbus"]
StationMode = Literal["auto", QueueMode]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


def _expanded(path: object) -> object:
    if not isinstance(path, str | Path):
        return path  # refused by the type
    try:
        return expand_user(path)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _is_path(source: str) -> bool:
    return "://" not in source and not source.isdecimal()


UserPath = Annotated[Path, BeforeValidator(_expanded)]
"""A path whose ``~`` is expanded; every path of a config file is one."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_SectionT = TypeVar("_SectionT", bound=_Section)


def _source_text(value: object) -> str:
    """Any text: pydantic's own check refuses paths whose bytes are not UTF-8."""
    if not isinstance(value, str) or not value:
        raise ValueError("input should be a text of at least one character")
    expanded = _expanded(value) if _is_path(value) else value
    return str(expanded) if value.startswith("~") else value  # as it was written: a path's text says what is meant


class StationPlcSettings(_Section):
    """What PLCs see of a station; docs/plc.md."""

    control: PlcControl = "none"
    """The protocol that may write; the others watch."""
    unit: Annotated[int, Field(ge=1, le=247)] | None = None
    """Modbus unit id; None: the station's place in the list, from 1."""
    recipe_id: Annotated[int, Field(ge=1, le=65_535)] = 1
    """The RecipeId by which the PLC names the station's bank."""


class StationSettings(_Section):
    """One place on the line: a source and the bank that its frames are judged by."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_STATION_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the topics ``verdict/<name>``, ``heatmap/<name>``, ``status/<name>``."""
    source: Annotated[str, PlainValidator(_source_text)]
    bank: UserPath
    mode: StationMode = "auto"
    """``auto``: latest for live sources, every for the others."""
    queue_frames: Annotated[int, Field(ge=1, le=1024)] = 8
    """What ``every`` holds before the source has to wait; of a triggered station, triggers that may wait."""
    trigger: TriggerMode = "free_run"
    """Whether each frame is judged, or one for each trigger."""
    trigger_delay_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] = 0.0
    """Of ``software``: by how much the source's times of capture lag behind the exposure."""
    deadline_ms: Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)] | None = None
    """From trigger or capture to verdict at most; what takes longer is *invalid*. None: there is no deadline.

    Of frames that arrive over ZeroMQ it counts from their arrival, or see ``trust_sender_clock``."""
    trust_sender_clock: bool = False
    """A frame from a ZeroMQ sender is as old as its ``captured_at_ns`` says: the sender's clock is kept equal to this
    machine's, by NTP or PTP. False: it is as old as its arrival."""
    frozen_after_s: Seconds | None = FROZEN_AFTER_S
    """Of cameras, streams and SUB: frames whose picture has been the same for so long are *invalid*. None: never."""
    insecure: bool = False
    """Allow a ZeroMQ source beyond this machine."""
    plc: StationPlcSettings = StationPlcSettings()

    @model_validator(mode="after")
    def _triggered(self) -> Self:
        if self.trigger == "free_run":
            return self
        if self.deadline_ms is None:
            raise ValueError(
                f"trigger: {self.trigger} needs deadline_ms, so that each trigger has its verdict in time; add it"
            )
        if self.mode == "latest":
            raise ValueError(
                f"mode: latest would leave triggers without a verdict; remove it, or the trigger: {self.trigger}"
            )
        return self


class ModbusSettings(_Section):
    """The Modbus TCP server."""

    endpoint: str | None = None
    """HOST:PORT; None: no server."""
    insecure: bool = False
    """Allow an address beyond this machine."""
    allow: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses or networks of the clients that are let in; none named: whoever is on this machine."""
    max_connections: Annotated[int, Field(ge=1, le=64)] = 8


class PlcSettings(_Section):
    """Protocols for PLCs; docs/plc.md."""

    modbus: ModbusSettings = ModbusSettings()
    watchdog_ms: Annotated[float, Field(ge=100, le=60_000, allow_inf_nan=False)] = 300.0
    """The heartbeat goes on for so long without progress of the judge."""


class TriggersSettings(_Section):
    """Where ZeroMQ senders send triggers, for stations whose frames come from elsewhere."""

    endpoint: str | None = None
    """None: no socket."""
    insecure: bool = False
    """Allow an address beyond this machine."""


class PublishSettings(_Section):
    """Where verdicts go."""

    endpoint: str = DEFAULT_VERDICT_ENDPOINT
    heatmap: HeatmapPolicy = "anomalous"
    queue_messages: Annotated[int, Field(ge=1, le=100_000)] = DEFAULT_QUEUE_MESSAGES
    insecure: bool = False
    """Allow an address beyond this machine."""


class CurveSettings(_Section):
    """Keys for both sockets, frames in and verdicts out; made by edge-uad keys."""

    server_key: UserPath | None = None
    """The daemon's secret key file."""
    client_keys: UserPath | None = None
    """Folder of the public key files that may connect."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.server_key is None) != (self.client_keys is None):
            raise ValueError("server_key and client_keys come together: the daemon's secret file, the clients' folder")
        return self


class RecordsSettings(_Section):
    """Verdicts, events, labels, banks and recipes in use, in one SQLite file."""

    file: UserPath | None = None
    """None: no records."""
    max_rows: Annotated[int, Field(ge=1, le=10**12)] = 10_000_000
    """Verdicts kept, and events as many."""
    max_bytes: Annotated[int, Field(ge=MIN_BYTES, le=2**50)] = 1024**3
    """Of the file and its write-ahead log."""
    max_age_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] = 365.0
    commit_s: Annotated[
        float, Field(ge=0, le=3600, allow_inf_nan=False, validation_alias=AliasChoices("commit_s", "fsync_s"))
    ] = 1.0
    """A verdict is on the disk after so many seconds at most; 0: before the next one is written.

    ``fsync_s`` is its former name, and still understood."""


class AuditSettings(_Section):
    """The former section, of the time when records were files of JSON Lines; still understood."""

    file: UserPath | None = None
    """The records are kept beside it; see :func:`records_beside`."""
    max_bytes: Annotated[int, Field(ge=64 * 1024, le=2**40)] = 64 * 1024 * 1024
    """Of one file; times ``max_files`` it is what the records may take."""
    max_files: Annotated[int, Field(ge=1, le=10_000)] = 16
    fsync_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 1.0
    """``records.commit_s``."""


def records_beside(log: Path) -> Path:
    """Where the records are that an ``audit.file`` stands for: verdicts.jsonl → verdicts.sqlite."""
    return log.with_suffix(".sqlite") if log.suffix == ".jsonl" else log.with_name(f"{log.name}.sqlite")


class EvidenceSettings(_Section):
    """Frames kept as files."""

    folder: UserPath | None = None
    """None: nothing is kept."""
    decisions: Annotated[tuple[Decision, ...], Field(min_length=1)] = (Decision.ANOMALOUS, Decision.INVALID)
    max_files: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    max_bytes: Annotated[int, Field(ge=1024 * 1024, le=2**50)] = 10 * 1024**3
    max_age_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] = 90.0


class MetricsSettings(_Section):
    """Prometheus metrics, health and readiness over HTTP."""

    endpoint: str | None = None
    """HOST:PORT; None: no server."""
    insecure: bool = False
    """Allow an address beyond this machine."""


class ReconnectSettings(_Section):
    """Waits between attempts at a lost source: they double, up to a cap, with jitter."""

    first_s: Seconds = 0.5
    max_s: Seconds = 30.0
    replace_after_s: Seconds = 30.0
    """A call into a camera or stream that takes longer is left behind and the source opened anew."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.first_s > self.max_s:
            raise ValueError(f"first_s ({self.first_s:g}) is longer than max_s ({self.max_s:g})")
        return self


class Settings(_Section):
    """A whole daemon."""

    stations: Annotated[tuple[StationSettings, ...], Field(min_length=1, max_length=MAX_STATIONS)]
    model: UserPath | None = None
    """None: the default backbone from the cache."""
    provider: Provider = "cpu"
    precision: WantedPrecision = "auto"
    """Of the backbone's arithmetic on the processor."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """0: ONNX Runtime decides."""
    search_device: SearchDevice = "cpu"
    """Where the bank is searched."""
    max_batch: Annotated[int, Field(ge=1, le=MAX_STATIONS)] = 1
    """Frames of different stations in one inference: a gain on a GPU, none on a CPU."""
    max_wait_ms: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0
    """How long a frame waits for those of other stations while nothing is judged."""
    parallel_frames: Annotated[bool, Field(validation_alias=AliasChoices("parallel_frames", "side_by_side"))] = True
    """Where as many frames wait as there are cores, judge each on a core of its own: more frames a second.

    ``side_by_side`` is its former name, and still understood."""
    publish: PublishSettings = PublishSettings()
    triggers: TriggersSettings = TriggersSettings()
    artefacts_dir: UserPath | None = None
    """Banks and the model must lie in it; None: anywhere."""
    curve: CurveSettings = CurveSettings()
    records: RecordsSettings = RecordsSettings()
    audit: AuditSettings | None = None
    """The former name of ``records``."""
    evidence: EvidenceSettings = EvidenceSettings()
    metrics: MetricsSettings = MetricsSettings()
    plc: PlcSettings = PlcSettings()
    reconnect: ReconnectSettings = ReconnectSettings()
    stop_timeout_s: Seconds = 5.0
    """How long a stop may take to judge what is queued."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [station.name for station in self.stations]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"the station name {repeated[0]!r} is used twice; every station needs its own")
        return self

    @model_validator(mode="after")
    def _triggers_wanted(self) -> Self:
        if self.triggers.endpoint is not None and all(one.trigger == "free_run" for one in self.stations):
            raise ValueError("triggers.endpoint is set and no station is triggered; set the trigger of one to software")
        return self

    @model_validator(mode="after")
    def _controlled(self) -> Self:
        controlled = [station.name for station in self.stations if station.plc.control == "modbus"]
        if controlled and self.plc.modbus.endpoint is None:
            raise ValueError(
                f"plc.control of station {controlled[0]} is modbus and plc.modbus.endpoint is not given; "
                "name one, such as 127.0.0.1:1502"
            )
        units = list(self.modbus_units().values())
        repeated = next((unit for unit in units if units.count(unit) > 1), None)
        if repeated is not None:
            raise ValueError(f"two stations have the Modbus unit id {repeated}; give each its own plc.unit")
        return self

    @model_validator(mode="after")
    def _records_once(self) -> Self:
        if self.records.file is not None and self.audit is not None and self.audit.file is not None:
            raise ValueError("records.file and audit.file mean the same; remove the section audit")
        return self

    def modbus_units(self) -> dict[str, int]:
        """Each station's Modbus unit id, by its name."""
        return {station.name: station.plc.unit or place for place, station in enumerate(self.stations, 1)}

    def records_in_use(self) -> RecordsSettings:
        """``records``, or what the former section ``audit`` stands for."""
        audit = self.audit
        if audit is None or audit.file is None:
            return self.records
        max_bytes = min(max(audit.max_bytes * audit.max_files, MIN_BYTES), 2**50)
        return RecordsSettings(file=records_beside(audit.file), max_bytes=max_bytes, commit_s=audit.fsync_s)


def load_settings(path: Path) -> Settings:
    """Read a config file. Relative paths in it are relative to the file.

    Raises:
        SettingsError: names the file, the place in it and the remedy.
    """
    settings = parse_settings(_read(path), name=str(path))
    here = path.absolute().parent
    stations = tuple(
        station.model_copy(update={"bank": here / station.bank, "source": _anchored_source(station.source, here)})
        for station in settings.stations
    )
    model = None if settings.model is None else here / settings.model
    sections = {
        "curve": _anchored(settings.curve, here, "server_key", "client_keys"),
        "records": _anchored(settings.records, here, "file"),
        "audit": None if settings.audit is None else _anchored(settings.audit, here, "file"),
        "evidence": _anchored(settings.evidence, here, "folder"),
    }
    anchored = _anchored(settings, here, "artefacts_dir")
    return anchored.model_copy(update={"stations": stations, "model": model, **sections})


def parse_settings(text: str, *, name: str = "config") -> Settings:
    """Settings from YAML.

    Args:
        text: the file's content.
        name: how errors name the file.

    Raises:
        SettingsError: as ``load_settings``.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: this is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise SettingsError(f"{name}: the YAML is nested too deeply") from error
    if not isinstance(content, dict):
        raise SettingsError(
            f"{name}: a map of keys was expected, this is {type(content).__name__}; start from config/default.yaml"
        )
    return make_settings(content, name=name)


def make_settings(content: dict[str, Any], *, name: str) -> Settings:
    """Settings from plain values.

    Raises:
        SettingsError: the first thing that is wrong, in one sentence.
    """
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"{name}: {_sentence(error)}") from error


def _read(path: Path) -> str:
    try:
        with open_regular(path) as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise SettingsError(f"{path}: a config file has at most {MAX_CONFIG_BYTES} bytes")
        return content.decode()
    except OSError as error:
        raise SettingsError(f"{path}: the config file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: the config file is not UTF-8") from error


def _anchored(section: _SectionT, here: Path, *keys: str) -> _SectionT:
    """The section with the paths under these keys made relative to the file, where they are given."""
    paths = {key: getattr(section, key) for key in keys}
    return section.model_copy(update={key: here / path for key, path in paths.items() if path is not None})


def _anchored_source(source: str, here: Path) -> str:
    return str(here / source) if _is_path(source) else source


def _sentence(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    # a misspelt key is the cause of the "missing" beside it, so it is reported first
    fault = min(faults, key=lambda one: one["type"] != "extra_forbidden")
    return _told(fault, _place(fault["loc"]))


def _told(fault: ErrorDetails, place: str) -> str:
    if fault["type"] == "extra_forbidden":
        return f"{place}: there is no such key{_suggestion(fault['loc'])}"
    if fault["type"] == "missing":
        return f"{place}: this key is required"
    message = fault["msg"].removeprefix("Value error, ")
    if not place:
        return message
    return f"{place}: {message[:1].lower()}{message[1:]}, not {_shown(fault['input'])}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    section = _section_at(location[:-1])
    if section is None:
        return ""
    known = list(section.model_fields)
    nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else f"; known here are {', '.join(known)}"


def _section_at(location: tuple[int | str, ...]) -> type[_Section] | None:
    section: type[_Section] = Settings
    for step in location:
        if isinstance(step, int):
            continue
        annotation = section.model_fields[step].annotation
        inner = next((part for part in (annotation, *get_args(annotation)) if _is_section(part)), None)
        if inner is None:
            return None
        section = inner
    return section


def _is_section(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, _Section)


def _place(location: tuple[int | str, ...]) -> str:
    """``stations[0].bank``."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def _shown(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
