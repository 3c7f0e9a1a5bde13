"""The bridge's side of a media stream, played strictly: a frame each tick, marks when what
was before them has been played, and an error for everything that the contract does not have."""
import asyncio
import base64
import json
import math

import websockets

STREAM, CALL, ACCOUNT = "MZ" + "1" * 32, "CA" + "2" * 32, "AC" + "3" * 32
FRAME, FRAME_MS = 160, 20
# Twice real time: nothing in a stream goes by the clock.
TICK_S = 0.01
SILENCE = b"\xff" * FRAME


def _voice():
    """20 ms of 500 Hz, loud, in mu-law."""
    def ulaw(sample):
        sign, magnitude = (0x80 if sample < 0 else 0), min(abs(sample), 32635) + 0x84
        exponent = magnitude.bit_length() - 8
        return ~(sign | exponent << 4 | (magnitude >> (exponent + 3)) & 0x0F) & 0xFF
    return bytes(ulaw(int(12000 * math.sin(2 * math.pi * n / 16))) for n in range(FRAME))


VOICE = _voice()


class Bridge:
    """One call. `played` is what the caller has heard, `digits` what was pressed."""

    def __init__(self, url, parameters, has_additions=True):
        self._url, self._parameters, self._has_additions = url, parameters, has_additions
        self._queue, self._sequence, self._chunk = [], 0, 0
        self._to_say = 0
        self.played, self.digits, self.clears, self.wrong = bytearray(), [], 0, []

    async def begin(self):
        self._socket = await websockets.connect(self._url, compression=None)
        await self._socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await self._send("start", start={
            "streamSid": STREAM, "accountSid": ACCOUNT, "callSid": CALL, "tracks": ["inbound"],
            "customParameters": {"callerPhone": "+33612345678", "to": "+33972360682", "direction": "inbound",
                                 **self._parameters},
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}})
        self._tasks = [asyncio.create_task(self._pace()), asyncio.create_task(self._read())]

    async def _send(self, event, **fields):
        self._sequence += 1
        await self._socket.send(json.dumps(
            {"event": event, "sequenceNumber": str(self._sequence), "streamSid": STREAM, **fields}))

    def speak(self, ms):
        """The caller speaks for so long, from now on."""
        self._to_say = ms // FRAME_MS

    async def spoken(self, ms, then_ms=1000):
        self.speak(ms)
        await asyncio.sleep((ms + then_ms) / FRAME_MS * TICK_S)

    async def press(self, digit):
        await self._send("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    async def _pace(self):
        loop = asyncio.get_running_loop()
        at = loop.time()
        try:
            while True:
                # On a busy machine the call is slower; it never catches up in a burst.
                at = max(at + TICK_S, loop.time())
                await asyncio.sleep(at - loop.time())
                frame = SILENCE
                if self._to_say:
                    self._to_say -= 1
                    frame = VOICE
                self._chunk += 1
                await self._send("media", media={
                    "track": "inbound", "chunk": str(self._chunk), "timestamp": str((self._chunk - 1) * FRAME_MS),
                    "payload": base64.b64encode(frame).decode()})
                await self._play()
        except websockets.ConnectionClosed:
            pass

    async def _play(self):
        await self._echo_marks()
        for at, entry in enumerate(self._queue):
            if "audio" in entry:
                self.played += entry["audio"][:FRAME].ljust(FRAME, b"\xff")
                entry["audio"] = entry["audio"][FRAME:]
                entry["played"] += FRAME_MS
                break
        await self._echo_marks()

    async def _echo_marks(self, cleared=False):
        played = 0
        while self._queue and ("mark" in self._queue[0] or not self._queue[0]["audio"] or cleared):
            entry = self._queue.pop(0)
            if "mark" in entry:
                additions = {"playedMs": played, "cleared": cleared} if self._has_additions else {}
                await self._send("mark", mark={"name": entry["mark"], **additions})
                played = 0
            else:
                played += entry["played"]
        if played:
            self._queue.insert(0, {"audio": b"", "played": played})

    async def _read(self):
        try:
            async for text in self._socket:
                try:
                    await self._obey(json.loads(text))
                except (AssertionError, ValueError, KeyError, TypeError) as error:
                    self.wrong.append(f"{text[:200]}: {error!r}")
        except websockets.ConnectionClosed:
            pass

    async def _obey(self, message):
        event = message["event"]
        assert message["streamSid"] == STREAM
        if event == "media":
            assert set(message) == {"event", "streamSid", "media"} and set(message["media"]) == {"payload"}
            audio = base64.b64decode(message["media"]["payload"], validate=True)
            assert audio and len(audio) % FRAME == 0, "a partial frame in the middle of speech"
            self._queue.append({"audio": audio, "played": 0})
            waiting = sum(len(entry.get("audio", b"")) for entry in self._queue)
            assert waiting <= 630 * 8000, "more than the bridge keeps"
        elif event == "mark":
            name = message["mark"]["name"]
            assert isinstance(name, str) and len(name) <= 1024
            self._queue.append({"mark": name})
            await self._echo_marks()
        elif event == "clear":
            assert set(message) == {"event", "streamSid"}
            self.clears += 1
            await self._echo_marks(cleared=True)
            self._queue.clear()
        else:
            digits = message["dtmf"]["digits"]
            assert event == "dtmf" and 0 < len(digits) <= 64 and not set(digits) - set("0123456789*#ABCD")
            self.digits.append((digits, any(entry.get("audio") for entry in self._queue)))

    def heard_ms(self):
        """How long the caller has heard sound."""
        return sum(FRAME_MS for at in range(0, len(self.played), FRAME) if self.played[at:at + FRAME] != SILENCE)

    async def hears(self, ms):
        """Waits until the caller has heard so much sound."""
        async with asyncio.timeout(10):
            while self.heard_ms() < ms:
                await asyncio.sleep(TICK_S)

    async def hang_up(self):
        await self._send("stop", stop={"accountSid": ACCOUNT, "callSid": CALL})
        await self._socket.close()

    async def closed(self):
        """The code that the relay ends the call with."""
        await asyncio.wait_for(self._socket.wait_closed(), 15)
        return self._socket.close_code

    async def end(self):
        await self._socket.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not self.wrong, self.wrong
