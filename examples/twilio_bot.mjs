#!/usr/bin/env node
// A bot for Twilio, on Twilio's own library, as it runs against Twilio unchanged.
//
// Needs Node 18 and:  npm install twilio express
//
//   node twilio_bot.mjs serve                  answers Twilio's voice webhook
//   node twilio_bot.mjs call +33612345678 +33972360682     calls the first number from the second
//   node twilio_bot.mjs hangup CA…             ends a call
//
// Environment:
//   TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN  the account
//   TWILIO_API_BASE  where the REST API is, such as http://127.0.0.1:8080; Twilio's where it is not given
//   BASE_URL         what the webhooks are reached by from outside; needed by `call`, and by `serve` behind a proxy
//   STREAM_URL       the Media Streams server of <Stream>; wss://HOST/media where it is not given
//   DIAL_TO          whom /dial dials
//   BIND, PORT       where `serve` listens: 127.0.0.1 and 5000
import express from "express";
import twilio from "twilio";

const { VoiceResponse } = twilio.twiml;

function fail(text) {
  console.error(`twilio_bot: ${text}`);
  process.exit(1);
}

function setting(name) {
  return process.env[name] || fail(`${name} is not set (see the head of this file)`);
}

function client() {
  const made = twilio(setting("TWILIO_ACCOUNT_SID"), setting("TWILIO_AUTH_TOKEN"));
  if (process.env.TWILIO_API_BASE) made.api.baseUrl = process.env.TWILIO_API_BASE.replace(/\/+$/, "");
  return made;
}

function base() {
  return setting("BASE_URL").replace(/\/+$/, "");
}

// The address as Twilio has asked for it is part of the signature.
function onlyTwilio(request, response, next) {
  const origin = process.env.BASE_URL ? base() : `${request.protocol}://${request.get("host")}`;
  const signature = request.get("X-Twilio-Signature") || "";
  const url = origin + request.originalUrl;
  if (twilio.validateRequest(setting("TWILIO_AUTH_TOKEN"), signature, url, request.body || {})) return next();
  response.status(403).send("X-Twilio-Signature is not right: check TWILIO_AUTH_TOKEN, and BASE_URL behind a proxy");
}

// What the webhook was told: by POST in a form, by GET in the query.
function told(request, name) {
  return (request.body || {})[name] ?? request.query[name];
}

function voice(request) {
  const answer = new VoiceResponse();
  answer.say({ language: "en-US" }, "Hello. One moment, please.");
  const url = process.env.STREAM_URL || `wss://${request.get("host")}/media`;
  answer.connect().stream({ url }).parameter({ name: "caller", value: told(request, "From") || "" });
  return answer;
}

function dial() {
  const answer = new VoiceResponse();
  answer.dial({ timeout: 20, action: "/dialled" }, setting("DIAL_TO"));
  return answer;
}

function dialled(request) {
  const answer = new VoiceResponse();
  if (told(request, "DialCallStatus") !== "completed") answer.say("Nobody is there. Please call again later.");
  answer.hangup();
  return answer;
}

function serve() {
  setting("TWILIO_AUTH_TOKEN");
  const app = express();
  // A webhook is a form of a few fields.
  app.use(express.urlencoded({ extended: false, limit: "64kb" }), onlyTwilio);
  for (const [path, answer] of Object.entries({ "/voice": voice, "/dial": dial, "/dialled": dialled })) {
    app.all(path, (request, response) => response.type("text/xml").send(answer(request).toString()));
  }
  app.all("/status", (request, response) => {
    console.log(told(request, "CallSid"), told(request, "CallStatus"));
    response.status(204).end();
  });
  const [bind, port] = [process.env.BIND || "127.0.0.1", Number(process.env.PORT || 5000)];
  app.listen(port, bind, (error) => (error ? fail(error.message) : console.log(`listening on http://${bind}:${port}/`)));
}

// Calls somebody; the webhook says what happens then.
function call(to, from) {
  return client().calls.create({ to, from, url: `${base()}/voice`, statusCallback: `${base()}/status` });
}

function hangup(sid) {
  return client().calls(sid).update({ status: "completed" });
}

const [command, ...args] = process.argv.slice(2);
const wanted = { serve: 0, call: 2, hangup: 1 };
if (wanted[command] !== args.length) fail("usage: serve | call TO FROM | hangup SID");
if (command === "serve") {
  serve();
} else {
  const asked = command === "call" ? call(...args) : hangup(...args);
  asked.then((made) => console.log(made.sid, made.status), (error) => fail(`${error.status}, code ${error.code}: ${error.message}`));
}
