"""A relay as its own process, with a bridge on one side and an application on the other."""
import asyncio
import os
import pathlib
import sys
import unittest

import fake_bridge
import standins

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
RELAY = EXAMPLES / "relay.py"


class Relay:
    """`examples/relay.py`, and what it prints."""

    def __init__(self):
        self.output, self._came, self._is_told = "", asyncio.Event(), False

    async def start(self, args, env):
        kept = {name: value for name, value in os.environ.items() if name not in ("TWILIO_AUTH_TOKEN", "SPEECH_API_KEY")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-B", str(RELAY), "--listen", "0", *args, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, env={**kept, **env})
        self._reading = asyncio.create_task(self._read())
        await self.says("listening on ")
        self.url = self.output.split("listening on ")[1].split()[0]

    async def _read(self):
        while line := await self._process.stdout.readline():
            self.output += line.decode()
            self._came.set()

    async def says(self, text):
        async with asyncio.timeout(15):
            while text not in self.output:
                self._came.clear()
                await self._came.wait()

    def terminate(self):
        """Once: a second signal may find a Python that is already taking itself apart."""
        if not self._is_told:
            self._is_told = True
            self._process.terminate()

    async def stop(self):
        if self._process.returncode is None:
            self.terminate()
        code = await asyncio.wait_for(self._process.wait(), 10)
        await self._reading
        return code


class RelayTest(unittest.IsolatedAsyncioTestCase):
    """Starts all of it. `begin` rings up with parameters and flags."""

    async def asyncSetUp(self):
        # What unittest switches on makes a stream several times slower.
        asyncio.get_running_loop().set_debug(False)
        self.servers, self.app, self.relay, self.bridge = standins.Servers(), standins.Application(), None, None
        await self.app.open()

    async def start(self, *flags, env={}):
        self.relay = Relay()
        addresses = ["--app-url", self.app.url, "--stt-url", self.servers.url, "--tts-url", self.servers.url]
        await self.relay.start([*addresses, *flags], env)

    async def begin(self, *flags, env={}, has_additions=True, **parameters):
        """A call, up to the application's setup message."""
        await self.start(*flags, env=env)
        await self.ring(parameters, has_additions)
        return await self.app.receive("setup")

    async def ring(self, parameters, has_additions=True):
        self.bridge = fake_bridge.Bridge(self.relay.url, parameters, has_additions)
        await self.bridge.begin()

    async def asyncTearDown(self):
        try:
            if self.bridge:
                await self.bridge.end()
            if self.relay:
                code = await self.relay.stop()
                self.assertEqual(code, 0, self.relay.output)
                self.assertNotIn("Traceback", self.relay.output)
        finally:
            await self.app.close()
            self.servers.close()
