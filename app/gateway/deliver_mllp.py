"""HL7 v2 over MLLP (HL7 v2.5.1 appendix C, section 2.9): a framed message out, its acknowledgement in, by which it is judged."""

from __future__ import annotations

import socket
import time
from typing import Final

from app.gateway.config import OruDestination
from app.gateway.outbox import DELIVERED, Message, Outcome

START, END = b"\x0b", b"\x1c\x0d"
ACK_MAX_BYTES: Final = 65_536
# HL7 table 0357: conditions that pass; everything else stated there is about the message and stays
_HEALS: Final = frozenset({"206", "207"})


class MllpSender:
    """One connection a message, so that no acknowledgement can belong to another one."""

    def __init__(self, destination: OruDestination) -> None:
        self._destination = destination

    def send(self, message: Message) -> Outcome:
        control_id = _control_id(message.content)
        if not control_id or any(byte in message.content for byte in (START[0], END[0])):
            return Outcome("dead", "unusable_object")
        try:
            answer = self._exchange(START + message.content + END)
        except TimeoutError:
            return Outcome("retry", "timeout", away=True)
        except OSError as error:
            unreachable = isinstance(error, (ConnectionRefusedError, socket.gaierror))
            code = "unreachable" if unreachable else "broken_connection"
            return Outcome("retry", code, away=True, tried=not unreachable)
        return judge_answer(answer, control_id)

    def close(self) -> None:
        """Nothing is kept open."""

    def _exchange(self, frame: bytes) -> bytes:
        """The bytes between the frame characters of the answer.

        Raises:
            OSError: no connection, closed too early, too slow as a whole, or an answer that is too long.
        """
        target = self._destination
        until = time.monotonic() + target.timeout_s
        with socket.create_connection((target.host, target.port), timeout=target.timeout_s) as connection:
            connection.sendall(frame)
            received = bytearray()
            while not received.endswith(END):
                connection.settimeout(max(until - time.monotonic(), 0.001))
                piece = connection.recv(4_096)
                received += piece
                if not piece or len(received) > ACK_MAX_BYTES:
                    raise ConnectionError
        return bytes(received).removeprefix(START).removesuffix(END)


def judge_answer(answer: bytes, control_id: str) -> Outcome:
    """What an acknowledgement says. It must name our message (MSA-2); AE and AR are final where ERR-3 names a lasting condition."""
    segments = [
        line.split("|") for line in answer.decode("utf-8", "replace").replace("\n", "\r").split("\r") if line.strip()
    ]
    found = next((s for s in segments if s[0] == "MSA"), [])
    code, about = [*found, "", "", ""][1:3]
    if about != control_id or code not in {"AA", "CA", "AE", "CE", "AR", "CR"}:
        return Outcome("retry", "unconfirmed")
    if code in {"AA", "CA"}:
        return DELIVERED
    error = next((s for s in segments if s[0] == "ERR"), [])
    condition = [*error, "", "", "", ""][3].split("^")[0]
    lasting = condition.isdigit() and condition not in _HEALS
    return Outcome("dead" if lasting else "retry", f"hl7_{code.lower()}")


def _control_id(message: bytes) -> str:
    """MSH-10; empty where there is none. The separator is the fourth character (section 2.5.4)."""
    header = message.split(b"\r", 1)[0].decode("utf-8", "replace")
    fields = header.split(header[3]) if header.startswith("MSH") and len(header) > 4 else []
    return fields[9] if len(fields) > 9 else ""
