#!/usr/bin/env python3
"""Twilio's ConversationRelay as a worker of sipbridge.

It takes a call's media stream, turns what the caller says to text and the texts of your
application to speech, and talks with the application in Twilio's messages (setup, prompt,
interrupt, dtmf, error; text, play, sendDigits, language, end). Both servers of speech are
asked in the form of OpenAI's interface.

Needs Python 3.11 and:  pip install websockets

    ./relay.py --listen 9000 --app-url wss://bot.example.net/relay \\
        --stt-url http://127.0.0.1:8000 --tts-url http://127.0.0.1:8000
    sipbridge … --ws-target ws://127.0.0.1:9000/

What <ConversationRelay> has as attributes may come as parameters of the call (--param of the
bridge, customParameters of a line): url, welcomeGreeting, welcomeGreetingInterruptible,
interruptible, preemptible, language, ttsLanguage, transcriptionLanguage, voice,
dtmfDetection, reportInputDuringAgentSpeech. They win over the flags. All other parameters
are told to the application as customParameters.

Environment: SPEECH_API_KEY is sent to both servers of speech as a bearer token;
with TWILIO_AUTH_TOKEN the connection to the application is signed as Twilio signs it.
"""
import argparse
import asyncio
import os

from relay import messages, speech, web
from relay.server import Server


def language_voice(text):
    language, _, voice = text.partition("=")
    if not language or not voice:
        raise argparse.ArgumentTypeError(f"{text!r}: need LANGUAGE=VOICE, such as fr-FR=estelle")
    return language, voice


def number(low, high):
    def read(text):
        if not text.lstrip("-").isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: need a number from {low} to {high}")
        return int(text)
    return read


def address(default_path, schemes):
    def read(text):
        try:
            web.check_url(text, schemes)
            return web.with_default_path(text, default_path) if default_path else text
        except web.WebError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return read


def interruptible(text):
    try:
        messages.interruptible(text)
    except messages.Invalid as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", type=number(0, 65535), required=True, metavar="PORT",
                        help="where the bridge dials; 0: any, which is printed")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--app-url", type=address(None, ("ws", "wss")), help="the application, unless a call names its own")
    parser.add_argument("--stt-url", type=address(speech.STT_PATH, ("http", "https")), required=True,
                        help=f"speech to text; without a path: {speech.STT_PATH}")
    parser.add_argument("--tts-url", type=address(speech.TTS_PATH, ("http", "https")), required=True,
                        help=f"text to speech; without a path: {speech.TTS_PATH}")
    parser.add_argument("--stt-model", default="whisper-1")
    parser.add_argument("--tts-model", default="tts-1")
    parser.add_argument("--voice", default="alloy")
    parser.add_argument("--language-voice", type=language_voice, action="append", default=[],
                        metavar="LANGUAGE=VOICE", help="the voice of a language; may be repeated")
    parser.add_argument("--language", default="en-US", help="of both directions")
    parser.add_argument("--greeting", default="", help="said first, unless a call has its own welcomeGreeting")
    parser.add_argument("--interruptible", type=interruptible, default="any", help="none, dtmf, speech or any")
    parser.add_argument("--dtmf", action="store_true", help="tell the application of keys that the caller presses")
    parser.add_argument("--speech-level-db", type=number(-90, 0), default=-40, metavar="DB",
                        help="what is quieter is no speech (-40)")
    parser.add_argument("--silence-ms", type=number(100, 5000), default=700, metavar="MS",
                        help="silence that ends what a caller says (700)")
    parser.add_argument("--interrupt-ms", type=number(20, 5000), default=300, metavar="MS",
                        help="speech that interrupts the application (300)")
    parser.add_argument("--on-failure", choices=("hang-up", "hand-over"), default="hang-up",
                        help="hand-over: the call goes on with another worker, or the line's fallback")
    parser.add_argument("--max-calls", type=number(1, 1000), default=50, metavar="N", help="at once (50)")
    parser.add_argument("--calls", type=number(1, 10**9), metavar="N", help="exit after so many calls")
    read = parser.parse_args()
    read.auth_token = os.environ.get("TWILIO_AUTH_TOKEN")
    return read


if __name__ == "__main__":
    given = flags()
    servers = speech.Speech(given.stt_url, given.tts_url, given.stt_model, given.tts_model,
                            os.environ.get("SPEECH_API_KEY"))
    asyncio.run(Server(given, servers).run())
