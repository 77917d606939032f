"""The Modbus server over real sockets: pymodbus' client, mbpoll from Debian, modbus-serial from npm, and bare bytes."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from edge_uad.errors import EndpointError
from edge_uad.outputs.plc.machine import StationMachine
from edge_uad.outputs.plc.process_image import Inputs
from edge_uad.outputs.plc.registers import INPUT, MIRROR_ADDRESS, N_HOLDING, N_INPUT
from edge_uad.outputs.plc.station import PlcStation
from edge_uad.records import Decision, Trigger
from tests.conftest import edge_uad
from tests.fakes import until
from tests.plc import RECIPE, verdict
from tests.processes import Running

pymodbus_client = pytest.importorskip("pymodbus.client", reason="the extra [modbus] is not installed")
from edge_uad.outputs.plc import modbus  # noqa: E402  (after the skip)
from edge_uad.outputs.plc.modbus import ModbusServer  # noqa: E402  (after the skip)

AT = {one.name: one.address for one in INPUT}
ENABLE, TRIGGER, ACK = 1, 2, 4
READY, TRIGGER_ACK, RESULT_VALID = 1 << 1, 1 << 2, 1 << 5
BUSY, ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, FAILURE, NO_UNIT = 6, 1, 2, 3, 4, 11


class Pipeline:
    """Takes triggers; a test gives their verdicts."""

    def __init__(self, *, free_run: bool = False) -> None:
        self.taken: list[Trigger] = []
        self.machine = StationMachine(
            first_sequence=2**32 - 3, free_run=free_run, take=self._take, prepare=lambda _: None, deadline_ms=5_000
        )
        self.machine.use_recipe(RECIPE)
        self.station = PlcStation("line", self.machine)
        self.station.report(lambda machine: machine.on_started())
        self.station.report(lambda machine: machine.on_camera(True))
        self.station.feed_watchdog()

    def _take(self, trigger: Trigger) -> bool:
        self.taken.append(trigger)
        return True

    def judge(self, decision: Decision, trigger_id: int | None) -> None:
        """Its verdict comes."""
        self.station.report(lambda machine: machine.on_verdict(verdict(decision, trigger_id)))


@contextmanager
def serving(station: PlcStation, **options: Any) -> Iterator[ModbusServer]:
    server = ModbusServer({1: station}, "127.0.0.1:*", **options)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def client(port: int, host: str = "127.0.0.1") -> Iterator[Any]:
    one = pymodbus_client.ModbusTcpClient(host, port=port, timeout=5, retries=0)
    assert one.connect()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def server(pipeline: Pipeline) -> Iterator[ModbusServer]:
    with serving(pipeline.station) as one:
        yield one


def block(control: int, trigger_id: int = 0, part_id: bytes = b"", heartbeat: int = 0) -> list[int]:
    text = part_id.ljust(32, b"\0")
    words = [int.from_bytes(text[at : at + 2], "big") for at in range(0, 32, 2)]
    return [control, heartbeat, trigger_id >> 16, trigger_id & 0xFFFF, 0, 0, len(part_id), *words]


def read(plc: Any) -> list[int]:
    answer = plc.read_input_registers(0, count=N_INPUT, device_id=1)
    assert not answer.isError(), answer
    assert answer.registers[AT["SequenceNo"] + 1] == answer.registers[AT["SequenceNoCheck"]]
    return list(answer.registers)


def status(plc: Any) -> int:
    return read(plc)[AT["Status"]]


def write(plc: Any, words: list[int]) -> None:
    answer = plc.write_registers(0, words, device_id=1)
    assert not answer.isError(), answer


def enable(plc: Any) -> None:
    write(plc, block(0))
    write(plc, block(ENABLE))
    assert status(plc) & READY


def test_a_part_goes_through_the_handshake(server: ModbusServer, pipeline: Pipeline) -> None:
    with client(server.port) as plc:
        enable(plc)
        write(plc, block(ENABLE | TRIGGER, 0x0001_0002, "Teil-ä7".encode("latin-1")))
        assert status(plc) & (READY | TRIGGER_ACK) == TRIGGER_ACK
        assert pipeline.taken[0].trigger_id == 0x0001_0002
        assert pipeline.taken[0].part_id == "Teil-ä7"
        write(plc, block(ENABLE))
        pipeline.judge(Decision.ANOMALOUS, 0x0001_0002)
        shown = read(plc)
        assert shown[AT["Status"]] & RESULT_VALID
        assert shown[AT["ResultTriggerId"] :][:2] == [1, 2]
        assert shown[AT["Decision"] : AT["Decision"] + 8] == [2, 0b010, 0, 1250, 2500, 40, 50, 12]
        length = shown[AT["ResultPartIdLength"]]
        text = b"".join(word.to_bytes(2, "big") for word in shown[AT["ResultPartId"] :][:16])
        assert text[:length].decode("latin-1") == "Teil-ä7"
        write(plc, block(ENABLE | ACK))
        assert not status(plc) & RESULT_VALID


def test_every_way_to_read_says_the_same(server: ModbusServer, pipeline: Pipeline) -> None:
    with client(server.port) as plc:
        enable(plc)
        pipeline.judge(Decision.NORMAL, None)
        words = read(plc)
        mirrored = plc.read_holding_registers(MIRROR_ADDRESS, count=N_INPUT, device_id=1).registers
        assert [one for at, one in enumerate(mirrored) if at != 1] == [one for at, one in enumerate(words) if at != 1]
        bits = plc.read_discrete_inputs(0, count=19, device_id=1).bits[:19]
        assert sum(bit << at for at, bit in enumerate(bits[:16])) == words[AT["Status"]]
        assert bits[16:] == [False] * 3
        assert plc.read_coils(0, count=16, device_id=1).bits[0] is True
        assert plc.read_holding_registers(0, count=N_HOLDING, device_id=1).registers == block(ENABLE)


def test_coils_and_single_registers_write_too(server: ModbusServer, pipeline: Pipeline) -> None:
    with client(server.port) as plc:
        write(plc, block(0))
        assert not plc.write_coil(0, True, device_id=1).isError()
        assert not plc.write_register(3, 9, device_id=1).isError()
        assert not plc.write_coils(0, [True, True], device_id=1).isError()
        assert [one.trigger_id for one in pipeline.taken] == [9]
        assert not plc.write_coil(1, False, device_id=1).isError()
        assert plc.read_holding_registers(0, count=4, device_id=1).registers == [ENABLE, 0, 0, 9]


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda plc: plc.read_input_registers(N_INPUT, count=1, device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.read_input_registers(1, count=N_INPUT, device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.read_holding_registers(N_HOLDING, count=1, device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.read_holding_registers(MIRROR_ADDRESS - 1, count=2, device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.read_discrete_inputs(19, count=1, device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.write_registers(N_HOLDING - 1, [1, 2], device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.write_registers(MIRROR_ADDRESS, [1], device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.write_coil(16, True, device_id=1), ILLEGAL_ADDRESS),
        (lambda plc: plc.mask_write_register(address=0, device_id=1), ILLEGAL_FUNCTION),
        (lambda plc: plc.read_input_registers(0, count=1, device_id=2), NO_UNIT),
    ],
)
def test_what_there_is_not_is_refused(server: ModbusServer, ask: Callable[[Any], Any], code: int) -> None:
    with client(server.port) as plc:
        answer = ask(plc)
        assert (answer.isError(), answer.exception_code) == (True, code)
        assert read(plc)


@pytest.mark.parametrize("unit", [0, 1, 255])
def test_one_station_alone_has_the_unit_ids_that_plcs_use_where_there_is_no_gateway(
    server: ModbusServer, unit: int
) -> None:
    assert len(asked(server.port, request(unit, bytes([4, 0, 0, 0, 44])))) == 9 + 88


def test_a_station_controlled_by_another_protocol_is_read_only(pipeline: Pipeline) -> None:
    with serving(pipeline.station, read_only=[1]) as server, client(server.port) as plc:
        assert read(plc)
        assert plc.write_register(0, 1, device_id=1).exception_code == ILLEGAL_FUNCTION


def test_one_writes_at_a_time(server: ModbusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus, "WRITER_SILENT_S", 60)
    with client(server.port) as first, client(server.port) as second:
        write(first, block(0))
        assert second.write_register(0, 1, device_id=1).exception_code == BUSY
        assert read(second)
        first.close()
        until(lambda: not second.write_register(0, 1, device_id=1).isError())


def test_a_writer_that_went_silent_is_replaced_and_cut_off(
    server: ModbusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-open connection: the PLC lost power, or its cable was pulled, and comes back on another one."""
    monkeypatch.setattr(modbus, "WRITER_SILENT_S", 60)
    with client(server.port) as second, socket.create_connection(("127.0.0.1", server.port)) as first:
        first.sendall(request(1, bytes([6, 0, 0, 0, 0])))
        assert first.recv(100)
        assert second.write_register(0, 1, device_id=1).exception_code == BUSY
        monkeypatch.setattr(modbus, "WRITER_SILENT_S", 0.2)
        until(lambda: not second.write_register(0, 1, device_id=1).isError())
        first.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert first.recv(100) == b""


def request(unit: int, pdu: bytes, transaction: int = 7) -> bytes:
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


def asked(port: int, data: bytes) -> bytes:
    """All that is answered until nothing more comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plc:
        with contextlib.suppress(OSError):  # cut off already
            plc.sendall(data)
            plc.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while more := plc.recv(4096):
                answer += more
        except ConnectionResetError:
            pass
        return answer


def test_requests_that_arrive_together_are_all_answered(server: ModbusServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plc:
        plc.sendall(b"".join(request(1, bytes([4, 0, 0, 0, 1]), number) for number in range(5)))
        answer = b""
        while len(answer) < 5 * 11:
            answer += plc.recv(4096)
    assert [struct.unpack_from(">H", answer, at)[0] for at in range(0, 55, 11)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 300,
        struct.pack(">HHHB", 1, 0, 0xFFFF, 1) + bytes(100),
        struct.pack(">HHHB", 1, 0, 1, 1),
        struct.pack(">HHHB", 1, 9, 6, 1) + bytes([4, 0, 0, 0, 1]),
    ],
)
def test_garbage_ends_its_connection_and_nothing_else(server: ModbusServer, garbage: bytes) -> None:
    with client(server.port) as plc:
        assert asked(server.port, garbage) == b""
        assert read(plc)


@pytest.mark.parametrize(
    ("pdu", "code"),
    [
        (bytes([4, 0, 0, 0, 0]), ILLEGAL_VALUE),
        (bytes([4, 0, 0, 0, 126]), ILLEGAL_VALUE),
        (bytes([4, 0]), ILLEGAL_VALUE),
        (bytes([16, 0, 0, 0, 2, 4, 0, 1]), ILLEGAL_VALUE),
        (bytes([16, 0, 0, 0, 2, 3, 0, 1, 0]), ILLEGAL_VALUE),
        (bytes([5, 0, 0, 0x12, 0x34]), ILLEGAL_VALUE),
        (bytes([6, 0, 0]), ILLEGAL_VALUE),
        (bytes([43, 14, 1, 0]), ILLEGAL_FUNCTION),
        (bytes([23, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 1]), ILLEGAL_FUNCTION),
        (bytes([0x90, 0]), ILLEGAL_FUNCTION),
        (bytes([0]), ILLEGAL_FUNCTION),
    ],
)
def test_a_malformed_request_writes_nothing(server: ModbusServer, pdu: bytes, code: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plc:
        plc.sendall(request(1, pdu))
        answer = plc.recv(100)
        assert (answer[7], answer[8]) == (pdu[0] | 0x80, code)
        plc.sendall(request(1, bytes([3, 0, 0, 0, 2])))
        assert plc.recv(100)[9:] == bytes(4)


def test_connections_are_bounded_and_a_silent_one_gives_way(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modbus, "WRITER_SILENT_S", 60)
    with serving(pipeline.station, max_connections=2) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(2)]
        try:
            assert asked(server.port, request(1, bytes([4, 0, 0, 0, 1]))) == b""
            monkeypatch.setattr(modbus, "WRITER_SILENT_S", 0.1)
            time.sleep(0.2)
            with client(server.port) as plc:
                assert read(plc)
        finally:
            for one in silent:
                one.close()


def test_a_client_that_is_not_listed_is_refused(pipeline: Pipeline) -> None:
    with serving(pipeline.station, allow=[ip_network("127.0.0.2")]) as server:
        assert asked(server.port, request(1, bytes([4, 0, 0, 0, 1]))) == b""
        with socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.2", 0), timeout=20) as plc:
            plc.sendall(request(1, bytes([4, 0, 0, 0, 1])))
            assert plc.recv(100)


def test_the_network_needs_insecure_and_a_list(pipeline: Pipeline) -> None:
    with pytest.raises(EndpointError, match=r"plc\.modbus\.insecure: true"):
        ModbusServer({1: pipeline.station}, "0.0.0.0:*")
    with pytest.raises(EndpointError, match=r"plc\.modbus\.allow"):
        ModbusServer({1: pipeline.station}, "0.0.0.0:*", insecure=True)
    with serving(pipeline.station) as server, pytest.raises(EndpointError, match="cannot be bound"):
        ModbusServer({1: pipeline.station}, f"127.0.0.1:{server.port}")


def test_a_stuck_judge_stops_the_heartbeat_while_the_socket_lives(server: ModbusServer, pipeline: Pipeline) -> None:
    with client(server.port) as plc:
        first = read(plc)[1]

        def beats() -> bool:
            pipeline.station.feed_watchdog()
            return read(plc)[1] != first

        until(beats)
        time.sleep(0.5)  # nobody feeds it
        still = read(plc)[1]
        time.sleep(0.5)
        assert read(plc)[1] == still


def test_a_fault_inside_is_an_error_to_the_plc_from_then_on(server: ModbusServer, pipeline: Pipeline) -> None:
    def fail(machine: StationMachine) -> None:
        raise KeyError(machine.state)

    with client(server.port) as plc:
        enable(plc)
        pipeline.station.report(fail)
        assert plc.read_input_registers(0, count=N_INPUT, device_id=1).exception_code == FAILURE
        assert plc.write_register(0, 1, device_id=1).exception_code == FAILURE
        assert pipeline.station.fault is not None


def test_closing_takes_no_notice_of_who_is_connected(pipeline: Pipeline) -> None:
    server = ModbusServer({1: pipeline.station}, "127.0.0.1:*")
    with socket.create_connection(("127.0.0.1", server.port)) as half, client(server.port) as plc:
        half.sendall(b"\0")
        assert read(plc)
        server.close()
        assert not server._thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))


# independent clients


@pytest.fixture
def mbpoll(server: ModbusServer) -> Callable[..., str]:
    program = shutil.which("mbpoll")
    if program is None:
        pytest.skip("mbpoll is not installed (Debian's package of that name)")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [program, "-m", "tcp", "-p", str(server.port), "-a", "1", "-0", "-1", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def values(shown: str) -> dict[int, int]:
    """mbpoll's lines ``[2]: <tab>4098``."""
    lines = (line.partition("]:") for line in shown.splitlines() if line.startswith("["))
    return {int(at[1:]): int(value.split()[0]) for at, _, value in lines}


def test_mbpoll_walks_through_the_handshake(mbpoll: Callable[..., str], pipeline: Pipeline) -> None:
    """Each call is a connection of its own, as somebody tries it by hand."""
    mbpoll("-t", "4", "-r", "0", "127.0.0.1", "0")
    mbpoll("-t", "4", "-r", "0", "127.0.0.1", "1")
    assert values(mbpoll("-t", "3", "-r", "0", "-c", "44", "127.0.0.1"))[2] & READY
    mbpoll("-t", "4", "-r", "0", "127.0.0.1", *map(str, block(ENABLE | TRIGGER, 70_000, b"P1")))
    assert pipeline.taken[0].trigger_id == 70_000
    assert pipeline.taken[0].part_id == "P1"
    pipeline.judge(Decision.NORMAL, 70_000)
    shown = values(mbpoll("-t", "3", "-r", "0", "-c", "44", "127.0.0.1"))
    assert (shown[8], shown[9]) == (1, 70_000 - 65_536)
    assert (shown[10], shown[11]) == (1, 1)
    assert values(mbpoll("-t", "3:int", "-B", "-r", "8", "-c", "1", "127.0.0.1")) == {8: 70_000}
    assert values(mbpoll("-t", "1", "-r", "16", "-c", "3", "127.0.0.1")) == {16: 1, 17: 0, 18: 0}
    mbpoll("-t", "0", "-r", "2", "127.0.0.1", "1")
    assert values(mbpoll("-t", "1", "-r", "5", "-c", "1", "127.0.0.1")) == {5: 0}


def test_the_documents_five_minutes_with_mbpoll(mbpoll: Callable[..., str], pipeline: Pipeline) -> None:
    document = (Path(__file__).parents[2] / "docs" / "plc.md").read_text(encoding="utf-8")
    shown = document.split("## Trying it in five minutes")[1].split("```sh\n")[1].split("```")[0]
    alias, *commands = shown.splitlines()
    assert alias == "alias plc='mbpoll -m tcp -p 1502 -a 1 -0 -1 127.0.0.1'"
    answers = []
    for command in commands:
        arguments = command.partition("#")[0].split()
        assert arguments[0] == "plc"
        answers.append(values(mbpoll("127.0.0.1", *arguments[1:])))
        if pipeline.taken:
            pipeline.judge(Decision.NORMAL, 7)
    assert len(answers[0]) == 44
    assert answers[5] == {2: 4099}
    assert [(one.trigger_id, one.part_id) for one in pipeline.taken] == [(7, "B1")]
    assert (answers[7][9], answers[7][10], answers[7][11]) == (7, 1, 1)
    assert not pipeline.station.read().result_valid


MODBUS_SERIAL = """
const Modbus = require("modbus-serial");
(async () => {
  const plc = new Modbus();
  await plc.connectTCP("127.0.0.1", { port: Number(process.argv[2]) });
  plc.setID(1);
  const block = (control, id) => [control, 0, id >>> 16, id & 0xffff, 0, 0, 0, ...Array(16).fill(0)];
  await plc.writeRegisters(0, block(0, 0));
  await plc.writeRegisters(0, block(1, 0));
  await plc.writeRegisters(0, block(3, 70001));
  const acknowledged = await plc.readDiscreteInputs(0, 19);
  await plc.writeCoil(1, false);
  const mirror = await plc.readHoldingRegisters(1000, 44);
  const input = await plc.readInputRegisters(0, 44);
  await plc.writeRegister(1, 5);
  const coils = await plc.readCoils(0, 6);
  console.log(JSON.stringify({ ack: acknowledged.data[2], busy: (input.data[2] >> 4) & 1,
    mirrored: mirror.data.slice(2).join() === input.data.slice(2).join(), coils: coils.data.slice(0, 6) }));
  plc.close(() => {});
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_modbus_serial_of_npm_walks_through_the_handshake(
    server: ModbusServer, pipeline: Pipeline, tmp_path: Path
) -> None:
    modules = os.environ.get("NODE_PATH", "")
    if shutil.which("node") is None or not (Path(modules) / "modbus-serial").is_dir():
        pytest.skip("node, or modbus-serial in NODE_PATH, is not installed (npm install modbus-serial)")
    (tmp_path / "plc.js").write_text(MODBUS_SERIAL)
    done = subprocess.run(
        ["node", str(tmp_path / "plc.js"), str(server.port)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ('{"ack":true,"busy":1,"mirrored":true,"coils":[true,false,false,false,false,false]}')
    assert [one.trigger_id for one in pipeline.taken] == [70_001]


def line_config(folder: Path, model: Path, station: str) -> tuple[Path, int]:
    """A config of one station, given by its keys but the name, and the port of its Modbus server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    config = folder / "line.yaml"
    config.write_text(
        f"model: {model}\n"
        f"stations: [{{name: line, {station}}}]\n"
        f"publish: {{endpoint: 'ipc://{folder}/verdicts'}}\n"
        f"plc: {{modbus: {{endpoint: '127.0.0.1:{port}'}}}}\n"
    )
    return config, port


def test_a_daemon_shows_its_free_run(tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path) -> None:
    """The whole way: config, daemon, verdicts, and the stop."""
    station = f"source: 'ipc://{tmp_path}/frames', bank: {tiny_bank}, plc: {{control: modbus, unit: 1, recipe_id: 12}}"
    config, port = line_config(tmp_path, tiny_model, station)
    with Running.edge_uad("serve", "--config", config) as daemon:
        daemon.wait_for("ready$")
        with client(port) as plc:
            until(lambda: read(plc)[AT["State"]] == 8)
            until(lambda: status(plc) & (1 | 1 << 12) == 1 | 1 << 12)  # Online, CameraOk
            first = read(plc)
            assert first[AT["RecipeId"]] == 12
            edge_uad("send", good_parts, "--to", f"ipc://{tmp_path}/frames")
            until(lambda: read(plc)[AT["SequenceNo"] :][:2] != first[AT["SequenceNo"] :][:2])
            until(lambda: read(plc)[1] != first[1])
            shown = read(plc)
            assert shown[AT["Status"]] & RESULT_VALID
            assert shown[AT["Decision"]] in {1, 2}
            assert shown[AT["Judged"] + 1] >= 1
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)


def test_what_is_written_comes_as_a_whole(pipeline: Pipeline) -> None:
    """Each write of a PLC is one block to the machine, whatever it was before."""
    pipeline.station.write(Inputs())
    pipeline.station.write(Inputs(trigger_enable=True))
    pipeline.station.write(Inputs(trigger_enable=True, trigger=True, trigger_id=3, part_id="x"))
    assert [(one.trigger_id, one.part_id) for one in pipeline.taken] == [(3, "x")]


def test_a_part_is_judged_from_a_trigger_over_modbus_to_its_result(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path, tmp_path: Path
) -> None:
    """Config, daemon, edge of Trigger, a frame exposed after it, handshake and result, part by part."""
    parts = tmp_path / "parts"
    parts.mkdir()
    files = [*sorted(good_parts.glob("*.png"))[:3], *sorted(scratched_parts.glob("*.png"))[:2]]
    for number, file in enumerate(files):
        shutil.copy(file, parts / f"{number}.png")
    judged = f"source: {parts}, bank: {tiny_bank}, trigger: software, deadline_ms: 20000"
    config, port = line_config(tmp_path, tiny_model, judged + ", plc: {control: modbus, unit: 1}")
    with Running.edge_uad("serve", "--config", config) as daemon:
        daemon.wait_for("ready$")
        with client(port) as plc:
            until(lambda: read(plc)[AT["State"]] == 6)
            write(plc, block(0))
            sequences, decisions = [], []
            for number in range(len(files)):
                trigger_id = 0x0002_0000 + number + 1
                write(plc, block(ENABLE))
                until(lambda: status(plc) & READY)
                write(plc, block(ENABLE | TRIGGER, trigger_id, f"part {number}".encode()))
                assert status(plc) & TRIGGER_ACK
                write(plc, block(ENABLE))
                until(lambda: status(plc) & RESULT_VALID)
                shown = read(plc)
                assert shown[AT["ResultTriggerId"] :][:2] == [trigger_id >> 16, trigger_id & 0xFFFF]
                length = shown[AT["ResultPartIdLength"]]
                text = b"".join(word.to_bytes(2, "big") for word in shown[AT["ResultPartId"] :][:16])
                assert text[:length] == f"part {number}".encode()
                sequences.append(shown[AT["SequenceNo"] + 1])
                decisions.append(shown[AT["Decision"]])
                write(plc, block(ENABLE | ACK))
                until(lambda: not status(plc) & RESULT_VALID)
            assert decisions == [1, 1, 1, 2, 2]
            assert [(after - before) % 0x10000 for before, after in itertools.pairwise(sequences)] == [1] * 4
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
