"""A socket for triggers alone, for stations whose frames come from a camera, a stream or files."""

import logging
import threading
import time
from collections.abc import Mapping

import zmq

from edge_uad.errors import EndpointError, FrameError
from edge_uad.interfaces import TriggerTarget
from edge_uad.net.endpoints import AnySocket, bind, check_endpoint
from edge_uad.net.keys import ServerKeys, ZapAuthenticator
from edge_uad.net.wire import MAX_HEADER_BYTES, decode_trigger
from edge_uad.records import Trigger

NOT_ACCEPTED = "trigger not accepted: too many triggers of this station wait, or it stops"
RECEIVE_QUEUE_TRIGGERS = 64
"""What ZeroMQ holds of each sender before that has to wait."""
MAX_PARTS = 2
POLL_MS = 100
LOG_EVERY_S = 10.0
"""A sender that sends nonsense must not fill the log."""

log = logging.getLogger("edge_uad.sources.triggers")


class TriggerReceiver:
    """Binds a PULL socket and hands each trigger to its station, in a thread of its own.

    A trigger that its station does not accept gets an *invalid* verdict there. A message that is no trigger, or names
    no triggered station, is logged and counted.

    Args:
        endpoint: ``tcp://127.0.0.1:5565`` or ``ipc:///…``.
        targets: the triggered stations by their names.
        insecure: allow addresses beyond this machine.
        keys: accept these CURVE keys alone; addresses beyond this machine are allowed then, too.

    Raises:
        EndpointError: not allowed, in use, or not of this machine.
    """

    def __init__(
        self,
        endpoint: str,
        targets: Mapping[str, TriggerTarget],
        *,
        insecure: bool = False,
        keys: ServerKeys | None = None,
    ) -> None:
        check_endpoint(endpoint, insecure=insecure, keyed=keys is not None)
        self._targets = dict(targets)
        self._context: zmq.Context[AnySocket] = zmq.Context()
        self._authenticator = ZapAuthenticator(self._context, keys)
        self._socket: AnySocket = self._context.socket(zmq.PULL)
        self._authenticator.guard(self._socket)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_TRIGGERS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
        try:
            self.endpoint = bind(self._socket, endpoint, remedy="stop it, or change triggers.endpoint")
            """The address in use, with the port that was chosen for ``*``."""
        except EndpointError:
            self._close()
            raise
        self.n_refused = 0
        """Messages that no verdict answers."""
        self._log_due_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="triggers", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def request_stop(self) -> None:
        """Receive no more."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread and unbind, after ``request_stop``; False where it takes longer."""
        if self._thread.ident is None:
            self._close()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._socket.poll(POLL_MS):
                    self._receive()
            except zmq.ZMQError as error:
                self._refuse(f"{self.endpoint} failed: {error.strerror}")
                self._stop.wait(POLL_MS / 1000)
        self._close()

    def _receive(self) -> None:
        try:
            parts = [self._socket.recv(zmq.NOBLOCK)]
            while self._socket.getsockopt(zmq.RCVMORE):
                part = self._socket.recv(zmq.NOBLOCK)
                if len(parts) <= MAX_PARTS:  # one too many is kept, so that the message is refused
                    parts.append(part)
        except zmq.Again:  # a handshake can make a socket ready, too, without a message
            return
        received_mono_ns = time.monotonic_ns()
        try:
            message = decode_trigger(parts)
        except FrameError as error:
            self._refuse(str(error))
            return
        target = self._targets.get(message.station)
        if target is None:
            self._refuse(f"there is no triggered station {message.station!r}; set its trigger in the config file")
        elif message.trigger_id is None:
            target.resynchronise()
        else:
            trigger = Trigger(message.trigger_id, message.part_id, received_mono_ns)
            if not target.trigger(trigger) and not target.refuse_trigger(trigger, NOT_ACCEPTED):
                self._refuse(f"{message.station}: trigger {message.trigger_id} finds no room, not even for a refusal")

    def _refuse(self, reason: str) -> None:
        self.n_refused += 1
        if time.monotonic() >= self._log_due_s:
            self._log_due_s = time.monotonic() + LOG_EVERY_S
            log.warning("a trigger is not answered (%d so far): %s", self.n_refused, reason)

    def _close(self) -> None:
        self._socket.close(linger=0)
        self._authenticator.close()
        self._context.term()
