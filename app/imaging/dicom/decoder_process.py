"""`python -I -m app.imaging.dicom.decoder_process LIMIT`: decodes frames in a process that may die.

Started by `DecoderPool` with a socket as standard input and nothing else: no environment worth reading, no files, no output. It holds
at most one frame at a time, writes nothing to disk and leaves no core file. It ends with its parent: the socket's end is read as end
of file, and the kernel kills it even inside a codec.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys

from app.imaging.dicom.decoder_protocol import (
    DAMAGED,
    DECODED,
    OUT_OF_MEMORY,
    READY,
    REQUEST_BYTES,
    Job,
    pack_answer,
)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_OPEN_FILES = 16


def confine(memory_bytes: int) -> None:
    """What no codec's fault may exceed.

    The core limit alone is not enough: with a pipe in core_pattern the kernel ignores it (core(5)), and a film would leave the
    process in a core dump. A process that is not dumpable writes none.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, memory_bytes),  # also of the memfd
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(limit, (value, value))


def serve(channel: socket.socket) -> None:
    """Answer requests until the parent closes its end. A request out of order ends the process: the parent starts another."""
    from app.imaging.dicom.frame_codecs import DamagedError, decode_frame  # noqa: PLC0415  codecs load within the limits

    channel.send(READY)
    while True:
        packet, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES + 1, 1)
        if not packet:
            return
        (job, serial), memory = Job.unpack(packet), descriptors[0]
        try:
            codestream = os.pread(memory, job.codestream_bytes, 0)
            _append(memory, job.codestream_bytes, decode_frame(job, codestream).reshape(-1).data.cast("B"))
            outcome, size = DECODED, job.frame_bytes
        except DamagedError:
            outcome, size = DAMAGED, 0
        except MemoryError:
            outcome, size = OUT_OF_MEMORY, 0
        finally:
            os.close(memory)
        channel.send(pack_answer(outcome, serial, size))


def _append(memory: int, at: int, data: memoryview) -> None:
    """After the codestream: where nothing was written the parent reads nothing, and not the codestream as samples."""
    written = 0
    while written < len(data):
        written += os.pwrite(memory, data[written:], at + written)


def main() -> None:
    """Entry point; every fault is an exit status, because nobody reads what this process could print."""
    for name in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C is for the service, which then closes the socket
        signal.signal(name, signal.SIG_IGN)
    confine(int(sys.argv[1]))
    with socket.socket(fileno=os.dup(0)) as channel:
        serve(channel)


if __name__ == "__main__":
    main()
