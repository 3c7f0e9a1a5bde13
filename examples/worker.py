#!/usr/bin/env python3
"""A sipbridge worker in Python: greets the caller, then echoes.

Needs Python 3.9 and:  pip install redis websockets

Queue mode takes jobs from Redis and dials the bridge:
    ./worker.py --redis-url redis://127.0.0.1 --greeting hello.wav --record /tmp
Push mode listens, and the bridge dials (--ws-target), as Twilio does:
    ./worker.py --listen 9000

Digits: * clears what is being played, # hangs up. Ctrl+C ends it.
"""
import argparse
import asyncio
import base64
import json
import math
import os
import re
import signal
import struct
import wave

import websockets

RATE_HZ = 8000


def to_ulaw(sample):
    """One 16-bit sample to G.711 mu-law."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32635) + 0x84
    exponent = magnitude.bit_length() - 8
    return ~(sign | exponent << 4 | (magnitude >> (exponent + 3)) & 0x0F) & 0xFF


def from_ulaw(byte):
    """One mu-law byte to a 16-bit sample."""
    byte = ~byte & 0xFF
    magnitude = (((byte & 0x0F) << 3) + 0x84 << (byte >> 4 & 7)) - 0x84
    return -magnitude if byte & 0x80 else magnitude


ULAW_TO_PCM = [struct.pack("<h", from_ulaw(byte)) for byte in range(256)]


def read_greeting(path):
    """A WAV file (PCM16 at 8 kHz), or three notes, as mu-law."""
    if path is None:
        notes = (523.25, 659.25, 783.99)
        samples = [int(8000 * (1 - n / 1600) * math.sin(2 * math.pi * note * n / RATE_HZ))
                   for note in notes for n in range(1600)]
        return bytes(map(to_ulaw, samples))
    with wave.open(path, "rb") as file:
        if (file.getframerate(), file.getsampwidth()) != (RATE_HZ, 2):
            raise SystemExit(f"{path}: need 16-bit PCM at {RATE_HZ} Hz")
        frames = file.readframes(file.getnframes())
        samples = struct.unpack(f"<{len(frames) // 2}h", frames)[::file.getnchannels()]
    return bytes(map(to_ulaw, samples))


def write_wav(path, ulaw):
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(b"".join(ULAW_TO_PCM[byte] for byte in ulaw))


async def serve(socket, args, greeting):
    """One call, from start to its end."""
    call_sid, stream_sid, echoing, heard = "?", "", False, bytearray()

    async def send(event, **fields):
        await socket.send(json.dumps({"event": event, "streamSid": stream_sid, **fields}))

    try:
        async for text in socket:
            message = json.loads(text)
            event = message.get("event")
            if event == "start":
                stream_sid, call_sid = message["start"]["streamSid"], message["start"]["callSid"]
                print(f"{call_sid}: start", flush=True)
                # Taken over from a worker that is gone: the caller was greeted.
                if "resumed" not in message["start"]["customParameters"]:
                    await send("media", media={"payload": base64.b64encode(greeting).decode()})
                await send("mark", mark={"name": "greeted"})
            elif event == "media":
                payload = message["media"]["payload"]
                heard += base64.b64decode(payload)
                if echoing:
                    await send("media", media={"payload": payload})
            elif event == "mark" and message["mark"]["name"] == "greeted":
                print(f"{call_sid}: greeting played", flush=True)
                echoing = True
            elif event == "dtmf":
                digit = message["dtmf"]["digit"]
                print(f"{call_sid}: digit {digit}", flush=True)
                if digit == "*":
                    await send("clear")
                elif digit == "#":
                    await send("hangup")
            elif event == "stop":
                break
    except websockets.ConnectionClosed:
        print(f"{call_sid}: connection lost", flush=True)
    print(f"{call_sid}: over, {len(heard) / RATE_HZ:.1f} s heard", flush=True)
    if args.record and heard:
        name = re.sub(r"[^A-Za-z0-9]", "", call_sid) or "unknown"
        write_wav(os.path.join(args.record, name + ".wav"), heard)


async def serve_or_hand_over(socket, args, greeting):
    """Only who has said all closes with 1000, which hangs up. `websockets` would do so
    for every end, a mistake in here too: with 1011 the caller gets another worker."""
    try:
        await serve(socket, args, greeting)
    except BaseException:
        await socket.close(1011)
        raise


async def take_job(job, args, greeting):
    try:
        async with websockets.connect(job["audioStreamUrl"], max_size=None) as socket:
            await serve_or_hand_over(socket, args, greeting)
    except (OSError, websockets.WebSocketException) as error:
        print(f"{job['callId']}: cannot dial: {error}", flush=True)


async def queue_mode(args, greeting, calls):
    import redis.asyncio
    from redis.exceptions import ConnectionError as Lost

    print(f"waiting for jobs in {args.queue}", flush=True)
    taken = 0
    async with redis.asyncio.Redis.from_url(args.redis_url, decode_responses=True) as client:
        while args.calls is None or taken < args.calls:
            try:
                popped = await client.brpop(args.queue, timeout=2)
            except Lost as error:
                print(f"Redis: {error}; trying again", flush=True)
                await asyncio.sleep(1)
                continue
            if popped:
                taken += 1
                calls.add(asyncio.create_task(take_job(json.loads(popped[1]), args, greeting)))


async def push_mode(args, greeting, calls):
    enough = asyncio.Event()

    async def accept(socket, _path=None):
        calls.add(asyncio.current_task())
        if args.calls is not None and len(calls) >= args.calls:
            enough.set()
        await serve_or_hand_over(socket, args, greeting)

    async with websockets.serve(accept, args.bind, args.listen, max_size=None):
        print(f"listening on ws://{args.bind}:{args.listen}/", flush=True)
        await enough.wait()
        await asyncio.wait(calls)


async def main(args):
    greeting, calls = read_greeting(args.greeting), set()
    mode = push_mode if args.listen else queue_mode
    work = asyncio.create_task(mode(args, greeting, calls))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        await work
        await asyncio.gather(*calls, return_exceptions=True)
    except asyncio.CancelledError:
        print("stopped", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis-url", default=os.environ.get("REDIS_URL", "redis://127.0.0.1"))
    parser.add_argument("--queue", default="queue:incoming_calls")
    parser.add_argument("--listen", type=int, metavar="PORT", help="push mode")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--greeting", metavar="FILE.wav", help="PCM16, 8 kHz")
    parser.add_argument("--record", metavar="DIR", help="write DIR/callSid.wav")
    parser.add_argument("--calls", type=int, help="exit after so many calls")
    asyncio.run(main(parser.parse_args()))
