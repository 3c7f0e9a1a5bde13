"""The two WebSockets of a call: to the bridge, and to the application.

Waits are bounded by `asyncio.timeout`: `wait_for` of Python 3.11 may swallow a cancellation.
"""
import asyncio
import base64
import hashlib
import hmac
import json

import websockets

from . import messages

SEND_TIMEOUT_S = 5
# The bridge drops a worker that does not read for 5 s.
CONNECT_TIMEOUT_S = 4
# `start` holds the line's parameters.
START_TIMEOUT_S = 10
BRIDGE_MESSAGE_BYTES_MAX = 256 * 1024


class Lost(Exception):
    """One of the two is gone; the text says which and why."""


class Line:
    """The media stream, towards the bridge."""

    def __init__(self, socket):
        self._socket = socket
        self.start = None

    async def begin(self):
        """Reads `connected` and `start`."""
        async def first():
            async for message in self.messages():
                if message["event"] == "start":
                    return message.get("start")
            return None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                start = await first()
            custom = start["customParameters"]
            texts = [start["streamSid"], start["callSid"], *custom.values()]
        except (TimeoutError, KeyError, TypeError, AttributeError) as error:
            raise Lost("the bridge sent no usable start: is this a Media Streams address?") from error
        if not all(isinstance(text, str) for text in texts):
            raise Lost("the bridge sent a start whose fields are no strings")
        self.start = start

    async def messages(self):
        """What the bridge sends, up to the end of the socket. What makes no sense is left out."""
        try:
            async for text in self._socket:
                try:
                    message = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(message, dict) and isinstance(message.get("event"), str):
                    yield message
        except websockets.ConnectionClosed as error:
            raise Lost("the bridge is gone") from error

    async def send(self, event, **fields):
        message = json.dumps({"event": event, "streamSid": self.start["streamSid"], **fields})
        await _send(self._socket, message, "the bridge")


class Application:
    """The conversation, towards whoever answers the caller."""

    def __init__(self, socket):
        self._socket = socket

    @classmethod
    async def dial(cls, url, auth_token):
        """Signed as Twilio does it, where the token is known."""
        headers = {}
        if auth_token:
            digest = hmac.new(auth_token.encode(), url.encode(), hashlib.sha1).digest()
            headers["X-Twilio-Signature"] = base64.b64encode(digest).decode()
        # Renamed in version 14, when `connect` became another one.
        is_new = int(websockets.version.version.split(".")[0]) >= 14
        name = "additional_headers" if is_new else "extra_headers"
        try:
            connecting = websockets.connect(url, max_size=messages.MESSAGE_BYTES_MAX,
                                            open_timeout=CONNECT_TIMEOUT_S, close_timeout=2, **{name: headers})
            return cls(await connecting)
        except (OSError, ValueError, websockets.WebSocketException) as error:
            reason = str(error) or "no answer in time"
            raise Lost(f"cannot reach the application at {url}: {reason}") from error

    async def send(self, message):
        await _send(self._socket, json.dumps(message), "the application")

    async def receive(self):
        """The next message, unread."""
        try:
            return await self._socket.recv()
        except websockets.ConnectionClosed as error:
            raise Lost(f"the application closed the connection before it said end ({error})") from error

    async def close(self, code=1000):
        await self._socket.close(code)


async def _send(socket, text, who):
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send(text)
    except TimeoutError as error:
        raise Lost(f"{who} does not read for {SEND_TIMEOUT_S} s") from error
    except websockets.ConnectionClosed as error:
        raise Lost(f"{who} is gone") from error
