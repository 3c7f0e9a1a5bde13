"""Says things to the caller one after the other, and knows by marks what was heard."""
import asyncio
import base64
import collections
import contextlib

from . import g711, sockets, speech, turns

QUEUED_MAX = 200
QUEUED_CHARS_MAX = 20_000
# The bridge holds ten minutes; what is beyond this waits here.
AHEAD_MS_MAX = 60_000
# A message of audio: the first of a sentence leaves early, none is long.
PIECE_BYTES_MIN, PIECE_BYTES_MAX = 1600, 8000
# A call on hold plays nothing for as long as it is held.
MARK_WAIT_S = 900
CLEAR_WAIT_S = 2
# One by RFC 4733, with the pause behind it; and what `w` stands for.
DIGIT_S, PAUSE_S = 0.25, 0.5
FAILURES_MAX = 3


class Full(Exception):
    """More to say than is kept."""


class Failed(Exception):
    """The caller cannot be talked to any more."""


class Speaker:
    """`line.send(event, **fields)` writes to the bridge; `complain(text)` tells the application."""

    def __init__(self, line, servers, complain):
        self._line, self._servers, self._complain = line, servers, complain
        self._queue = collections.deque()
        self._queued = asyncio.Event()
        self._current = self._task = self._clearing = None
        # Marks that have not come back: name, ms of audio before it, its segment.
        self._waiting = collections.deque()
        self._echoed = asyncio.Event()
        self._cuts = {}
        self._marks = 0
        self._failures = 0

    @property
    def is_busy(self):
        """Whether something is being said, or about to be."""
        return bool(self._queue or self._current or self._waiting)

    def add(self, segment):
        """Queues it. Full: it is not said."""
        chars = len(segment.text) + sum(len(queued.text) for queued in self._queue)
        if len(self._queue) >= QUEUED_MAX or chars > QUEUED_CHARS_MAX:
            raise Full(f"more than {QUEUED_MAX} sentences or {QUEUED_CHARS_MAX} characters wait to be said: "
                       "send less, or wait until they are")
        self._queue.append(segment)
        self._queued.set()

    def pending(self):
        """All that was not heard to its end, the oldest first."""
        heard_now = [segment for _, _, segment in self._waiting if segment]
        now = [self._current] if self._current and self._current not in heard_now else []
        return heard_now + now + list(self._queue)

    def cut(self):
        """Ends everything at once. The turn that was heard, and what to await before asking it how much."""
        pending = self.pending()
        self._queue.clear()
        if self._task:
            self._task.cancel()
        # Comes back behind all marks of what is cleared, also one that was never sent.
        name = self._next_mark()
        self._waiting.append((name, 0, None))
        cleared = self._cuts[name] = asyncio.get_running_loop().create_future()
        # Kept: nobody else may hold it while it waits.
        self._clearing = asyncio.create_task(self._clear(name, cleared))
        return (pending[0].turn if pending else None), self._clearing

    async def _clear(self, name, cleared):
        # A bridge that is gone is noticed by whoever reads from it.
        with contextlib.suppress(sockets.Lost):
            await self._line.send("clear")
            await self._line.send("mark", mark={"name": name})
            await asyncio.wait({cleared}, timeout=CLEAR_WAIT_S)
        self._cuts.pop(name, None)

    def mark_came(self, mark):
        """What the bridge says of how much was heard. Names that are not ours mean nothing."""
        name = mark.get("name")
        if not any(name == waiting for waiting, _, _ in self._waiting):
            return
        while True:
            waiting, ms, segment = self._waiting.popleft()
            is_it = waiting == name
            if segment:
                # Without the additions of the bridge: heard, unless it was cut off.
                told = mark.get("playedMs", 0 if self._cuts else ms) if is_it else 0
                segment.heard_ms += max(0, min(ms, told)) if isinstance(told, int) else ms
            if waiting in self._cuts and not self._cuts[waiting].done():
                self._cuts[waiting].set_result(None)
            if is_it:
                break
        self._echoed.set()

    async def silence(self):
        """Returns when all that was queued has been heard."""
        while self.is_busy:
            await self._wait_for_mark()

    async def run(self):
        """Says what is queued. Ends only by Failed, or when it is cancelled."""
        try:
            while True:
                await self._queued.wait()
                if not self._queue:
                    self._queued.clear()
                    continue
                self._current = self._queue.popleft()
                self._task = asyncio.create_task(self._perform(self._current))
                await asyncio.wait({self._task})
                task, self._task, self._current = self._task, None, None
                self._echoed.set()
                if not task.cancelled():
                    await self._judge(task.exception())
        finally:
            if self._task:
                self._task.cancel()

    async def _judge(self, error):
        if error is None:
            self._failures = 0
        elif isinstance(error, speech.SpeechError):
            self._failures += 1
            await self._complain(str(error))
            if self._failures >= FAILURES_MAX:
                raise Failed(f"{FAILURES_MAX} failures in a row, the last: {error}")
        else:
            raise error

    async def _perform(self, segment):
        if isinstance(segment, turns.Digits):
            await self._press(segment.digits)
            return
        is_text = isinstance(segment, turns.Sentence)
        pieces = self._servers.to_speech(segment.text, segment.voice) if is_text else _looped(segment)
        held = bytearray()
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                held += piece
                while len(held) >= PIECE_BYTES_MIN:
                    size = min(PIECE_BYTES_MAX, len(held) - len(held) % g711.FRAME_BYTES)
                    await self._send_audio(segment, bytes(held[:size]))
                    del held[:size]
        if held:
            # Whole frames only: the bridge would fill one up in the middle of a word.
            held += g711.SILENCE * (-len(held) % g711.FRAME_BYTES)
            await self._send_audio(segment, bytes(held))
        segment.is_sent = True

    async def _send_audio(self, segment, ulaw):
        ms = len(ulaw) // g711.BYTES_PER_MS
        while sum(waiting for _, waiting, _ in self._waiting) + ms > AHEAD_MS_MAX:
            await self._wait_for_mark()
        name = self._next_mark()
        self._waiting.append((name, ms, segment))
        segment.sent_ms += ms
        await self._line.send("media", media={"payload": base64.b64encode(ulaw).decode()})
        await self._line.send("mark", mark={"name": name})

    async def _press(self, digits):
        # They would be pressed in the middle of what is still being played.
        while self._waiting:
            await self._wait_for_mark()
        for number, group in enumerate(digits.split("w")):
            if number:
                await asyncio.sleep(PAUSE_S)
            if group:
                await self._line.send("dtmf", dtmf={"digits": group})
                await asyncio.sleep(DIGIT_S * len(group))

    def _next_mark(self):
        self._marks += 1
        return f"relay-{self._marks}"

    async def _wait_for_mark(self):
        self._echoed.clear()
        try:
            async with asyncio.timeout(MARK_WAIT_S):
                await self._echoed.wait()
        except TimeoutError as error:
            raise Failed(f"the bridge gave no mark back within {MARK_WAIT_S} s") from error


async def _looped(sound):
    ulaw = await speech.sound(sound.source)
    for _ in range(sound.loop if ulaw else 0):
        for at in range(0, len(ulaw), PIECE_BYTES_MAX):
            yield ulaw[at:at + PIECE_BYTES_MAX]
