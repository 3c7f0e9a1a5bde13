"""WAV as speech servers stream it, to mu-law at 8 kHz; and WAV of what a caller said."""
import array
import functools
import math
import operator
import struct
import sys

from . import g711

HEADER_BYTES_MAX = 64 * 1024
RATES_HZ = range(8000, 48001)
PCM, ALAW, ULAW, EXTENSIBLE = 1, 6, 7, 0xFFFE
# Positions between two samples that the resampler knows. 24 and 16 kHz need one.
PHASES = 64
# Zero crossings of the filter on each side.
LOBES = 8


class BadWav(Exception):
    """What came is no WAV that can be played."""


def of_ulaw(ulaw):
    """A WAV file, 16-bit at 8 kHz, of mu-law."""
    samples = struct.pack(f"<{len(ulaw)}h", *g711.decode(ulaw))
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, PCM, 1, g711.RATE_HZ, 2 * g711.RATE_HZ, 2, 16)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(fmt) + len(data), b"WAVE") + fmt + data


class Reader:
    """Takes a WAV file piece by piece, as it comes, and gives mu-law at 8 kHz.

    A length that is not known (0, or all ones, as streaming servers write it) means
    everything up to the end. What stands behind a known length is not audio.
    """

    def __init__(self):
        self._head = bytearray()
        self._rest = b""
        self._left = None
        self._format = None
        self._resampler = None

    def feed(self, piece):
        """Mu-law of what is complete now."""
        if self._resampler is None:
            self._head += piece
            piece = self._read_header()
            if piece is None:
                if len(self._head) > HEADER_BYTES_MAX:
                    raise BadWav(f"no audio within the first {HEADER_BYTES_MAX} bytes of a WAV file")
                return b""
        if self._left is not None:
            piece = piece[:self._left]
            self._left -= len(piece)
        return g711.encode(self._resampler.feed(self._samples(piece)))

    def finish(self):
        """Mu-law of what the resampler still holds."""
        if self._resampler is None:
            raise BadWav("not a WAV file, or one that ends before its audio: ask for response_format wav")
        return g711.encode(self._resampler.finish())

    def _read_header(self):
        """The bytes behind the header, or None while it is not complete."""
        head = bytes(self._head)
        if len(head) >= 12 and (head[:4], head[8:12]) != (b"RIFF", b"WAVE"):
            raise BadWav("not a WAV file: ask for response_format wav, or play WAV files")
        at = 12
        while len(head) >= at + 8:
            name, size = struct.unpack_from("<4sI", head, at)
            at += 8
            if name == b"data":
                return self._begin(head[at:], size)
            if len(head) < at + size:
                return None
            if name == b"fmt ":
                self._read_format(head[at:at + size])
            at += size + size % 2
        return None

    def _read_format(self, chunk):
        if len(chunk) < 16:
            raise BadWav("a WAV file whose format is cut off")
        code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
        if code == EXTENSIBLE and len(chunk) >= 26:
            code = struct.unpack_from("<H", chunk, 24)[0]
        fits = (code, bits) in ((PCM, 8), (PCM, 16), (ALAW, 8), (ULAW, 8))
        if not fits or rate not in RATES_HZ or channels not in (1, 2):
            raise BadWav(f"WAV of format {code}, {bits} bits, {rate} Hz, {channels} channels: "
                         "need PCM of 8 or 16 bits, A-law or mu-law, 8 to 48 kHz, one or two channels")
        self._format = code, bits, channels
        self._rate = rate

    def _begin(self, audio, size):
        if self._format is None:
            raise BadWav("a WAV file with audio before its format")
        self._left = None if size in (0, 0xFFFFFFFF, 0x7FFFFFFF) else size
        self._resampler = Resampler(self._rate)
        self._head.clear()
        return audio

    def _samples(self, piece):
        """16-bit samples of one channel. An odd end waits for what follows."""
        code, bits, channels = self._format
        piece = self._rest + piece
        whole = len(piece) - len(piece) % (channels * bits // 8)
        piece, self._rest = piece[:whole], piece[whole:]
        if bits == 16:
            samples = array.array("h", piece)
            if sys.byteorder == "big":
                samples.byteswap()
        elif code == PCM:
            samples = [(byte - 128) << 8 for byte in piece]
        else:
            table = g711.ALAW_TO_PCM if code == ALAW else g711.ULAW_TO_PCM
            samples = [table[byte] for byte in piece]
        if channels == 2:
            samples = [(left + right) >> 1 for left, right in zip(samples[::2], samples[1::2])]
        return samples


@functools.lru_cache(maxsize=16)
def _filters(rate):
    """Low-pass filters (windowed sinc) for each position between two samples."""
    step = rate / g711.RATE_HZ
    reach = math.ceil(LOBES * step)
    filters = []
    for phase in range(PHASES):
        taps = []
        for n in range(1 - reach, reach + 1):
            at = (n - phase / PHASES) / step
            window = 0.5 + 0.5 * math.cos(math.pi * at / LOBES) if abs(at) < LOBES else 0.0
            # A little below half the new rate: nothing above it is folded back.
            sinc = math.sin(0.9 * math.pi * at) / (math.pi * at) if at else 0.9
            taps.append(window * sinc)
        total = sum(taps)
        filters.append([tap / total for tap in taps])
    return filters, reach


class Resampler:
    """Samples at any rate of RATES_HZ to 8 kHz, piece by piece."""

    def __init__(self, rate):
        self._rate = rate
        # The position of the next sample to give, in units of 1 / 8000 of an old sample.
        self._at = 0
        if rate != g711.RATE_HZ:
            self._filters, self._reach = _filters(rate)
            self._held = [0] * (self._reach - 1)

    def feed(self, samples):
        if self._rate == g711.RATE_HZ:
            return samples
        held, out, reach = self._held, [], self._reach
        held += samples
        while True:
            whole, part = divmod(self._at, g711.RATE_HZ)
            window = held[whole:whole + 2 * reach]
            if len(window) < 2 * reach:
                break
            taps = self._filters[part * PHASES // g711.RATE_HZ]
            value = round(sum(map(operator.mul, window, taps)))
            out.append(max(-32768, min(32767, value)))
            self._at += self._rate
        gone = min(self._at // g711.RATE_HZ, len(held))
        del held[:gone]
        self._at -= gone * g711.RATE_HZ
        return out

    def finish(self):
        return [] if self._rate == g711.RATE_HZ else self.feed([0] * self._reach)
