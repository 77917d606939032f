"""Modbus TCP, the one module that imports pymodbus (extra ``[modbus]``).

pymodbus decodes requests, carries them out on a store and encodes the answers. Connections are asyncio's: pymodbus' own
server answers the last of several requests that arrive together and drops the others, keeps bytes that are no Modbus
until more come, answers every function it knows, and bounds neither connections nor their silence.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_uad.errors import EndpointError, MissingExtraError
from edge_uad.net.endpoints import is_loopback, split_endpoint
from edge_uad.outputs.plc.registers import (
    MIRROR_ADDRESS,
    N_COILS,
    N_HOLDING,
    coils,
    decode_inputs,
    discrete_inputs,
    encode_outputs,
    with_coils,
)
from edge_uad.outputs.plc.station import PlcStation, StationFaultError

try:
    from pymodbus.constants import ExcCodes
    from pymodbus.framer.socket import FramerSocket
    from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
except ImportError as error:
    raise MissingExtraError("Modbus TCP", "modbus") from error

WRITER_SILENT_S = 2.0
"""A writer that asks nothing for so long has lost its right: a PLC that comes back on a new connection is let in."""
IDLE_S = 60.0
"""A connection that asks nothing for so long is closed."""
REST_S = 2.0
"""How long the rest of a request that has begun, or the reading of an answer, may take."""
TICK_S = 0.02
CLOSE_S = 2.0
_HEADER = struct.Struct(">HHHB")
_MAX_LENGTH = 254
_READ_COILS, _READ_DISCRETE, _READ_HOLDING, _READ_INPUT, _WRITE_COIL, _WRITE_REGISTER = range(1, 7)
_WRITE_COILS, _WRITE_REGISTERS = 15, 16
_COIL_FUNCTIONS = frozenset({_READ_COILS, _WRITE_COIL, _WRITE_COILS})
FUNCTIONS = frozenset({*range(1, 7), _WRITE_COILS, _WRITE_REGISTERS})
"""The function codes that are answered."""

log = logging.getLogger("edge_uad.outputs.plc.modbus")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Connection:
    """One client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.peer = str(writer.get_extra_info("peername")[0])
        self.asked_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self.asked_s

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass(slots=True)
class _Unit:
    """A station behind its unit id."""

    station: PlcStation
    writable: bool
    holding: list[int] = field(default_factory=lambda: [0] * N_HOLDING)
    writer: _Connection | None = None


class ModbusServer:
    """Shows stations to PLCs, in a thread and a loop of its own; bound when made. Implements PlcServer.

    Args:
        stations: by unit id, 1 to 247. Where there is one station alone, unit ids 0 and 255 mean it, too.
        read_only: unit ids that may be read and not written, because another protocol controls them.
        endpoint: ``HOST:PORT``; PORT may be ``*``: any free one.
        insecure: allow an address beyond this machine: Modbus knows no user and no password.
        allow: networks of the clients that are let in; empty: whoever reaches the endpoint, which is loopback then.
        max_connections: at a time.

    Raises:
        EndpointError: malformed, in use, or open to the network without ``insecure`` and ``allow``.
    """

    def __init__(
        self,
        stations: Mapping[int, PlcStation],
        endpoint: str,
        *,
        read_only: Sequence[int] = (),
        insecure: bool = False,
        allow: Sequence[Network] = (),
        max_connections: int = 8,
    ) -> None:
        self._units = {number: _Unit(one, writable=number not in read_only) for number, one in stations.items()}
        if len(self._units) == 1:
            [only] = self._units.values()
            self._units |= {0: only, 255: only}
        self._allow = list(allow)
        self._max_connections = max_connections
        self._connections: set[_Connection] = set()
        self._refused: set[str] = set()
        self._decoder = DecodePDU(True)
        self._framer = FramerSocket(self._decoder)
        self.fault: str | None = None
        self._listening = _bound(endpoint, insecure=insecure, allowed=bool(allow))
        self.port = int(self._listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="modbus", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut every connection and unbind, within two seconds."""
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("the Modbus server does not end; it is left behind")

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # the daemon's boundary: the PLCs read an error, inspection goes on
            self.fault = f"the Modbus server has failed: {type(error).__name__}: {error}"
            log.exception("the Modbus server has failed; restart the daemon to have it back")
        finally:
            self._listening.close()
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listening, limit=1024)
        try:
            while not self._stop.is_set():
                for unit in self._units.values():
                    with contextlib.suppress(StationFaultError):
                        unit.station.read()  # lets time pass where nobody asks
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), TICK_S)
        finally:
            server.close()
            for connection in list(self._connections):
                connection.abort()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        if not self._admits(connection):
            connection.abort()
            return
        self._connections.add(connection)
        try:
            await self._converse(connection, reader)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # gone, or silent for too long: what it may write again, it writes on another connection
        except Exception:  # the boundary of one connection: its PLC reads an error
            log.exception("a fault inside while %s was answered; the connection is closed", connection.peer)
        finally:
            self._connections.discard(connection)
            connection.abort()

    def _admits(self, connection: _Connection) -> bool:
        if self._allow and not _listed(connection.peer, self._allow):
            if connection.peer not in self._refused and len(self._refused) < 1000:
                self._refused.add(connection.peer)
                log.warning("%s is refused: it is not in plc.modbus.allow", connection.peer)
            return False
        if len(self._connections) < self._max_connections:
            return True
        # half-open connections must not keep a PLC out that comes back
        longest = max(self._connections, key=lambda one: one.silent_s)
        if longest.silent_s < WRITER_SILENT_S:
            return False
        self._connections.discard(longest)
        longest.abort()
        return True

    async def _converse(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while True:
            async with asyncio.timeout(IDLE_S):
                first = await reader.readexactly(1)
            async with asyncio.timeout(REST_S):
                header = first + await reader.readexactly(_HEADER.size - 1)
                transaction, protocol, length, unit = _HEADER.unpack(header)
                if protocol != 0 or not 2 <= length <= _MAX_LENGTH:
                    return  # where the next request would begin cannot be known
                body = await reader.readexactly(length - 1)
            connection.asked_s = time.monotonic()
            response = await self._answered(connection, unit, body)
            response.dev_id, response.transaction_id = unit, transaction
            connection.writer.write(self._framer.buildFrame(response))
            async with asyncio.timeout(REST_S):
                await connection.writer.drain()

    async def _answered(self, connection: _Connection, number: int, body: bytes) -> ModbusPDU:
        function = body[0]
        if function not in FUNCTIONS:
            return ExceptionResponse(function & 0x7F, ExcCodes.ILLEGAL_FUNCTION)
        unit = self._units.get(number)
        if unit is None:
            return ExceptionResponse(function, ExcCodes.GATEWAY_NO_RESPONSE)
        request = self._decoder.decode(body)
        if request is None or (function == _WRITE_COIL and body[3:] not in {b"\x00\x00", b"\xff\x00"}):
            return ExceptionResponse(function, ExcCodes.ILLEGAL_VALUE)
        try:
            store: Any = _Store(self, connection, unit)
            return await request.datastore_update(store, number)
        except StationFaultError:
            return ExceptionResponse(function, ExcCodes.DEVICE_FAILURE)
        except Exception:  # the boundary of one request: an error read is a reject
            log.exception("a fault inside while function %d of %s was carried out", function, connection.peer)
            return ExceptionResponse(function, ExcCodes.DEVICE_FAILURE)

    def claim(self, unit: _Unit, connection: _Connection) -> bool:
        """Whether the connection may write: it does already, or nobody does who has been heard lately."""
        former = unit.writer
        if former is not None and former is not connection and former in self._connections:
            if former.silent_s < WRITER_SILENT_S:
                return False
            log.warning("%s writes instead of %s, which went silent", connection.peer, former.peer)
            former.abort()
        unit.writer = connection
        return True


class _Store:
    """What pymodbus carries one connection's requests out on: the registers of one unit, seen at one moment."""

    def __init__(self, server: ModbusServer, connection: _Connection, unit: _Unit) -> None:
        self._server = server
        self._connection = connection
        self._unit = unit

    async def async_getValues(  # noqa: N802  (pymodbus' name)
        self,
        device_id: int,  # noqa: ARG002
        func_code: int,
        address: int,
        count: int = 1,
    ) -> list[int] | list[bool] | ExcCodes:
        """Registers or bits, or why there are none."""
        values, first = self._area(func_code, address)
        if first < 0 or first + count > len(values):
            return ExcCodes.ILLEGAL_ADDRESS
        return values[first : first + count]

    async def async_setValues(  # noqa: N802  (pymodbus' name)
        self,
        device_id: int,  # noqa: ARG002
        func_code: int,
        address: int,
        values: list[int] | list[bool],
    ) -> ExcCodes | None:
        """Write the values as a whole; None, or why they are not written."""
        of_coils = func_code in _COIL_FUNCTIONS
        if not values or address + len(values) > (N_COILS if of_coils else N_HOLDING):
            return ExcCodes.ILLEGAL_ADDRESS
        if not self._unit.writable:
            return ExcCodes.ILLEGAL_FUNCTION
        if not self._server.claim(self._unit, self._connection):
            return ExcCodes.DEVICE_BUSY
        holding = self._unit.holding
        if of_coils:
            changed = with_coils(holding, address, [bool(value) for value in values])
        else:
            changed = [*holding[:address], *values, *holding[address + len(values) :]]
        self._unit.holding = changed
        self._unit.station.write(decode_inputs(changed))
        return None

    def _area(self, function: int, address: int) -> tuple[list[Any], int]:
        """The values that the function means, and where among them the address lies."""
        if function in _COIL_FUNCTIONS:
            return coils(self._unit.holding), address
        if function == _READ_DISCRETE:
            return discrete_inputs(self._read()), address
        if function == _READ_INPUT:
            return self._read(), address
        if address >= MIRROR_ADDRESS:
            return self._read(), address - MIRROR_ADDRESS
        return list(self._unit.holding), address

    def _read(self) -> list[int]:
        return encode_outputs(self._unit.station.read())


def _listed(peer: str, networks: Sequence[Network]) -> bool:
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def _bound(endpoint: str, *, insecure: bool, allowed: bool) -> socket.socket:
    """A listening socket.

    Raises:
        EndpointError: see ``ModbusServer``.
    """
    _, address = split_endpoint(f"tcp://{endpoint}")
    host, _, port = address.rpartition(":")
    if not is_loopback(host):
        if not insecure:
            raise EndpointError(
                f"plc.modbus.endpoint {endpoint} can be reached from the network, and Modbus has no authentication; "
                "use 127.0.0.1, or state plc.modbus.insecure: true where the network itself is trusted"
            )
        if not allowed:
            raise EndpointError(
                f"plc.modbus.endpoint {endpoint} can be reached from the network; name the PLC's address in "
                "plc.modbus.allow"
            )
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0 if port == "*" else int(port)), family=family, backlog=16)
    except (OSError, UnicodeError) as error:  # a host name that IDNA cannot encode is a UnicodeError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise EndpointError(f"plc.modbus.endpoint {endpoint} cannot be bound: {reason}; choose another") from error
