"""Speech to text and text to speech, behind addresses of the form that OpenAI's have."""
import contextlib
import json
import secrets
import time

from . import g711, wav, web

STT_PATH = "/v1/audio/transcriptions"
TTS_PATH = "/v1/audio/speech"
TRANSCRIPT_CHARS_MAX = 8000
ANSWER_BYTES_MAX = 64 * 1024
# Two minutes of 48 kHz stereo: one sentence, and then some.
SPEECH_BYTES_MAX = 24 * 1024 * 1024
SOUND_BYTES_MAX = 24 * 1024 * 1024
# What one sentence or file may last, in mu-law.
SPEECH_S_MAX = 120
SOUND_S_MAX = 600
STT_TIMEOUT_S = 20


class SpeechError(Exception):
    """Something could not be heard or said; the text says what to look at."""


class Speech:
    """The two servers, with the models and the key they are asked by."""

    def __init__(self, stt_url, tts_url, stt_model, tts_model, api_key=None):
        self._stt_url, self._tts_url = stt_url, tts_url
        self._stt_model, self._tts_model = stt_model, tts_model
        self._authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def to_text(self, ulaw, language):
        """What somebody said; empty when it was nothing."""
        fields = {"model": self._stt_model, "response_format": "json"}
        if language:
            # `fr-FR` is `fr` there.
            fields["language"] = language.split("-")[0].lower()
        content_type, body = _multipart(fields, wav.of_ulaw(ulaw))
        headers = {"Content-Type": content_type, **self._authorization}
        try:
            answer = await web.fetch("POST", self._stt_url, body, headers, ANSWER_BYTES_MAX, STT_TIMEOUT_S)
            text = json.loads(answer)["text"]
        except web.WebError as error:
            raise SpeechError(f"speech to text failed: {error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SpeechError(f"speech to text failed: {self._stt_url} answered no JSON with a text") from error
        if not isinstance(text, str) or len(text) > TRANSCRIPT_CHARS_MAX:
            raise SpeechError(f"speech to text failed: need a text of at most {TRANSCRIPT_CHARS_MAX} characters")
        return text.strip()

    async def to_speech(self, text, voice):
        """Pieces of mu-law, as they are made."""
        asked = {"model": self._tts_model, "voice": voice, "input": text, "response_format": "wav"}
        headers = {"Content-Type": "application/json", **self._authorization}
        pieces = web.stream("POST", self._tts_url, json.dumps(asked).encode(), headers, SPEECH_BYTES_MAX)
        async with contextlib.aclosing(_ulaw(pieces, SPEECH_S_MAX, "text to speech failed")) as made:
            async for piece in made:
                yield piece


async def sound(url):
    """A whole WAV file from the application's address, as mu-law."""
    pieces = web.stream("GET", url, limit=SOUND_BYTES_MAX, follow=True)
    async with contextlib.aclosing(_ulaw(pieces, SOUND_S_MAX, "cannot play")) as made:
        return b"".join([piece async for piece in made])


async def _ulaw(pieces, seconds_max, what):
    """Mu-law of a WAV file's pieces. Only waiting for them counts against the time."""
    reader, left, waited_s = wav.Reader(), seconds_max * g711.RATE_HZ, 0.0
    try:
        async with contextlib.aclosing(pieces):
            while True:
                since = time.monotonic()
                piece = await anext(pieces, None)
                waited_s += time.monotonic() - since
                if waited_s > seconds_max:
                    raise SpeechError(f"{what}: not over after {seconds_max} s")
                ulaw = reader.finish() if piece is None else reader.feed(piece)
                left -= len(ulaw)
                if left < 0:
                    raise SpeechError(f"{what}: more than {seconds_max} s of audio: refused")
                yield ulaw
                if piece is None:
                    return
    except (web.WebError, wav.BadWav) as error:
        raise SpeechError(f"{what}: {error}") from error


def _multipart(fields, audio):
    """A form with a file, as browsers send it."""
    boundary = secrets.token_hex(16)
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
             for name, value in fields.items()]
    head = 'Content-Disposition: form-data; name="file"; filename="utterance.wav"\r\nContent-Type: audio/wav'
    parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + audio + b"\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join(parts) + f"--{boundary}--\r\n".encode()
