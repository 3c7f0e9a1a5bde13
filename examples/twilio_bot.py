#!/usr/bin/env python3
"""A bot for Twilio, on Twilio's own library, as it runs against Twilio unchanged.

Needs Python 3.9 and:  pip install twilio flask

    ./twilio_bot.py serve                  answers Twilio's voice webhook
    ./twilio_bot.py call +33612345678 +33972360682     calls the first number from the second
    ./twilio_bot.py hangup CA…             ends a call

Environment:
    TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN  the account
    TWILIO_API_BASE  where the REST API is, such as http://127.0.0.1:8080; Twilio's where it is not given
    BASE_URL         what the webhooks are reached by from outside; needed by `call`, and by `serve` behind a proxy
    STREAM_URL       the Media Streams server of <Stream>; wss://HOST/media where it is not given
    DIAL_TO          whom /dial dials
    BIND, PORT       where `serve` listens: 127.0.0.1 and 5000
"""
import argparse
import os
import sys
from urllib.parse import quote

from flask import Flask, Response, abort, request
from twilio.base.exceptions import TwilioRestException
from twilio.request_validator import RequestValidator
from twilio.rest import Client
from twilio.twiml.voice_response import Connect, VoiceResponse

app = Flask(__name__)
# A webhook is a form of a few fields.
app.config["MAX_CONTENT_LENGTH"] = 64 * 1024


def setting(name):
    value = os.environ.get(name)
    if not value:
        raise SystemExit(f"twilio_bot: {name} is not set (see --help)")
    return value


def client():
    made = Client(setting("TWILIO_ACCOUNT_SID"), setting("TWILIO_AUTH_TOKEN"))
    if os.environ.get("TWILIO_API_BASE"):
        made.api.base_url = os.environ["TWILIO_API_BASE"].rstrip("/")
    return made


def requested_url():
    """The address as Twilio has asked for it: it is part of the signature. Flask's own has accents in place of %C3%A9."""
    base = os.environ.get("BASE_URL") or request.host_url
    query = request.query_string.decode("latin-1")
    return base.rstrip("/") + quote(request.path) + (f"?{query}" if query else "")


@app.before_request
def only_twilio():
    validator = RequestValidator(setting("TWILIO_AUTH_TOKEN"))
    signature = request.headers.get("X-Twilio-Signature", "")
    if not validator.validate(requested_url(), request.form, signature):
        abort(403, "X-Twilio-Signature is not right: check TWILIO_AUTH_TOKEN, and BASE_URL behind a proxy")


def twiml(response):
    return Response(str(response), mimetype="text/xml")


@app.route("/voice", methods=["GET", "POST"])
def voice():
    response = VoiceResponse()
    response.say("Hello. One moment, please.", language="en-US")
    connect = Connect()
    stream = connect.stream(url=os.environ.get("STREAM_URL") or f"wss://{request.host}/media")
    stream.parameter(name="caller", value=request.values.get("From", ""))
    response.append(connect)
    return twiml(response)


@app.route("/dial", methods=["GET", "POST"])
def dial():
    response = VoiceResponse()
    response.dial(setting("DIAL_TO"), timeout=20, action="/dialled")
    return twiml(response)


@app.route("/dialled", methods=["GET", "POST"])
def dialled():
    response = VoiceResponse()
    if request.values.get("DialCallStatus") != "completed":
        response.say("Nobody is there. Please call again later.")
    response.hangup()
    return twiml(response)


@app.route("/status", methods=["GET", "POST"])
def status():
    print(request.values.get("CallSid"), request.values.get("CallStatus"), flush=True)
    return "", 204


def call(to, from_):
    """Calls somebody; the webhook says what happens then."""
    base = setting("BASE_URL").rstrip("/")
    return client().calls.create(to=to, from_=from_, url=base + "/voice", status_callback=base + "/status")


def hangup(sid):
    return client().calls(sid).update(status="completed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    calling = commands.add_parser("call")
    calling.add_argument("to")
    calling.add_argument("from_", metavar="from")
    commands.add_parser("hangup").add_argument("sid")
    args = parser.parse_args()
    if args.command == "serve":
        setting("TWILIO_AUTH_TOKEN")
        app.run(os.environ.get("BIND", "127.0.0.1"), int(os.environ.get("PORT", "5000")))
        return
    try:
        made = call(args.to, args.from_) if args.command == "call" else hangup(args.sid)
    except TwilioRestException as error:
        sys.exit(f"twilio_bot: {error.status}, code {error.code}: {error.msg}")
    print(made.sid, made.status)


if __name__ == "__main__":
    main()
