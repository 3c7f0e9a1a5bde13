"""G.711 in tables: Python's own `audioop` is gone since 3.13."""
import math

RATE_HZ = 8000
FRAME_BYTES = 160
FRAME_MS = 20
BYTES_PER_MS = 8
SILENCE = b"\xff"


def _from_ulaw(byte):
    byte = ~byte & 0xFF
    magnitude = (((byte & 0x0F) << 3) + 0x84 << (byte >> 4 & 7)) - 0x84
    return -magnitude if byte & 0x80 else magnitude


def _from_alaw(byte):
    byte ^= 0x55
    exponent, magnitude = byte >> 4 & 7, (byte & 0x0F) << 4
    magnitude += 8 if exponent == 0 else 0x108
    magnitude <<= max(exponent - 1, 0)
    return magnitude if byte & 0x80 else -magnitude


def _to_ulaw(sample):
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32635) + 0x84
    exponent = magnitude.bit_length() - 8
    return ~(sign | exponent << 4 | (magnitude >> (exponent + 3)) & 0x0F) & 0xFF


ULAW_TO_PCM = [_from_ulaw(byte) for byte in range(256)]
ALAW_TO_PCM = [_from_alaw(byte) for byte in range(256)]
# Indexed by the sample itself: negative ones count from the end, as Python does.
PCM_TO_ULAW = bytes(_to_ulaw(n if n < 0x8000 else n - 0x10000) for n in range(0x10000))
_POWER = [sample * sample for sample in ULAW_TO_PCM]
_LOWEST_DB = -96.0


def decode(ulaw):
    """Mu-law bytes to 16-bit samples."""
    return [ULAW_TO_PCM[byte] for byte in ulaw]


def encode(samples):
    """Samples of -32768 to 32767 to mu-law bytes."""
    return bytes([PCM_TO_ULAW[sample] for sample in samples])


def level_db(ulaw):
    """How loud mu-law is: dB below the loudest square wave of 16 bits."""
    power = sum([_POWER[byte] for byte in ulaw])
    if not power:
        return _LOWEST_DB
    return 10 * math.log10(power / len(ulaw) / (32768 * 32768))
