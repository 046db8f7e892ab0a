//! The documents that describe the API.

use mediatally::wire::{EventType, Profile};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::harness::{Process, SAMPLE, TestServer, within};

async fn get(server: &TestServer, path: &str) -> Response {
    server.client.get(server.url(path)).send().await.unwrap()
}

async fn schema(server: &TestServer, name: &str) -> Value {
    let response = get(server, &format!("/api/v1/schemas/{name}")).await;
    assert_eq!(response.status(), 200, "{name}");
    response.json().await.unwrap()
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn each_event_type_has_a_sound_schema() {
    let server = TestServer::start().await;
    for name in EventType::ALL.map(EventType::name) {
        let schema = schema(&server, name).await;
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-04/schema#");
        assert_eq!(schema["id"], format!("/api/v1/schemas/{name}"));
        assert_eq!(schema["$ref"], format!("#/definitions/{name}"));
        jsonschema::draft4::meta::validate(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
        let judge = jsonschema::draft4::new(&schema).unwrap();
        assert!(!judge.is_valid(&json!({"eventType": name})), "{name} needs a playerTime");
    }
    let schema = schema(&server, "sessionStart").await;
    let sample: Value = serde_json::from_str(SAMPLE).unwrap();
    assert!(jsonschema::draft4::is_valid(&schema, &sample));
}

#[tokio::test]
async fn a_schema_may_be_kept_and_asked_for_again() {
    let server = TestServer::start().await;
    let path = "/api/v1/schemas/adStart";
    let response = get(&server, path).await;
    assert_eq!(header(&response, "content-type"), "application/json");
    assert_eq!(header(&response, "cache-control"), "public, max-age=300");
    assert_eq!(header(&response, "access-control-allow-origin"), "*");
    let etag = header(&response, "etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() == 34, "{etag}");
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    assert_eq!(headers["content-length"], text.len().to_string());

    let head = server.client.head(server.url(path)).send().await.unwrap();
    assert_eq!(head.status(), 200);
    for (name, value) in headers.iter().filter(|(name, _)| *name != "date") {
        assert_eq!(head.headers().get(name), Some(value), "{name} of HEAD");
    }
    assert_eq!(head.text().await.unwrap(), "");

    for method in [Method::GET, Method::HEAD] {
        for tags in [etag.clone(), format!("\"a\", W/{etag}"), "*".to_owned()] {
            let request = server.client.request(method.clone(), server.url(path));
            let response = request.header("if-none-match", &tags).send().await.unwrap();
            assert_eq!(response.status(), 304, "{tags}");
            assert_eq!(header(&response, "etag"), etag);
            assert_eq!(header(&response, "cache-control"), "public, max-age=300");
            assert_eq!(header(&response, "access-control-allow-origin"), "*");
            assert!(!response.headers().contains_key("content-type"));
            let length = response.headers().get("content-length");
            assert!(length.is_none_or(|length| *length == text.len().to_string()), "{length:?}");
        }
    }
    let other = get(&server, "/api/v1/schemas/adSkip").await;
    assert_ne!(header(&other, "etag"), etag);
    let request = server.client.get(server.url(path)).header("if-none-match", "\"old\"");
    assert_eq!(request.send().await.unwrap().text().await.unwrap(), text);
}

#[tokio::test]
async fn a_slash_at_the_end_does_no_harm_and_case_counts() {
    let server = TestServer::start().await;
    let plain = get(&server, "/api/v1/schemas/play").await.text().await.unwrap();
    let slash = get(&server, "/api/v1/schemas/play/").await.text().await.unwrap();
    assert_eq!(plain, slash);
    let slashes = get(&server, "//api//v1///schemas/play//").await.text().await.unwrap();
    assert_eq!(plain, slashes);
    assert_eq!(get(&server, "//api/v1/openapi.json").await.status(), 200);
    for (name, near) in [("sessionstart", "sessionStart"), ("Play", "play"), ("adstrt", "adStart")]
    {
        let response = get(&server, &format!("/api/v1/schemas/{name}")).await;
        assert_eq!(response.status(), 404);
        assert_eq!(header(&response, "content-type"), "application/json");
        let message = format!(
            "\"{name}\" is no event type; did you mean /api/v1/schemas/{near}? \
             /api/v1/openapi.json has them all"
        );
        assert_eq!(response.json::<Value>().await.unwrap(), json!({"message": message}));
    }
    let response = get(&server, "/api/v1/schemas/nothing%0Alike%22it").await;
    assert_eq!(response.status(), 404);
    let body: Value = response.json().await.unwrap();
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with(r#""nothing\nlike\"it" is no event type; "#), "{message}");
    assert!(message.contains("adBreakComplete"), "{message}");
    for path in
        ["/api/v1/schemas", "/api/v1/schemas/", "/api/v1/schemas/%FF", "/api/v1/schemas/a/b"]
    {
        let response = get(&server, path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert!(response.json::<Value>().await.unwrap()["message"].is_string());
    }
}

#[tokio::test]
async fn documents_are_only_read() {
    let server = TestServer::start().await;
    for path in ["/api/v1/schemas/ping", "/api/v1/schemas/nothing", "/api/v1/openapi.json"] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let request = server.client.request(method.clone(), server.url(path)).body("{}");
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 405, "{method} {path}");
            assert_eq!(header(&response, "allow"), "GET,HEAD,OPTIONS");
            assert!(response.json::<Value>().await.unwrap()["message"].is_string());
        }
        let request = server.client.request(Method::OPTIONS, server.url(path));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 204);
        assert_eq!(header(&response, "access-control-max-age"), "86400");
    }
}

#[tokio::test]
async fn the_description_is_what_the_command_writes() {
    for profile in [Profile::Adobe, Profile::Open] {
        let server = TestServer::with(|config| config.validation.profile = profile).await;
        let response = get(&server, "/api/v1/openapi.json").await;
        assert_eq!(header(&response, "content-type"), "application/json");
        assert_eq!(header(&response, "cache-control"), "public, max-age=300");
        assert!(response.headers().contains_key("etag"));
        let folder = tempfile::tempdir().unwrap();
        let name = serde_json::to_value(profile).unwrap();
        let command = Process::command(folder.path())
            .arg("openapi")
            .env("MEDIATALLY_VALIDATION__PROFILE", name.as_str().unwrap())
            .output();
        let written = within(command).await.unwrap();
        assert!(written.status.success());
        assert_eq!(response.text().await.unwrap(), String::from_utf8(written.stdout).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it makes no data folder");
    }
}

#[tokio::test]
async fn the_description_tells_what_the_schemas_tell() {
    let server = TestServer::start().await;
    let api: Value = get(&server, "/api/v1/openapi.json/").await.json().await.unwrap();
    assert_eq!(api["openapi"], "3.1.0");
    let place = "#/components/schemas/sessionStart";
    let schema = json!({"$ref": place, "components": api["components"]});
    let judge = jsonschema::draft202012::new(&schema).unwrap();
    let mut body: Value = serde_json::from_str(SAMPLE).unwrap();
    assert!(judge.is_valid(&body));
    body["params"]["media.downloaded"] = json!(true);
    assert!(!judge.is_valid(&body), "downloaded content is posted as an array");
    for path in ["/api/v1/sessions", "/api/v1/downloaded"] {
        let requests = &api["paths"][path]["post"]["requestBody"]["content"]["application/json"];
        let mut schema = requests["schema"].clone();
        schema["components"] = api["components"].clone();
        let judge = jsonschema::draft202012::new(&schema).unwrap();
        for (name, example) in requests["examples"].as_object().unwrap() {
            assert!(judge.is_valid(&example["value"]), "{name}");
            let request = server.client.post(server.url(path)).body(example["value"].to_string());
            assert_eq!(request.send().await.unwrap().status(), 201, "{name}");
        }
        assert!(judge.is_valid(&json!([body])));
        assert!(!judge.is_valid(&json!([body, body])));
    }
    for (path, methods) in [
        ("/api/v1/sessions", &["options", "post"][..]),
        ("/api/v1/sessions/{sid}/events", &["options", "parameters", "post"]),
        ("/api/v1/downloaded", &["options", "post"]),
        ("/api/v1/schemas/{eventType}", &["get", "head", "options", "parameters"]),
        ("/api/v1/openapi.json", &["get", "head", "options"]),
        ("/livez", &["get", "head"]),
        ("/healthz", &["get", "head"]),
        ("/readyz", &["get", "head"]),
    ] {
        let described: Vec<_> = api["paths"][path].as_object().unwrap().keys().collect();
        assert_eq!(described, methods, "{path}");
    }
}

#[tokio::test]
async fn schemas_follow_the_rules_of_the_server() {
    let usual = TestServer::start().await;
    let strict = TestServer::with(|config| config.validation.strict = true).await;
    let open = TestServer::with(|config| config.validation.profile = Profile::Open).await;
    let mut unlisted: Value = serde_json::from_str(SAMPLE).unwrap();
    unlisted["params"]["media.new"] = json!(1);
    let bare = json!({"eventType": "sessionStart", "playerTime": {"playhead": 0, "ts": 0}, "params": {
        "media.id": "i", "media.length": 60, "media.contentType": "vod", "media.playerName": "p"}});
    for (server, takes_unlisted, takes_bare) in
        [(&usual, true, false), (&strict, false, false), (&open, true, true)]
    {
        let schema = schema(server, "sessionStart").await;
        for (body, taken) in [(&unlisted, takes_unlisted), (&bare, takes_bare)] {
            assert_eq!(jsonschema::draft4::is_valid(&schema, body), taken);
            let status = server.post(body.to_string()).await.status();
            assert_eq!(status, if taken { 201 } else { 400 });
        }
    }
}
