"""What flags say for all calls, and a call's own parameters for that one."""
import dataclasses

from . import messages, web

# Attributes of <ConversationRelay> that are taken from a call's parameters, and are
# therefore not among those that the application is told.
ATTRIBUTES = frozenset((
    "url", "welcomeGreeting", "welcomeGreetingInterruptible", "interruptible", "preemptible", "language",
    "ttsLanguage", "transcriptionLanguage", "voice", "dtmfDetection", "reportInputDuringAgentSpeech"))
# Known to Twilio, and decided by --stt-url and --tts-url here.
NOT_HONOURED = frozenset(("ttsProvider", "transcriptionProvider", "speechModel", "hints", "debug", "profanityFilter"))
GREETING_CHARS_MAX = 4000


class BadSettings(Exception):
    """A call cannot be served as its parameters say; the text says what to change."""


@dataclasses.dataclass
class CallSettings:
    """One call's attributes of <ConversationRelay>."""

    app_url: str
    greeting: str
    greeting_interruptible: frozenset
    interruptible: frozenset
    preemptible: bool
    tts_language: str
    stt_language: str
    voice: str
    dtmf: bool
    reported_while_speaking: frozenset
    language_voices: dict
    # What the application is told as `customParameters`.
    parameters: dict
    ignored: list

    def voice_for(self, language):
        """The voice of a language, or of its first part: fr for fr-FR."""
        voices = self.language_voices
        return voices.get(language) or voices.get(language.split("-")[0]) or self.voice


def of_call(flags, custom):
    """The settings of a call with these parameters."""
    try:
        return _of_call(flags, custom)
    except (messages.Invalid, web.WebError) as error:
        raise BadSettings(str(error)) from error


def _of_call(flags, custom):
    def attribute(name, default):
        return custom.get(name) or default

    app_url = attribute("url", flags.app_url)
    if not app_url:
        raise BadSettings("no application: give --app-url, or the call a parameter url")
    web.check_url(app_url, ("ws", "wss"))
    language = attribute("language", flags.language)
    known = ATTRIBUTES | NOT_HONOURED | set(messages.OF_THE_BRIDGE)
    return CallSettings(
        app_url=app_url,
        # A caller whom an earlier worker of the call has greeted is not greeted again.
        greeting="" if "resumed" in custom else attribute("welcomeGreeting", flags.greeting)[:GREETING_CHARS_MAX],
        greeting_interruptible=messages.interruptible(attribute("welcomeGreetingInterruptible", "any")),
        interruptible=messages.interruptible(attribute("interruptible", flags.interruptible)),
        preemptible=_boolean("preemptible", attribute("preemptible", "false")),
        tts_language=attribute("ttsLanguage", language),
        stt_language=attribute("transcriptionLanguage", language),
        voice=attribute("voice", flags.voice),
        dtmf=_boolean("dtmfDetection", attribute("dtmfDetection", "true" if flags.dtmf else "false")),
        reported_while_speaking=messages.interruptible(attribute("reportInputDuringAgentSpeech", "none")),
        language_voices=dict(flags.language_voice),
        parameters={name: value for name, value in custom.items() if name not in known},
        ignored=sorted(NOT_HONOURED & set(custom)))


def _boolean(name, value):
    if value.lower() not in ("true", "false"):
        raise BadSettings(f"{name} is {value[:40]!r}: need true or false")
    return value.lower() == "true"
