"""Barge-in: who may interrupt what, and how much the application is told was heard."""
from relay_stage import RelayTest
from standins import MS_PER_CHAR

LONG = "We have a table at seven, one at eight, one at nine, and a small one in the garden for later."


class Interrupt(RelayTest):
    async def interrupted(self, bridge_ms=600):
        await self.bridge.hears(bridge_ms)
        self.bridge.speak(500)
        return await self.app.receive("interrupt")

    async def test_barge_in_clears_and_tells_what_was_heard(self):
        await self.begin()
        await self.app.send("text", token="Welcome. " + LONG, last=True)
        told = await self.interrupted()
        self.assertEqual(set(told), {"type", "utteranceUntilInterrupt", "durationUntilInterruptMs"})
        heard = told["utteranceUntilInterrupt"]
        self.assertTrue(("Welcome. " + LONG).startswith(heard), heard)
        self.assertLess(len(heard), len(LONG))
        # 600 ms, and 300 ms of speech until it counts as such.
        self.assertAlmostEqual(told["durationUntilInterruptMs"], 900, delta=250)
        self.assertAlmostEqual(len(heard), told["durationUntilInterruptMs"] / MS_PER_CHAR, delta=9)
        self.assertEqual(self.bridge.clears, 1)
        self.assertEqual((await self.app.receive("prompt"))["voicePrompt"], self.servers.transcript)
        # The rest of it is never heard, and the answer is.
        before = self.bridge.heard_ms()
        self.assertLess(before, 1300)
        await self.app.send("text", token="Very well.", last=True)
        await self.bridge.hears(before + 100)

    async def test_a_bridge_without_additions_is_enough(self):
        await self.begin(has_additions=False)
        await self.app.send("text", token=LONG, last=True)
        told = await self.interrupted()
        self.assertAlmostEqual(told["durationUntilInterruptMs"], 800, delta=450)

    async def test_what_still_comes_of_an_interrupted_turn_is_not_said(self):
        await self.begin()
        await self.app.send("text", token=LONG + " ")
        await self.interrupted()
        await self.app.send("text", token="And another thing. ")
        await self.app.receive("prompt")
        await self.app.send("text", token="Yes?", last=True)
        await self.bridge.hears(self.bridge.heard_ms() + 60)
        self.assertEqual(self.servers.spoken, [LONG, "Yes?"])

    async def test_short_sounds_interrupt_nothing(self):
        await self.begin()
        await self.app.send("text", token=LONG, last=True)
        await self.bridge.hears(300)
        await self.bridge.spoken(200, 900)
        await self.app.nothing(0.1)
        self.assertEqual((self.bridge.clears, self.servers.heard), (0, []))

    async def test_the_greeting_may_be_uninterruptible(self):
        await self.begin(welcomeGreeting=LONG, welcomeGreetingInterruptible="none", dtmfDetection="true")
        await self.bridge.hears(200)
        await self.bridge.press("1")
        await self.bridge.spoken(500)
        await self.app.nothing(0.1)
        await self.bridge.hears(len(LONG) * MS_PER_CHAR - 80)
        self.assertEqual((self.bridge.clears, self.servers.heard), (0, []))

    async def test_what_is_said_meanwhile_is_told_where_it_is_wanted(self):
        await self.begin(interruptible="false", reportInputDuringAgentSpeech="any")
        await self.app.send("text", token=LONG, last=True)
        await self.bridge.hears(200)
        await self.bridge.spoken(500)
        await self.app.receive("prompt")
        self.assertEqual(self.bridge.clears, 0)

    async def test_a_token_may_say_otherwise(self):
        await self.begin(interruptible="none")
        await self.app.send("text", token=LONG, last=True, interruptible=True)
        await self.interrupted()

    async def test_a_key_interrupts_and_is_told_behind_it(self):
        await self.begin(dtmfDetection="true", interruptible="dtmf")
        await self.app.send("text", token=LONG, last=True)
        await self.bridge.hears(400)
        await self.bridge.press("9")
        told = await self.app.receive("interrupt")
        self.assertAlmostEqual(told["durationUntilInterruptMs"], 420, delta=150)
        self.assertEqual((await self.app.receive("dtmf"))["digit"], "9")

    async def test_the_next_turn_takes_the_place_of_a_preemptible_one(self):
        await self.begin()
        await self.app.send("text", token=LONG, last=True, preemptible=True)
        await self.bridge.hears(200)
        await self.app.send("text", token="Found it.", last=True)
        await self.app.send("end")
        self.assertEqual(await self.bridge.closed(), 1000)
        self.assertEqual(self.bridge.clears, 1)
        self.assertLess(self.bridge.heard_ms(), 700)
        self.assertEqual(self.servers.spoken, [LONG, "Found it."])

    async def test_end_outlives_an_interruption(self):
        await self.begin()
        await self.app.send("text", token="Bye.", last=True)
        await self.bridge.hears(40)
        await self.app.send("end")
        await self.bridge.spoken(500)
        self.assertEqual(await self.bridge.closed(), 1000)
