"""One call: what the caller says goes to the application, what it answers is said to the caller."""
import asyncio
import base64
import binascii
import contextlib

from . import messages, settings as call_settings, sockets, speaker as speakers, speech, voice
from .sentences import Sentences
from .turns import Digits, Sentence, Sound, Turn

# Text without an end of sentence is said after this much quiet of the application.
FLUSH_S = 1.0
UTTERANCES_MAX = 4
EVENTS_MAX = 100
# Invalid messages in a row: such an application will not come right any more.
INVALID_MAX = 10
FAILURES_MAX = 3


class Over(Exception):
    """The session ends as it should; the text says why."""


class Session:
    """Joins the two sockets of a call, from `start` on."""

    def __init__(self, line, flags, servers, log):
        self._line, self._flags, self._servers, self._log = line, flags, servers, log
        self._call = call_settings.of_call(flags, line.start["customParameters"])
        self._ear = voice.Ear(flags.speech_level_db, flags.silence_ms)
        self._speaker = speakers.Speaker(line, servers, self._complain)
        self._sentences = Sentences()
        self._turn = self._talk = self._timer = self._app = None
        # The turn that was cut off still comes in, and is not said.
        self._is_muted = False
        # Of the utterance that goes on: it interrupted; it began when nothing was being said.
        self._has_cut = self._is_answer = False
        self._ending = None
        self._events = asyncio.Queue(EVENTS_MAX)
        self._utterances = asyncio.Queue(UTTERANCES_MAX)
        self._invalid = self._failures = 0

    async def run(self):
        """Ends by Over, or by what went wrong."""
        if self._call.ignored:
            self._log(f"not honoured here: {', '.join(self._call.ignored)} (see --stt-url and --tts-url)")
        self._app = await sockets.Application.dial(self._call.app_url, self._flags.auth_token)
        try:
            await self._app.send(messages.setup(self._line.start, self._call.parameters))
            self._greet()
            await self._until_one_ends(self._hear_bridge(), self._hear_application(), self._speaker.run(),
                                       self._tell_events(), self._tell_utterances())
        finally:
            if self._timer:
                self._timer.cancel()
            await self._app.close()

    @staticmethod
    async def _until_one_ends(*parts):
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # That the call is over matters more than what went wrong because of it.
        errors = [task.exception() for task in done]
        raise next((error for error in errors if isinstance(error, Over)), errors[0])

    def _greet(self):
        if self._call.greeting:
            sentences, turn = Sentences(), Turn()
            for text in sentences.feed(self._call.greeting) + sentences.flush():
                voice_name = self._call.voice_for(self._call.tts_language)
                with contextlib.suppress(speakers.Full):
                    self._speaker.add(Sentence(turn, text, voice_name, self._call.greeting_interruptible, False))

    # The caller.

    async def _hear_bridge(self):
        async for message in self._line.messages():
            event = message["event"]
            fields = message.get(event)
            if event == "stop":
                raise Over("the caller has gone")
            if not isinstance(fields, dict):
                continue
            if event == "media":
                self._on_audio(fields.get("payload"))
            elif event == "mark":
                self._speaker.mark_came(fields)
            elif event == "dtmf" and isinstance(fields.get("digit"), str):
                self._on_digit(fields["digit"][:1])
        raise Over("the bridge has closed the stream")

    def _on_audio(self, payload):
        try:
            ulaw = base64.b64decode(payload)
        except (binascii.Error, TypeError, ValueError):
            return
        for frame in self._ear.frames(ulaw):
            was_quiet, utterance = not self._ear.voiced_ms, self._ear.hear(frame)
            if was_quiet:
                self._has_cut, self._is_answer = False, self._is_reported("speech")
            if utterance and (self._has_cut or self._is_answer or self._is_reported("speech")):
                self._queue_utterance(utterance)
            elif self._ear.voiced_ms >= self._flags.interrupt_ms and not self._has_cut:
                self._has_cut = self._cut_off("speech")

    def _queue_utterance(self, utterance):
        if self._utterances.full():
            self._tell(messages.error("speech to text is too slow: something that the caller said is left out"))
        else:
            self._utterances.put_nowait(utterance)

    def _on_digit(self, digit):
        is_reported = self._cut_off("dtmf") or self._is_reported("dtmf")
        if self._call.dtmf and is_reported:
            self._tell(messages.dtmf(digit))

    def _is_reported(self, kind):
        """Who speaks while the application does, and may not interrupt it, is not reported."""
        return not self._speaker.is_busy or kind in self._call.reported_while_speaking

    def _cut_off(self, kind):
        """Ends what is being said, where this may interrupt it."""
        pending = self._speaker.pending()
        if self._ending or not pending or kind not in pending[0].interruptible:
            return False
        turn, cleared = self._speaker.cut()
        self._sentences = Sentences()
        self._is_muted, self._turn = self._turn is not None, None
        self._tell((turn, cleared))
        return True

    # Towards the application.

    def _tell(self, event):
        """Queues a message, or an interruption whose extent is not known yet."""
        if self._events.full():
            self._log("the application is too slow: an event is left out")
        else:
            self._events.put_nowait(event)

    async def _tell_events(self):
        while True:
            event = await self._events.get()
            if isinstance(event, tuple):
                turn, cleared = event
                await cleared
                event = messages.interrupt(*turn.heard())
            elif event["type"] == "dtmf":
                self._next_turn()
            await self._app.send(event)
            self._events.task_done()

    async def _tell_utterances(self):
        while True:
            utterance = await self._utterances.get()
            language = self._call.stt_language
            try:
                text = await self._servers.to_text(utterance, language)
            except speech.SpeechError as error:
                await self._complain(str(error))
                self._failures += 1
                if self._failures >= FAILURES_MAX:
                    raise speakers.Failed(f"{FAILURES_MAX} failures in a row, the last: {error}") from error
                continue
            self._failures = 0
            # The interruption comes before what interrupted.
            await self._events.join()
            if text and not self._ending:
                self._next_turn()
                await self._app.send(messages.prompt(text, language))

    def _next_turn(self):
        """What the application says from now on answers what it is told now."""
        self._flush_late()
        self._is_muted, self._turn = False, None

    async def _complain(self, description):
        self._log(f"error: {description}")
        await self._app.send(messages.error(description))

    # The application.

    async def _hear_application(self):
        while True:
            try:
                message = messages.read(await self._app.receive())
                self._obey(message)
                self._invalid = 0
            except messages.Garbage as error:
                await self._complain(f"Invalid message received: {error}")
                raise speakers.Failed(f"the application sent garbage: {error}") from error
            except (messages.Invalid, speakers.Full) as error:
                await self._complain(f"Invalid message received: {error}")
                self._invalid += 1
                if self._invalid >= INVALID_MAX:
                    raise speakers.Failed(f"{INVALID_MAX} messages in a row of no use, the last: {error}") from error
            if self._ending:
                await self._speaker.silence()
                raise Over(self._ending)

    def _obey(self, message):
        kind = message["type"]
        if kind == "language":
            self._call.tts_language = message["ttsLanguage"] or self._call.tts_language
            self._call.stt_language = message["transcriptionLanguage"] or self._call.stt_language
        elif kind == "end":
            self._flush_late()
            self._ending = "the application said end"
            if message["handoffData"] is not None:
                self._log(f"handoffData: {message['handoffData']!r}")
        elif kind == "text":
            self._say(message)
        elif not self._is_muted:
            self._make_way()
            self._flush()
            # Nothing says where a turn of these ends: each is one of its own, or part of a text's.
            self._speaker.add(self._segment(message, self._turn or Turn()))

    def _segment(self, message, turn):
        if message["type"] == "sendDigits":
            return Digits(turn, message["digits"])
        return Sound(turn, message["source"], message["loop"], *self._rules(message))

    def _rules(self, message):
        """Who may interrupt it, and whether the next turn may."""
        kinds, preemptible = message["interruptible"], message["preemptible"]
        return (self._call.interruptible if kinds is None else kinds,
                self._call.preemptible if preemptible is None else preemptible)

    def _say(self, message):
        if not self._is_muted:
            self._make_way()
            self._turn = self._turn or Turn()
            talk = (self._call.voice_for(message["lang"] or self._call.tts_language), *self._rules(message))
            if talk != self._talk:
                self._flush()
            self._talk = talk
            self._add(self._sentences.feed(message["token"]))
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_late)
        if message["last"]:
            self._flush()
            self._next_turn()

    def _make_way(self):
        """A new turn ends an earlier one that allows it."""
        if self._timer:
            self._timer.cancel()
        pending = self._speaker.pending()
        if self._turn is None and pending and all(segment.preemptible for segment in pending):
            self._speaker.cut()

    def _flush(self):
        self._add(self._sentences.flush())

    def _flush_late(self):
        # Nobody waits for this one: what is too much was said to be so already.
        with contextlib.suppress(speakers.Full):
            self._flush()

    def _add(self, sentences):
        for text in sentences:
            self._speaker.add(Sentence(self._turn, text, *self._talk))
