"""A door into a sandbox's network: listens on this machine's loopback, connects inside. Runs as a program of its own
and uses the standard library only."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000
CHUNK_BYTES = 65536


def main(outside_port: str, network: str, address: str, inside_port: str) -> None:
    # Made before the change of network, this socket goes on listening outside.
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(outside_port)))
    _enter(network)
    asyncio.run(_serve(listener, address, int(inside_port)))


def _enter(network: str) -> None:
    with open(network, "rb") as handle:  # noqa: PTH123  (a descriptor is what the kernel asks for)
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {network}: {os.strerror(ctypes.get_errno())}")


async def _serve(listener: socket.socket, address: str, port: int) -> None:
    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(address, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_carry(reader, inner_writer), _carry(inner_reader, writer))

    server = await asyncio.start_server(through, sock=listener)
    await server.serve_forever()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, until its end; then the other side hears of the end."""
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
