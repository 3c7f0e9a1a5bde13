"""Voice activity by energy: when a caller begins and ends to speak."""
import collections

from . import g711

# What was heard before somebody spoke up goes with it: words begin quietly.
PRE_ROLL_FRAMES = 15
# Less voice than this is a click or a breath.
VOICE_MS_MIN = 160
UTTERANCE_MS_MAX = 30_000
# How far above the noise of the line a voice is.
ABOVE_NOISE_DB = 9.0
# Noise that grows is learnt this slowly: nobody speaks so long without a pause.
NOISE_RISE_DB_PER_FRAME = 0.03
NOISE_DB_MIN = -60.0


class Ear:
    """Takes a caller's frames, and gives whole utterances."""

    def __init__(self, level_db, silence_ms):
        self._level_db, self._silence_ms = level_db, silence_ms
        self._noise_db = NOISE_DB_MIN
        self._before = collections.deque(maxlen=PRE_ROLL_FRAMES)
        self._utterance = []
        self._quiet_ms = 0
        self._rest = b""
        # Voice within the utterance that goes on; 0 while nobody speaks.
        self.voiced_ms = 0

    def frames(self, ulaw):
        """Whole frames of what came in pieces of any length."""
        ulaw = self._rest + ulaw
        whole = len(ulaw) - len(ulaw) % g711.FRAME_BYTES
        self._rest = ulaw[whole:]
        return [ulaw[at:at + g711.FRAME_BYTES] for at in range(0, whole, g711.FRAME_BYTES)]

    def hear(self, frame):
        """Takes one frame; the utterance that ends with it, else None."""
        is_voice = self._is_voice(frame)
        if not self._utterance and not is_voice:
            self._before.append(frame)
            return None
        if not self._utterance:
            self._utterance = list(self._before)
            self._before.clear()
        self._utterance.append(frame)
        if is_voice:
            self.voiced_ms += g711.FRAME_MS
            self._quiet_ms = 0
        else:
            self._quiet_ms += g711.FRAME_MS
        is_long = len(self._utterance) * g711.FRAME_MS >= UTTERANCE_MS_MAX
        if self._quiet_ms >= self._silence_ms:
            # The quiet end may be the beginning of what follows.
            self._before.extend(self._utterance[-PRE_ROLL_FRAMES:])
            return self._end()
        return self._end() if is_long else None

    def _is_voice(self, frame):
        level = g711.level_db(frame)
        is_voice = level >= max(self._level_db, self._noise_db + ABOVE_NOISE_DB)
        self._noise_db = max(NOISE_DB_MIN, min(level, self._noise_db + NOISE_RISE_DB_PER_FRAME))
        return is_voice

    def _end(self):
        utterance, is_speech = self._utterance, self.voiced_ms >= VOICE_MS_MIN
        self._utterance, self._quiet_ms, self.voiced_ms = [], 0, 0
        return b"".join(utterance) if is_speech else None
