"""The WebSocket server that the bridge dials, a session for each call."""
import asyncio
import contextlib
import signal
import traceback

import websockets

from . import sockets
from .session import Over, Session
from .settings import BadSettings
from .speaker import Failed

# Codes of RFC 6455. Any but the first means to the bridge that this worker is lost.
DONE, GOING_AWAY, BROKEN, BUSY = 1000, 1001, 1011, 1013


class Server:
    """Takes calls until it is told to stop, or has had enough of them."""

    def __init__(self, flags, servers):
        self._flags, self._servers = flags, servers
        self._calls, self._taken = set(), 0
        self._enough = asyncio.Event()

    async def run(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        flags = self._flags
        async with websockets.serve(self._accept, flags.bind, flags.listen, compression=None,
                                    max_size=sockets.BRIDGE_MESSAGE_BYTES_MAX) as server:
            host, port = list(server.sockets)[0].getsockname()[:2]
            print(f"listening on ws://{host}:{port}/", flush=True)
            await self._enough.wait()
            if self._calls:
                await asyncio.wait(self._calls)

    def _stop(self):
        print("stopping: calls go to another worker", flush=True)
        self._enough.set()
        for call in self._calls:
            call.cancel()

    async def _accept(self, socket, _path=None):
        if self._enough.is_set() or len(self._calls) >= self._flags.max_calls:
            print(f"a call is refused: there are {len(self._calls)} (--max-calls)", flush=True)
            await socket.close(BUSY)
            return
        call = asyncio.create_task(self._serve(socket))
        self._calls.add(call)
        self._taken += 1
        try:
            await asyncio.wait({call})
        finally:
            self._calls.discard(call)
            if self._flags.calls is not None and self._taken >= self._flags.calls:
                self._enough.set()

    async def _serve(self, socket):
        """The code that it closes with says whether the call is over, or goes on without it."""
        line, code = sockets.Line(socket), DONE

        def log(text):
            print(f"{line.start['callSid'] if line.start else '?'}: {text}", flush=True)

        try:
            await line.begin()
            log("start")
            await Session(line, self._flags, self._servers, log).run()
        except Over as reason:
            log(f"over: {reason}")
        except (Failed, BadSettings, sockets.Lost) as error:
            log(f"failed: {error}")
            code = BROKEN if self._flags.on_failure == "hand-over" else DONE
        except asyncio.CancelledError:
            code = GOING_AWAY
        except Exception:
            # A mistake in here: the call gets another worker, the others go on.
            log(f"failed: {traceback.format_exc()}")
            code = BROKEN
        finally:
            with contextlib.suppress(Exception):
                await socket.close(code)
