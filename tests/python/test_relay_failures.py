"""What happens when the application, a server of speech or the bridge does not do as it should."""
import asyncio
import json

import websockets

from fake_bridge import CALL
from relay_stage import RelayTest
from standins import wav


class Failures(RelayTest):
    async def test_an_application_that_is_away_ends_the_call(self):
        await self.start()
        await self.ring({"url": "ws://127.0.0.1:9/"})
        self.assertEqual(await self.bridge.closed(), 1000)
        await self.relay.says(f"{CALL}: failed: cannot reach the application at ws://127.0.0.1:9/")

    async def test_a_call_may_be_handed_over_instead(self):
        await self.start("--on-failure", "hand-over")
        await self.ring({"url": "ws://127.0.0.1:9/"})
        self.assertEqual(await self.bridge.closed(), 1011)

    async def test_parameters_of_no_use_end_the_call(self):
        await self.start()
        for parameters, why in (({"url": "http://127.0.0.1/"}, "need ws or wss"),
                                ({"interruptible": "maybe"}, "need none, dtmf, speech, any"),
                                ({"dtmfDetection": "1"}, "dtmfDetection is '1': need true or false")):
            await self.ring(parameters)
            self.assertEqual(await self.bridge.closed(), 1000)
            await self.relay.says(why)
            await self.bridge.end()

    async def test_an_application_that_goes_away_ends_the_call(self):
        await self.begin()
        await self.app.socket.close(1001)
        self.assertEqual(await self.bridge.closed(), 1000)
        await self.relay.says("failed: the application closed the connection before it said end")

    async def test_garbage_ends_the_session_with_an_error(self):
        for garbage in ("not json", "[1]", "[" * 50_000, b"\x00\x01"):
            await self.begin()
            await self.app.socket.send(garbage)
            self.assertIn("Invalid message received", (await self.app.receive("error"))["description"])
            self.assertEqual(await self.app.closed(), 1000)
            self.assertEqual(await self.bridge.closed(), 1000)
            await self.relay.says("failed: the application sent garbage")
            await self.bridge.end()
            await self.relay.stop()
            self.app.socket = None

    async def test_messages_too_large_end_the_session(self):
        await self.begin()
        await self.app.send("text", token="x" * 70_000)
        self.assertEqual(await self.app.closed(), 1009)
        self.assertEqual(await self.bridge.closed(), 1000)

    async def test_invalid_messages_are_refused_one_by_one(self):
        await self.begin()
        invalid = [
            {}, {"type": 1}, {"type": "speak"}, {"type": "text"}, {"type": "text", "token": 5},
            {"type": "text", "token": "x" * 10_001}, {"type": "text", "token": "x", "last": "maybe"},
            {"type": "text", "token": "x", "interruptible": "sometimes"}, {"type": "language"}]
        for message in invalid:
            await self.app.socket.send(json.dumps(message))
            self.assertIn("Invalid message received: ", (await self.app.receive("error"))["description"])
        await self.app.send("text", token="All is well.", last=True)
        await self.bridge.hears(100)
        more = [
            {"type": "play"}, {"type": "play", "source": "file:///etc/passwd"},
            {"type": "play", "source": "http://a/ b"}, {"type": "play", "source": "http://a/", "loop": -1},
            {"type": "play", "source": "http://a/", "loop": True}, {"type": "sendDigits", "digits": "1;2"},
            {"type": "sendDigits", "digits": ""}, {"type": "sendDigits", "digits": "1" * 65},
            {"type": "end", "handoffData": {"a": 1}}, {"type": "end", "handoffData": "x" * 16_385}]
        for message in more:
            await self.app.socket.send(json.dumps(message))
            self.assertIn("Invalid message received: ", (await self.app.receive("error"))["description"])
        # The tenth in a row was one too many.
        self.assertEqual(await self.bridge.closed(), 1000)

    async def test_more_than_can_be_said_is_refused(self):
        await self.begin()
        for _ in range(3):
            await self.app.send("text", token="Many words without end. " * 400)
        self.assertIn("wait to be said", (await self.app.receive("error"))["description"])

    async def test_text_to_speech_that_fails_three_times_ends_the_call(self):
        self.servers.tts = 500, b"no voice today"
        await self.begin()
        await self.app.send("text", token="One. Two. Three. Four.", last=True)
        for _ in range(3):
            self.assertIn("500: no voice today", (await self.app.receive("error"))["description"])
        self.assertEqual(await self.bridge.closed(), 1000)
        await self.relay.says("failed: 3 failures in a row")

    async def test_speech_to_text_may_fail_and_come_back(self):
        await self.begin()
        answers = ((503, b"busy"), (200, b"<html>"), (200, json.dumps({"text": "x" * 70_000}).encode()))
        for answer, why in zip(answers[:2], ("503: busy", "no JSON with a text")):
            self.servers.stt = answer
            await self.bridge.spoken(500)
            self.assertIn(why, (await self.app.receive("error"))["description"])
        self.servers.stt = None
        await self.bridge.spoken(500)
        await self.app.receive("prompt")
        self.servers.stt = answers[2]
        await self.bridge.spoken(500)
        self.assertIn("more than 65536 bytes: refused", (await self.app.receive("error"))["description"])

    async def test_a_bridge_that_talks_nonsense_harms_nobody(self):
        await self.start()
        for start in (None, [], {"streamSid": "x"}, {"streamSid": 1, "callSid": "x", "customParameters": {}}):
            async with websockets.connect(self.relay.url) as socket:
                await socket.send("nonsense")
                await socket.send(json.dumps({"event": "start", "start": start}))
                await asyncio.wait_for(socket.wait_closed(), 5)
        await self.ring({})
        await self.app.receive("setup")
        for text in ("{", "[]", '{"event":1}', '{"event":"media"}', '{"event":"media","media":{"payload":"%"}}',
                     '{"event":"mark","mark":{"name":["x"]}}', '{"event":"dtmf","dtmf":{"digit":5}}'):
            await self.bridge._socket.send(text)
        await self.app.send("text", token="All is well.", last=True)
        await self.bridge.hears(100)

    async def test_calls_beyond_the_limit_are_refused(self):
        await self.begin("--max-calls", "1")
        async with websockets.connect(self.relay.url) as second:
            await asyncio.wait_for(second.wait_closed(), 5)
            self.assertEqual(second.close_code, 1013)

    async def test_a_relay_that_is_stopped_hands_its_calls_over(self):
        await self.begin()
        self.relay.terminate()
        self.assertEqual(await self.bridge.closed(), 1001)
        await self.app.closed()
