"""Stand-ins for what the relay talks to: speech to text, text to speech, files, an application.

By itself, `standins.py SPEECH_PORT APP_PORT`, it is an application that says what it was told.
"""
import asyncio
import contextlib
import email.parser
import email.policy
import http.server
import io
import json
import math
import struct
import sys
import threading
import wave

import websockets

RATE_HZ = 24_000
# Text is spoken at this speed: long enough to interrupt, short enough to wait for.
MS_PER_CHAR = 20


def tone(ms, hz=500, rate=RATE_HZ):
    samples = [int(8000 * math.sin(2 * math.pi * hz * n / rate)) for n in range(rate * ms // 1000)]
    return struct.pack(f"<{len(samples)}h", *samples)


def wav(pcm, size=None, rate=RATE_HZ, channels=1):
    """A WAV file; `size` in place of its real length, as who streams writes it."""
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    size = len(pcm) if size is None else size
    return struct.pack("<4sI4s", b"RIFF", 0xFFFFFFFF, b"WAVE") + fmt + struct.pack("<4sI", b"data", size) + pcm


class Servers:
    """Both servers of speech, and the application's files, on one port. `spoken` and `heard` are
    what was asked of them. Change `transcript`, `tts` and `stt` for other answers."""

    def __init__(self, port=0):
        self.spoken, self.voices, self.heard, self.languages, self.keys = [], [], [], [], []
        self.transcript = "I would like a table"
        self.tts = self.stt = None
        self.files = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                answer = outer.files.get(self.path, (404, b"no such file"))
                self.reply(*answer)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.keys.append(self.headers["Authorization"])
                if self.path == "/v1/audio/speech":
                    self.speak(json.loads(body))
                elif self.path == "/v1/audio/transcriptions":
                    self.transcribe(body)
                else:
                    self.reply(404, b"no such path")

            def speak(self, asked):
                assert set(asked) == {"model", "voice", "input", "response_format"}, asked
                assert asked["response_format"] == "wav", asked
                outer.spoken.append(asked["input"])
                outer.voices.append(asked["voice"])
                if outer.tts:
                    self.reply(*outer.tts)
                    return
                audio = wav(tone(MS_PER_CHAR * len(asked["input"])), 0xFFFFFFFF)
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    # In pieces of an odd length: samples are cut in two.
                    for at in range(0, len(audio), 4095):
                        piece = audio[at:at + 4095]
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.write(b"0\r\n\r\n")

            def transcribe(self, body):
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
                fields = {part.get_param("name", header="Content-Disposition"): part for part in form.iter_parts()}
                with wave.open(io.BytesIO(fields["file"].get_payload(decode=True))) as file:
                    assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (8000, 2, 1)
                    outer.heard.append(file.getnframes() / 8000)
                outer.languages.append(fields["language"].get_payload().strip())
                assert fields["model"].get_payload().strip()
                self.reply(*(outer.stt or (200, json.dumps({"text": outer.transcript}).encode())))

            def reply(self, status, body, location=None):
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Application:
    """What answers a caller, by hand: `receive` checks what comes, `send` answers."""

    def __init__(self):
        self._sockets = asyncio.Queue()
        self.headers = None

    async def open(self):
        async def accept(socket, _path=None):
            self.headers = socket.request_headers
            self._sockets.put_nowait(socket)
            await socket.wait_closed()

        self._server = await websockets.serve(accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/relay"
        self.socket = None

    async def receive(self, kind):
        """The next message, which is of this kind."""
        self.socket = self.socket or await asyncio.wait_for(self._sockets.get(), 10)
        message = json.loads(await asyncio.wait_for(self.socket.recv(), 10))
        assert message["type"] == kind, f"expected {kind}: {message}"
        return message

    async def nothing(self, seconds):
        """Nothing comes for so long."""
        with contextlib.suppress(asyncio.TimeoutError):
            raise AssertionError(await asyncio.wait_for(self.socket.recv(), seconds))

    async def send(self, kind, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def closed(self):
        await asyncio.wait_for(self.socket.wait_closed(), 10)
        return self.socket.close_code

    async def close(self):
        self._server.close()
        await self._server.wait_closed()


async def _repeats(socket, _path=None):
    async for text in socket:
        message = json.loads(text)
        print(text, flush=True)
        if message["type"] == "prompt":
            await socket.send(json.dumps({"type": "text", "token": "You said: " + message["voicePrompt"], "last": True}))


async def main(speech_port, app_port):
    servers = Servers(speech_port)
    try:
        async with websockets.serve(_repeats, "127.0.0.1", app_port):
            await asyncio.Event().wait()
    finally:
        servers.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
