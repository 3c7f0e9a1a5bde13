"""The relay's conversation: what is said and heard, in Twilio's messages."""
import asyncio
import base64
import hashlib
import hmac

from fake_bridge import ACCOUNT, CALL
from relay_stage import RelayTest
from standins import MS_PER_CHAR, tone, wav


class Talk(RelayTest):
    async def test_setup_tells_who_calls_and_the_parameters(self):
        setup = await self.begin("--greeting", "never", order="42", forwardedFrom="+33111111111", resumed="true",
                                 dtmfDetection="true", ttsProvider="Google")
        session = setup.pop("sessionId")
        self.assertRegex(session, "^VX[0-9a-f]{32}$")
        self.assertEqual(setup, {
            "type": "setup", "accountSid": ACCOUNT, "parentCallSid": "", "callSid": CALL, "from": "+33612345678",
            "to": "+33972360682", "forwardedFrom": "+33111111111", "callType": "PSTN", "callerName": "",
            "direction": "inbound", "callStatus": "RINGING", "customParameters": {"order": "42", "resumed": "true"}})
        await self.relay.says("not honoured here: ttsProvider")
        await self.bridge.hang_up()
        self.assertEqual(await self.app.closed(), 1000)
        self.assertEqual(self.servers.spoken, [], "who was greeted is not greeted again")
        self.assertNotIn("X-Twilio-Signature", self.app.headers)

    async def test_the_application_can_check_who_dials(self):
        await self.begin(env={"TWILIO_AUTH_TOKEN": "secret", "SPEECH_API_KEY": "key"}, welcomeGreeting="Hello.")
        digest = hmac.new(b"secret", self.app.url.encode(), hashlib.sha1).digest()
        self.assertEqual(self.app.headers["X-Twilio-Signature"], base64.b64encode(digest).decode())
        await self.bridge.hears(80)
        self.assertEqual(self.servers.keys, ["Bearer key"])

    async def test_an_utterance_becomes_a_prompt(self):
        await self.begin("--language", "fr-FR")
        # Quiet first, as on any call.
        await self.bridge.spoken(0, 500)
        await self.bridge.spoken(800)
        prompt = await self.app.receive("prompt")
        self.assertEqual(prompt, {"type": "prompt", "voicePrompt": "I would like a table", "lang": "fr-FR", "last": True})
        self.assertEqual(self.servers.languages, ["fr"])
        # What was said, with its beginning and the silence that ended it.
        self.assertAlmostEqual(self.servers.heard[0], 0.8 + 0.7 + 0.3, delta=0.1)

    async def test_noise_and_empty_transcripts_are_no_prompts(self):
        await self.begin()
        await self.bridge.spoken(80)
        self.servers.transcript = "  "
        await self.bridge.spoken(600)
        await self.app.nothing(0.3)
        self.assertEqual(len(self.servers.heard), 1, "a click is not even asked for")

    async def test_tokens_are_spoken_in_order(self):
        await self.begin("--language-voice", "fr=estelle")
        for token in ("Good ", "evening. How", " can I", " help?", " And"):
            await self.app.send("text", token=token, last=False)
        await self.app.send("text", token=" now", last=True)
        await self.app.send("text", token="Bonjour.", last=True, lang="fr-FR")
        said = ["Good evening.", "How can I help?", "And now", "Bonjour."]
        await self.bridge.hears(sum(map(len, said)) * MS_PER_CHAR - 80)
        self.assertEqual(self.servers.spoken, said)
        self.assertEqual(self.servers.voices, ["alloy"] * 3 + ["estelle"])

    async def test_text_without_an_end_is_spoken_all_the_same(self):
        await self.begin()
        await self.app.send("text", token="One moment")
        await self.bridge.hears(100)
        self.assertEqual(self.servers.spoken, ["One moment"])

    async def test_language_changes_both_directions(self):
        await self.begin("--language-voice", "de-DE=anna")
        await self.app.send("language", ttsLanguage="de-DE", transcriptionLanguage="it-IT")
        await self.app.send("text", token="Guten Tag.", last=True)
        await self.bridge.hears(10 * MS_PER_CHAR - 40)
        await self.bridge.spoken(600)
        self.assertEqual((await self.app.receive("prompt"))["lang"], "it-IT")
        self.assertEqual((self.servers.voices, self.servers.languages), (["anna"], ["it"]))

    async def test_keys_reach_the_application_when_it_wants_them(self):
        await self.begin(dtmfDetection="true")
        await self.bridge.press("5")
        self.assertEqual(await self.app.receive("dtmf"), {"type": "dtmf", "digit": "5"})

    async def test_keys_are_kept_from_who_does_not_want_them(self):
        await self.begin()
        await self.bridge.press("5")
        await self.app.nothing(0.3)

    async def test_play_and_its_loop(self):
        # Over a redirect, in stereo.
        self.servers.files = {"/a.wav": (302, b"", "/b.wav"), "/b.wav": (200, wav(tone(200, rate=8000) * 2, rate=8000, channels=2))}
        await self.begin()
        await self.app.send("play", source=self.servers.url + "/a.wav", loop=3)
        await self.app.send("end")
        self.assertEqual(await self.bridge.closed(), 1000)
        self.assertAlmostEqual(self.bridge.heard_ms(), 600, delta=60)

    async def test_what_cannot_be_played_is_an_error_and_the_next_is_said(self):
        self.servers.files = {"/a.mp3": (200, b"ID3 no wav at all")}
        await self.begin()
        await self.app.send("play", source=self.servers.url + "/a.mp3")
        self.assertIn("not a WAV file", (await self.app.receive("error"))["description"])
        await self.app.send("play", source=self.servers.url + "/none.wav")
        self.assertIn("404", (await self.app.receive("error"))["description"])
        await self.app.send("text", token="Still here.", last=True)
        await self.bridge.hears(100)

    async def test_digits_are_pressed_behind_what_is_said(self):
        await self.begin()
        await self.app.send("text", token="I dial now.", last=True)
        await self.app.send("sendDigits", digits="12w#")
        async with asyncio.timeout(10):
            while len(self.bridge.digits) < 2:
                await asyncio.sleep(0.02)
        self.assertEqual(self.bridge.digits, [("12", False), ("#", False)])
        self.assertGreater(self.bridge.heard_ms(), 100)

    async def test_end_says_what_was_sent_before_it(self):
        await self.begin(welcomeGreeting="Hello.")
        await self.app.send("text", token="Goodbye then")
        await self.app.send("end", handoffData='{"reason":"human"}')
        self.assertEqual(await self.bridge.closed(), 1000)
        self.assertEqual(await self.app.closed(), 1000)
        self.assertEqual(self.servers.spoken, ["Hello.", "Goodbye then"])
        self.assertGreaterEqual(self.bridge.heard_ms(), 18 * MS_PER_CHAR - 60)
        await self.relay.says("""handoffData: '{"reason":"human"}'""")
