"""What the application has to say, and how much of it the caller has heard."""

# Of one turn, for what an interruption tells; earlier ones are forgotten.
SEGMENTS_MAX = 200
# Where a sentence's audio is not complete, its length is guessed.
MS_PER_CHAR = 60


class Turn:
    """All that the application says in one go."""

    def __init__(self):
        self._segments = []
        self._forgotten_ms = 0

    def add(self, segment):
        self._segments.append(segment)
        if len(self._segments) > SEGMENTS_MAX:
            self._forgotten_ms += self._segments.pop(0).heard_ms

    def heard(self):
        """The text that was heard, and for how long."""
        texts = [segment.heard_text() for segment in self._segments]
        heard_ms = self._forgotten_ms + sum(segment.heard_ms for segment in self._segments)
        return " ".join(text for text in texts if text), heard_ms


class Segment:
    """A sentence, or a sound, on its way to the caller."""

    def __init__(self, turn, text, interruptible, preemptible):
        self.turn, self.text = turn, text
        self.interruptible, self.preemptible = interruptible, preemptible
        self.sent_ms = self.heard_ms = 0
        self.is_sent = False
        turn.add(self)

    def heard_text(self):
        """Whole words, by the share of the audio that was heard."""
        if self.is_sent and self.heard_ms >= self.sent_ms:
            return self.text if self.sent_ms else ""
        whole_ms = self.sent_ms if self.is_sent else max(self.sent_ms, len(self.text) * MS_PER_CHAR)
        chars = len(self.text) * self.heard_ms // whole_ms if whole_ms else 0
        end = self.text.rfind(" ", 0, chars + 1)
        return self.text[:max(end, 0)].strip()


class Sentence(Segment):
    """Text, and the voice that says it."""

    def __init__(self, turn, text, voice, interruptible, preemptible):
        super().__init__(turn, text, interruptible, preemptible)
        self.voice = voice


class Sound(Segment):
    """A WAV file of the application."""

    def __init__(self, turn, source, loop, interruptible, preemptible):
        super().__init__(turn, "", interruptible, preemptible)
        self.source, self.loop = source, loop


class Digits(Segment):
    """Keys to press, after what was said before them."""

    def __init__(self, turn, digits):
        super().__init__(turn, "", frozenset(), False)
        self.digits = digits
