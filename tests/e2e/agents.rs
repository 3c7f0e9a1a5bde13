//! Agents of tenants at the real program: written, handed to workers, kept over a
//! restart; and voices of a stand-in for ElevenLabs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, RESTAURANT, Setup};
use crate::harness::receiver::{Receiver, Reply};
use crate::harness::{Api, Bridge, Caller, Job, Redis, SOON, Worker, until};

const CONFIG: &str = "/api/v1/omnichannel/agent/config";
const VOICES: &str = "/api/v1/omnichannel/agent/voices";
const MODELS: &str = "/api/v1/omnichannel/agent/models";
/// The provider's key.
const KEY: &str = "k3y-of-elevenlabs-0123456789";

fn setup(dir: &TempDir) -> Setup {
    let data = dir.path().display().to_string();
    Setup::new().args(&["--data-dir", &data, "--agents"])
}

/// A bridge that dials nobody.
async fn started(setup: Setup) -> (Bridge, Api) {
    let bridge = setup
        .args(&["--ws-target", "ws://127.0.0.1:9/x"])
        .start()
        .await;
    let api = Api::of(&bridge);
    (bridge, api)
}

fn config_of(tenant: &str) -> String {
    format!("{CONFIG}?tenantId={tenant}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reaches_the_worker_of_its_tenants_calls() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let queue = |setup: Setup| setup.args(&["--redis-url", &redis.url()]);
    let bridge = queue(setup(&dir)).start().await;
    let api = Api::of(&bridge);
    let agent = json!({"agent_name": "Léa", "voice_id": "v1", "system_prompt": "x".repeat(16_000),
        "max_conversation_duration": 600});
    let put = api.json("PUT", &config_of(RESTAURANT), &agent).await;
    let shown = put.expect(200);
    assert_eq!(shown["interruption_enabled"], true);
    assert_eq!(shown["greeting_message"], Value::Null);
    let other = json!({"agent_name": "Somebody else's"});
    let put = api.json("PUT", &config_of("r-0"), &other).await;
    put.expect(200);
    // The log is written behind the answer.
    until(SOON, "the audit", async || {
        let output = bridge.output();
        output.contains("id=r-0") || output.contains("id=\"r-0\"")
    })
    .await;
    bridge.shut_down().await;

    let bridge = queue(setup(&dir)).start().await;
    let api = Api::of(&bridge);
    assert_eq!(api.get(&config_of(RESTAURANT)).await.expect(200), shown);
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await;
    let worker = Worker::attach(&job).await;
    let parameters = &worker.start()["start"]["customParameters"];
    for agent in [
        job.json["agent"].clone(),
        serde_json::from_str(parameters["agent"].as_str().unwrap()).unwrap(),
    ] {
        assert_eq!(agent["agent_name"], "Léa");
        assert_eq!(agent["system_prompt"].as_str().map(str::len), Some(16_000));
        assert!(agent.get("greeting_message").is_none());
    }
    call.bye().await;
    drop(worker);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_written_fast() {
    let dir = TempDir::new().unwrap();
    let (bridge, api) = started(setup(&dir)).await;
    let agent = json!({"agent_name": "Léa", "system_prompt": "y".repeat(2_000)});
    let mut times = Vec::new();
    for tenant in 0..50 {
        let began = Instant::now();
        let put = api
            .json("PUT", &config_of(&tenant.to_string()), &agent)
            .await;
        put.expect(200);
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "PUT of an agent: median {:?}, slowest {:?}",
        times[25], times[49]
    );
    assert!(times[25] < Duration::from_millis(20), "{times:?}");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn voices_are_the_providers_and_remembered() {
    let (dir, provider) = (TempDir::new().unwrap(), Receiver::start().await);
    let voice = json!({"voice_id": "v1", "name": "Léon", "category": "premade", "labels": {"gender": "male", "accent": "Paris"},
        "verified_languages": [{"language": "fr", "locale": "fr-FR"}], "preview_url": "https://v.example/1.mp3"});
    let english = json!({"voice_id": "v2", "labels": {"language": "en"}});
    provider.script(
        "/base/v1/voices",
        [Reply::json(json!({"voices": [voice, english]}))],
    );
    provider.script("/base/v1/voices/v1", [Reply::json(voice)]);
    provider.script("/base/v1/voices/v3", [Reply::status(400)]);
    let model = json!({"model_id": "m", "can_do_text_to_speech": true, "languages": [{"language_id": "fr"}]});
    provider.script("/base/v1/models", [Reply::json(json!([model]))]);
    let url = provider.url("/base/");
    let setup = setup(&dir).args(&["--elevenlabs-url", &url, "--log-level", "trace"]);
    let (bridge, api) = started(setup.env("ELEVENLABS_API_KEY", KEY)).await;
    let ids = |answer: Value| -> Vec<String> {
        let voices = answer["voices"].as_array().unwrap().iter();
        voices
            .map(|it| it["voice_id"].as_str().unwrap().to_owned())
            .collect()
    };
    for _ in 0..2 {
        let all = api.get(VOICES).await.expect(200);
        assert_eq!(all["voices"][0]["gender"], "male");
        assert_eq!(all["voices"][0]["provider"], "elevenlabs");
        assert_eq!(ids(all), ["v1", "v2"]);
        let french = api.get(&format!("{VOICES}?language=fr-FR")).await;
        assert_eq!(ids(french.expect(200)), ["v1"]);
        let one = api.get(&format!("{VOICES}/v1")).await.expect(200);
        assert_eq!(
            (&one["name"], &one["languages"]),
            (&json!("Léon"), &json!(["fr"]))
        );
        let models = api.get(MODELS).await.expect(200);
        assert_eq!(models["models"][0]["model_id"], "m");
    }
    assert_eq!(provider.requests().len(), 3, "each once");
    for request in provider.requests() {
        assert_eq!(request.header("xi-api-key"), Some(KEY));
    }
    api.get(&format!("{VOICES}/v3"))
        .await
        .problem(404, "not-found");
    let odd = api.get(&format!("{VOICES}/..%2Fmodels")).await;
    odd.problem(404, "not-found");
    let bad = api.get(&format!("{VOICES}?language=%C3%A9&x=1")).await;
    assert_eq!(bad.faulty(), ["language", "x"]);
    let health = api.get("/api/v1/omnichannel/health").await.expect(200);
    assert_eq!(health["voices"], true);
    let output = bridge.output();
    bridge.shut_down().await;
    assert!(!output.contains(KEY), "the key stands in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_is_told_with_its_reason() {
    let (dir, provider) = (TempDir::new().unwrap(), Receiver::start().await);
    let huge = Reply {
        body: format!("{{\"voices\": [\"{}\"]}}", "x".repeat(9 << 20)),
        ..Reply::status(200)
    };
    let moved = Reply::status(302).header("Location: /v1/elsewhere");
    provider.script(
        "/v1/voices",
        [
            Reply::status(401),
            Reply::status(500),
            Reply::status(429),
            Reply::json(json!({"no": "voices"})),
            moved,
            huge,
            Reply::json(json!({"voices": []})).after(Duration::from_secs(12)),
        ],
    );
    let url = provider.url("");
    let setup = setup(&dir).args(&["--elevenlabs-url", &url]);
    let (bridge, api) = started(setup.env("ELEVENLABS_API_KEY", KEY)).await;
    for (status, kind, detail) in [
        (
            502,
            "voice-provider",
            "does not take the key (HTTP status 401)",
        ),
        (502, "voice-provider", "HTTP status 500"),
        (503, "unavailable", "429"),
        (502, "voice-provider", "cannot be read"),
        (502, "voice-provider", "HTTP status 302"),
        (502, "voice-provider", "sent more than"),
    ] {
        let problem = api.get(VOICES).await.problem(status, kind);
        let told = problem["detail"].as_str().unwrap();
        assert!(told.contains(detail), "{told}");
    }
    assert!(provider.requests_for("/v1/elsewhere").is_empty());
    let slow = api.slow("GET", VOICES).await.problem(503, "unavailable");
    assert!(
        slow["detail"].as_str().unwrap().contains("within 10 s"),
        "{slow}"
    );
    drop(provider);
    let gone = api.get(MODELS).await;
    gone.problem(503, "unavailable");
    assert!(!bridge.output().contains(KEY));
    bridge.shut_down().await;

    let (bridge, api) = started(self::setup(&dir)).await;
    for path in [VOICES, MODELS, &format!("{VOICES}/v1")] {
        let problem = api.get(path).await.problem(503, "no-voice-provider");
        let told = problem["detail"].as_str().unwrap();
        assert!(told.contains("ELEVENLABS_API_KEY"), "{told}");
    }
    let health = api.get("/api/v1/omnichannel/health").await.expect(200);
    assert_eq!(health["voices"], false);
    bridge.shut_down().await;
}
