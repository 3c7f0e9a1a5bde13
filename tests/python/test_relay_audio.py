"""The relay's parts that need no call: WAV, levels, sentences, and the bounds of HTTP answers."""
import math
import struct
import sys
import unittest

from relay_stage import EXAMPLES
from standins import Servers, tone, wav

sys.path.insert(0, str(EXAMPLES))
from relay import g711, messages, speech, turns, voice, web  # noqa: E402
from relay.sentences import CHARS_MAX, Sentences  # noqa: E402
from relay.wav import HEADER_BYTES_MAX, BadWav, Reader, of_ulaw  # noqa: E402


def read(file, piece=1000):
    reader = Reader()
    return b"".join(reader.feed(file[at:at + piece]) for at in range(0, len(file), piece)) + reader.finish()


def header(code=1, channels=1, rate=8000, bits=16):
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, 0, 0, bits)
    return struct.pack("<4sI4s", b"RIFF", 0, b"WAVE") + fmt + struct.pack("<4sI", b"data", 0)


class Audio(unittest.TestCase):
    def test_g711_there_and_back(self):
        self.assertEqual(g711.encode(g711.decode(bytes(range(0, 127)))), bytes(range(0, 127)))
        self.assertEqual((g711.ULAW_TO_PCM[0xFF], g711.ULAW_TO_PCM[0x00], g711.ULAW_TO_PCM[0x80]), (0, -32124, 32124))
        self.assertEqual((g711.ALAW_TO_PCM[0xD5], g711.ALAW_TO_PCM[0x2A], g711.ALAW_TO_PCM[0xAA]), (8, -32256, 32256))
        self.assertLess(g711.level_db(g711.SILENCE * 160), -90)
        self.assertAlmostEqual(g711.level_db(read(wav(tone(200)))), 20 * math.log10(8000 / 32768) - 3, delta=0.5)

    def test_every_rate_becomes_8_khz_with_its_tone(self):
        for rate in (8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000):
            for piece in (1, 997) if rate == 24_000 else (997,):
                samples = g711.decode(read(wav(tone(400, 500, rate), 0, rate), piece))
                self.assertAlmostEqual(len(samples), 3200, delta=8)
                # 500 Hz crosses zero 400 times in 400 ms.
                rising = sum(a < 0 <= b for a, b in zip(samples, samples[1:]))
                self.assertAlmostEqual(rising, 200, delta=2)

    def test_what_is_above_4_khz_is_not_folded_back(self):
        self.assertLess(g711.level_db(read(wav(tone(400, 5500)))), -45)

    def test_lengths_that_are_known_and_not(self):
        for size, played in ((None, 100), (0, 100), (0xFFFFFFFF, 100), (800, 50)):
            self.assertEqual(len(read(wav(tone(100, rate=8000), size, 8000))), played * 8)
        odd = wav(tone(100, rate=8000), 0, 8000) + b"\x01"
        self.assertEqual(len(read(odd)), 800, "half a sample at the end")

    def test_other_encodings(self):
        for code, bits in ((1, 8), (6, 8), (7, 8)):
            self.assertEqual(len(read(header(code, bits=bits) + bytes(80))), 80)
        self.assertEqual(len(read(header(channels=2) + bytes(80))), 20)

    def test_what_is_no_wav_is_refused(self):
        for file in (b"", b"ID3" + bytes(100), b"RIFF", b"RIFF1234WAVEdata\0\0\0\0", header(3, bits=32), header(rate=4000),
                     header(rate=96_000), header(channels=6), header(bits=24), header(6, bits=16),
                     b"RIFF1234WAVEfmt \x02\0\0\0\0\0data\0\0\0\0", b"RIFF1234WAVELIST\xff\xff\xff\x7f" + bytes(HEADER_BYTES_MAX)):
            with self.assertRaises(BadWav, msg=file[:40]):
                read(file)

    def test_what_a_caller_said_is_a_wav(self):
        ulaw = bytes(range(256)) * 2
        self.assertEqual(g711.decode(read(of_ulaw(ulaw))), g711.decode(ulaw))

    def test_a_noisy_line_is_no_voice_for_long(self):
        ear = voice.Ear(-60, 700)
        hiss = g711.encode([300 if n % 2 else -300 for n in range(160)])
        loud = g711.encode([9000 if n % 2 else -9000 for n in range(160)])
        for _ in range(1500):
            ear.hear(hiss)
        self.assertEqual(ear.voiced_ms, 0)
        self.assertIsNone(ear.hear(loud))
        self.assertEqual(ear.voiced_ms, 20)

    def test_an_endless_utterance_is_cut(self):
        ear, loud = voice.Ear(-40, 700), g711.encode([9000, -9000] * 80)
        # With the short pauses of any speech: what has none is noise.
        frames = ((loud if n % 10 else g711.SILENCE * 160) for n in range(1, 3100))
        utterances = [found for found in map(ear.hear, frames) if found]
        self.assertEqual([len(found) for found in utterances], [30_000 * 8] * 2)
        self.assertEqual([len(frame) for frame in ear.frames(bytes(399))], [160, 160])
        self.assertEqual(len(ear.frames(b"x")), 0)
        self.assertEqual(len(ear.frames(bytes(80))), 1)


class Text(unittest.TestCase):
    def test_sentences(self):
        sentences = Sentences()
        self.assertEqual(sentences.feed("It is 3.5 km. \"Really?\" Yes"), ["It is 3.5 km.", "\"Really?\""])
        self.assertEqual(sentences.feed(" "), [])
        self.assertEqual(sentences.flush(), ["Yes"])
        self.assertEqual(sentences.feed("好的。再见"), ["好的。"])
        self.assertEqual(sentences.flush() + sentences.flush(), ["再见"])
        self.assertEqual(sentences.feed("... \n - \n"), [], "nothing to pronounce")
        for text in ("word " * 200, "x" * 1000):
            pieces = sentences.feed(text) + sentences.flush()
            self.assertEqual("".join(pieces).replace(" ", ""), text.replace(" ", ""))
            self.assertLessEqual(max(map(len, pieces)), CHARS_MAX)

    def test_heard_are_whole_words(self):
        segment = turns.Sentence(turns.Turn(), "One two three.", "alloy", frozenset(), False)
        self.assertEqual(segment.heard_text(), "")
        segment.sent_ms, segment.is_sent = 1400, True
        for heard_ms, text in ((0, ""), (250, ""), (400, "One"), (900, "One two"), (1400, "One two three.")):
            segment.heard_ms = heard_ms
            self.assertEqual(segment.turn.heard(), (text, heard_ms))

    def test_a_turn_without_end_keeps_its_length_only(self):
        turn = turns.Turn()
        for _ in range(turns.SEGMENTS_MAX + 5):
            segment = turns.Sentence(turn, "Yes.", "alloy", frozenset(), False)
            segment.sent_ms = segment.heard_ms = 10
            segment.is_sent = True
        text, heard_ms = turn.heard()
        self.assertEqual((len(text.split()), heard_ms), (turns.SEGMENTS_MAX, 10 * (turns.SEGMENTS_MAX + 5)))

    def test_messages_are_read(self):
        read_one = messages.read('{"type":"text","token":"a","last":"true","lang":null,"more":1}')
        self.assertEqual(read_one, {"type": "text", "token": "a", "last": True, "lang": None,
                                    "interruptible": None, "preemptible": None})
        forever = messages.read('{"type":"play","source":"https://a.example/b.wav","loop":0}')
        self.assertEqual(forever["loop"], messages.LOOPS_MAX)


class Bounds(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.servers = Servers()
        self.speech = speech.Speech(self.servers.url + speech.STT_PATH, self.servers.url + speech.TTS_PATH, "a", "b")

    def tearDown(self):
        self.servers.close()

    async def spoken(self):
        return b"".join([piece async for piece in self.speech.to_speech("Hello.", "alloy")])

    async def test_speech_that_is_too_long_is_refused(self):
        self.servers.tts = 200, wav(bytes(16_000 * 121), rate=8000)
        with self.assertRaisesRegex(speech.SpeechError, "more than 120 s of audio: refused"):
            await self.spoken()

    async def test_answers_that_are_too_large_are_refused(self):
        self.servers.files["/big.wav"] = 200, bytes(1001)
        with self.assertRaisesRegex(web.WebError, "more than 1000 bytes: refused"):
            await web.fetch("GET", self.servers.url + "/big.wav", limit=1000)
        self.servers.stt = 200, b'{"text": "' + b"x" * (speech.TRANSCRIPT_CHARS_MAX + 1) + b'"}'
        with self.assertRaisesRegex(speech.SpeechError, "at most 8000 characters"):
            await self.speech.to_text(bytes(1600), "en")

    async def test_redirects_end(self):
        self.servers.files["/a"] = 302, b"", "/a"
        with self.assertRaisesRegex(speech.SpeechError, "more than 3 redirects"):
            await speech.sound(self.servers.url + "/a")
        self.servers.files["/b"] = 302, b"", "file:///etc/passwd"
        with self.assertRaisesRegex(speech.SpeechError, "need http or https"):
            await speech.sound(self.servers.url + "/b")

    async def test_an_answer_that_does_not_come_is_not_waited_for(self):
        with self.assertRaisesRegex(web.WebError, "refused"):
            await web.fetch("GET", "http://127.0.0.1:9/")
        for url in ("http://", "ftp://a/", "http://a:x/", "http://a:0/", "http://[::1/", "http://a/\n"):
            with self.assertRaises(web.WebError, msg=url):
                web.check_url(url)
