"""The bots for Twilio, in Python and in Node: who asks their webhook, and a stand-in for the REST API."""
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

from relay_stage import EXAMPLES

PACKAGES = EXAMPLES.parent / "target" / "bot-packages"
ACCOUNT, TOKEN = "AC" + "1" * 32, "2" * 32
CALL = "CA" + "3" * 32
FIELDS = {"CallSid": CALL, "From": "+33612345678", "To": "+33972360682", "Direction": "inbound", "Note": "é & ü"}
# Answers come from this machine; whatever proxy there is has no business with it.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def signature(url, fields, token=TOKEN):
    """As Twilio describes it: the address, then the names and values in the order of the names."""
    text = url + "".join(name + fields[name] for name in sorted(fields))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


class Rest:
    """Twilio's REST API, as far as the bots ask for it."""

    def __init__(self):
        self.asked = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                right = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
                assert self.headers["Authorization"] == f"Basic {right}"
                outer.asked.append((self.path, {name: values[0] for name, values in form.items()}))
                self.answer(*outer.judge(self.path, form))

            def answer(self, status, body):
                body = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @staticmethod
    def judge(path, form):
        calls = f"/2010-04-01/Accounts/{ACCOUNT}/Calls"
        if path == f"{calls}.json" and form["To"] != ["+33"]:
            return 201, {"sid": CALL, "status": "queued", "account_sid": ACCOUNT}
        if path == f"{calls}/{CALL}.json":
            return 200, {"sid": CALL, "status": "in-progress", "account_sid": ACCOUNT}
        if path.startswith(f"{calls}/"):
            return 404, {"code": 20404, "message": "not found", "status": 404, "more_info": ""}
        return 400, {"code": 21211, "message": "To is no number", "status": 400, "more_info": ""}

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Bot:
    """What both bots have to do. The two classes below say how each is run."""

    command = ()

    def setUp(self):
        if not (PACKAGES / "versions").exists():
            self.skipTest("Twilio's libraries are not there: run tests/python/bot_packages.sh")
        self.rest, self.served = Rest(), None
        self.env = {**{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
                    "PYTHONPATH": str(PACKAGES / "python"), "TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN,
                    "TWILIO_API_BASE": self.rest.url, "DIAL_TO": "+33611223344"}
        for name in ("BASE_URL", "STREAM_URL", "BIND", "PORT"):
            self.env.pop(name, None)

    def tearDown(self):
        self.rest.close()
        if self.served:
            self.served.terminate()
            self.served.wait(10)

    def run_bot(self, *args, **env):
        return subprocess.run([*self.command, *args], env={**self.env, **env}, capture_output=True, text=True, timeout=60)

    def serve(self, **env):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.served = subprocess.Popen([*self.command, "serve"], env={**self.env, "PORT": str(port), **env},
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                self.url = f"http://127.0.0.1:{port}"
                return
            self.assertIsNone(self.served.poll(), "the bot has ended")
            time.sleep(0.05)
        self.fail("the bot does not listen")

    def ask(self, path, fields=FIELDS, signed=None, method="POST"):
        """The status of a webhook's answer, and the answer."""
        url = self.url + path
        body = urllib.parse.urlencode(fields).encode()
        if method == "GET":
            url, body, fields = f"{url}?{body.decode()}", None, {}
        signed = signature(url, fields) if signed is None else signed
        headers = {"X-Twilio-Signature": signed} if signed else {}
        try:
            with OPENER.open(urllib.request.Request(url, body, headers, method=method), timeout=10) as answer:
                return answer.status, answer.read().decode(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), ""

    def test_the_webhook_answers_who_signs(self):
        self.serve()
        host = self.url.removeprefix("http://")
        for method in ("POST", "GET"):
            status, text, kind = self.ask("/voice", method=method)
            self.assertEqual((status, kind.split(";")[0]), (200, "text/xml"))
            root = ElementTree.fromstring(text)
            self.assertEqual([verb.tag for verb in root], ["Say", "Connect"])
            stream = root.find("Connect/Stream")
            self.assertEqual(stream.get("url"), f"wss://{host}/media")
            self.assertEqual(stream.find("Parameter").attrib, {"name": "caller", "value": "+33612345678"})
        self.assertEqual(self.ask("/voice?menu=summer")[0], 200, "with a query")
        self.assertEqual(self.ask("/status")[0], 204)

    def test_the_webhook_refuses_all_others(self):
        self.serve()
        wrong = [signature(f"{self.url}/voice", FIELDS, "3" * 32), signature(f"{self.url}/dial", FIELDS),
                 signature(f"{self.url}/voice", {**FIELDS, "From": "+33"}), "nonsense", ""]
        for signed in wrong:
            status, text, _ = self.ask("/voice", signed=signed)
            self.assertEqual(status, 403)
            self.assertIn("check TWILIO_AUTH_TOKEN", text)
        self.assertEqual(self.ask("/voice", {"Note": "x" * 70_000})[0], 413)
        self.assertEqual(self.ask("/voice")[0], 200, "it is still there")

    def test_behind_a_proxy_the_signature_is_of_the_outer_address(self):
        self.serve(BASE_URL="https://bot.example.net/", STREAM_URL="ws://127.0.0.1:9000/")
        status, text, _ = self.ask("/voice?a=b", signed=signature("https://bot.example.net/voice?a=b", FIELDS))
        self.assertEqual(status, 200)
        self.assertEqual(ElementTree.fromstring(text).find("Connect/Stream").get("url"), "ws://127.0.0.1:9000/")
        self.assertEqual(self.ask("/voice")[0], 403)

    def test_it_dials_and_says_so_when_nobody_is_there(self):
        self.serve()
        dial = ElementTree.fromstring(self.ask("/dial")[1]).find("Dial")
        self.assertEqual((dial.text, dial.attrib), ("+33611223344", {"timeout": "20", "action": "/dialled"}))
        for status, verbs in (("no-answer", ["Say", "Hangup"]), ("completed", ["Hangup"])):
            root = ElementTree.fromstring(self.ask("/dialled", {**FIELDS, "DialCallStatus": status})[1])
            self.assertEqual([verb.tag for verb in root], verbs)

    def test_it_places_a_call_and_ends_it(self):
        placed = self.run_bot("call", "+33612345678", "+33972360682", BASE_URL="https://bot.example.net")
        self.assertEqual((placed.returncode, placed.stdout.split()), (0, [CALL, "queued"]), placed.stderr)
        path, form = self.rest.asked[0]
        self.assertEqual(path, f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json")
        self.assertEqual(form, {"To": "+33612345678", "From": "+33972360682", "Url": "https://bot.example.net/voice",
                                "StatusCallback": "https://bot.example.net/status"})
        ended = self.run_bot("hangup", CALL)
        self.assertEqual((ended.returncode, ended.stdout.split()[0]), (0, CALL), ended.stderr)
        self.assertEqual(self.rest.asked[1], (f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json", {"Status": "completed"}))

    def test_what_twilio_refuses_is_said(self):
        for args, why in ((("call", "+33", "+33972360682"), "400, code 21211"), (("hangup", "CA" + "4" * 32), "404, code 20404")):
            refused = self.run_bot(*args, BASE_URL="https://bot.example.net")
            self.assertEqual(refused.returncode, 1)
            self.assertIn(why, refused.stderr)
        missing = self.run_bot("hangup", CALL, TWILIO_AUTH_TOKEN="")
        self.assertEqual((missing.returncode, "TWILIO_AUTH_TOKEN is not set" in missing.stderr), (1, True))
        self.assertIn("BASE_URL is not set", self.run_bot("call", "+33612345678", "+33972360682").stderr)
        self.assertNotEqual(self.run_bot("transfer").returncode, 0)


class PythonBot(Bot, unittest.TestCase):
    command = (sys.executable, "-B", str(EXAMPLES / "twilio_bot.py"))


class NodeBot(Bot, unittest.TestCase):
    # Beside its packages: that is where Node looks for them.
    command = ("node", str(PACKAGES / "twilio_bot.mjs"))

    def setUp(self):
        super().setUp()
        shutil.copy(EXAMPLES / "twilio_bot.mjs", PACKAGES)
