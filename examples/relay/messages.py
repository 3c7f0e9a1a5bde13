"""Twilio's messages of ConversationRelay, read from the application and written to it."""
import json
import secrets

from . import web

MESSAGE_BYTES_MAX = 64 * 1024
TOKEN_CHARS_MAX = 10_000
DIGITS_MAX = 64
SOURCE_CHARS_MAX = 2048
HANDOFF_CHARS_MAX = 16_384
# What Twilio plays for `loop` 0.
LOOPS_MAX = 1000
INTERRUPTIBLE = {"none": frozenset(), "dtmf": frozenset({"dtmf"}), "speech": frozenset({"speech"}),
                 "any": frozenset({"dtmf", "speech"})}
# As they are called in the `start` of the media stream, whatever a line's parameters are.
OF_THE_BRIDGE = ("callerPhone", "to", "direction", "forwardedFrom", "callerName")


class Garbage(Exception):
    """What came is no message at all: whoever sends it speaks another protocol."""


class Invalid(Exception):
    """A message that Twilio would refuse; the conversation goes on without it."""


def interruptible(value):
    """`none`, `dtmf`, `speech` or `any`; true and false are `any` and `none`."""
    name = {"true": "any", "false": "none"}.get(str(value).lower(), str(value).lower())
    if name not in INTERRUPTIBLE:
        raise Invalid(f"interruptible is {str(value)[:40]!r}: need none, dtmf, speech, any, true or false")
    return INTERRUPTIBLE[name]


def read(text):
    """One message of the application, with every field checked and none beyond."""
    if not isinstance(text, str):
        raise Garbage("a binary message: need JSON as text")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Garbage(f"not JSON: {text[:200]!r}") from error
    if not isinstance(message, dict):
        raise Garbage(f"not a JSON object: {text[:200]!r}")
    kind = message.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise Invalid(f"type is {str(kind)[:40]!r}: need one of {', '.join(_READERS)}")
    return {"type": kind, **reader(message)}


def _text(message):
    return {"token": _string(message, "token", TOKEN_CHARS_MAX, is_needed=True),
            "last": _flag(message, "last", False), "lang": _string(message, "lang", 35), **_talk(message)}


def _play(message):
    source = _string(message, "source", SOURCE_CHARS_MAX, is_needed=True)
    try:
        web.check_url(source)
    except web.WebError as error:
        raise Invalid(f"source: {error}") from error
    loop = message.get("loop")
    loop = 1 if loop is None else loop
    if isinstance(loop, bool) or not isinstance(loop, int) or not 0 <= loop <= LOOPS_MAX:
        raise Invalid(f"loop is {str(loop)[:40]!r}: need a number from 0 to {LOOPS_MAX}")
    return {"source": source, "loop": loop or LOOPS_MAX, **_talk(message)}


def _digits(message):
    digits = _string(message, "digits", DIGITS_MAX, is_needed=True)
    if not digits or set(digits) - set("0123456789*#w"):
        raise Invalid(f"digits are {digits!r}: need 0 to 9, *, # and w (half a second)")
    return {"digits": digits}


def _language(message):
    names = "ttsLanguage", "transcriptionLanguage"
    languages = {name: _string(message, name, 35) for name in names}
    if not any(languages.values()):
        raise Invalid(f"need {' or '.join(names)}")
    return languages


def _end(message):
    return {"handoffData": _string(message, "handoffData", HANDOFF_CHARS_MAX)}


_READERS = {"text": _text, "play": _play, "sendDigits": _digits, "language": _language, "end": _end}


def _talk(message):
    """What of text and play says who may interrupt it. None: as the call says."""
    value = message.get("interruptible")
    return {"interruptible": None if value is None else interruptible(value),
            "preemptible": _flag(message, "preemptible", None)}


def _string(message, name, chars_max, is_needed=False):
    value = message.get(name)
    if value is None and not is_needed:
        return None
    if not isinstance(value, str) or len(value) > chars_max:
        raise Invalid(f"{name} of {message['type']}: need a string of at most {chars_max} characters")
    return value


def _flag(message, name, default):
    value = message.get(name)
    if value is None:
        return default
    # Some applications write booleans as strings, and Twilio takes them.
    value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise Invalid(f"{name} of {message['type']}: need true or false")
    return value


def setup(start, parameters):
    """The first message to the application: who calls whom, and what the line says."""
    told = {name: start["customParameters"].get(name, "") for name in OF_THE_BRIDGE}
    inbound = told["direction"] != "outbound"
    # Placed calls: `callerPhone` is the line, `to` is who is called. As at Twilio.
    caller = told["callerPhone"]
    is_number = caller.lstrip("+").isdigit() or caller in ("", "anonymous")
    return {"type": "setup", "sessionId": "VX" + secrets.token_hex(16), "accountSid": start.get("accountSid", ""),
            "parentCallSid": "", "callSid": start["callSid"], "from": caller, "to": told["to"],
            "forwardedFrom": told["forwardedFrom"], "callType": "PSTN" if is_number else "SIP",
            "callerName": told["callerName"], "direction": told["direction"] or "inbound",
            "callStatus": "RINGING" if inbound else "IN-PROGRESS", "customParameters": parameters}


def prompt(text, language):
    return {"type": "prompt", "voicePrompt": text, "lang": language, "last": True}


def interrupt(utterance, duration_ms):
    return {"type": "interrupt", "utteranceUntilInterrupt": utterance, "durationUntilInterruptMs": duration_ms}


def dtmf(digit):
    return {"type": "dtmf", "digit": digit}


def error(description):
    return {"type": "error", "description": description}
