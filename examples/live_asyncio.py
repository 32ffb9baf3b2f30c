"""An asyncio service: clients send raw pictures over TCP and get the finished ones back.

    python examples/live_asyncio.py --port 9000

A client sends width and height (two big-endian uint32), then pictures of width * height * 3 bytes (RGB). For every
picture it gets 2**levels back, each with its time in seconds (a big-endian double) before it. One stream per client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import struct

import numpy as np

import vtsr

HEADER, STAMP = struct.Struct("!II"), struct.Struct("!d")
MOST_PIXELS = 4096 * 2304
FRAME_RATE = 30


async def receive(reader: asyncio.StreamReader, live: vtsr.LiveUpconverter, width: int, height: int) -> None:
    """Pushes what the client sends. ``push`` returns at once, so that the event loop is never held up."""
    number = 0
    with contextlib.suppress(asyncio.IncompleteReadError):  # the client has finished
        while True:
            data = await reader.readexactly(width * height * 3)
            live.push(np.frombuffer(data, np.uint8).reshape(height, width, 3), pts=number / FRAME_RATE)
            number += 1
    live.finish()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, levels: int) -> None:
    """One client."""
    try:
        width, height = HEADER.unpack(await reader.readexactly(HEADER.size))
        if width * height > MOST_PIXELS:
            return
        with vtsr.LiveUpconverter(levels, queue=8) as live:
            receiving = asyncio.create_task(receive(reader, live, width, height))
            async for frame in live:
                writer.write(STAMP.pack(float(frame.pts)) + frame.image.tobytes())
                await writer.drain()
            await receiving
    except (asyncio.IncompleteReadError, ConnectionError, vtsr.VtsrError) as error:
        print(f"client left: {error}")
    finally:
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--levels", type=int, default=1)
    args = parser.parse_args()
    server = await asyncio.start_server(lambda r, w: serve(r, w, args.levels), args.host, args.port)
    print(f"listening on {args.host}:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
