//! What browsers ask before they let a script post, and what they must find on every answer.

use reqwest::{Method, Response};

use crate::harness::{SAMPLE, TestServer};

/// The four documented headers with their exact values.
fn has_cors(response: &Response) {
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "OPTIONS,POST,PUT"),
        ("access-control-allow-headers", "Content-Type"),
        ("access-control-expose-headers", "Location"),
    ] {
        let values: Vec<_> = response.headers().get_all(name).iter().collect();
        assert_eq!(values, [value], "{name} of {}", response.status());
    }
}

#[tokio::test]
async fn every_answer_has_the_four_headers() {
    let server = TestServer::with(|config| config.live.sessions_max = 1).await;
    let send = |method: Method, path: &'static str, body: &'static str| {
        let request = server.client.request(method, server.url(path)).body(body);
        async { request.send().await.unwrap() }
    };
    let too_large: &str = Box::leak("x".repeat(200 << 10).into_boxed_str());
    for (status, response) in [
        (201, send(Method::POST, "/api/v1/sessions", SAMPLE).await),
        (503, send(Method::POST, "/api/v1/sessions", SAMPLE).await),
        (404, send(Method::POST, "/nothing", "").await),
        (404, send(Method::GET, "/api/nothing", "").await),
        (405, send(Method::DELETE, "/api/v1/sessions", "").await),
        (204, send(Method::OPTIONS, "/api/v1/sessions", "").await),
        (200, send(Method::GET, "/livez", "").await),
    ] {
        assert_eq!(response.status(), status);
        has_cors(&response);
    }
    let server = TestServer::start().await;
    has_cors(&server.post("{}").await);
    let response = server.post(too_large).await;
    assert_eq!(response.status(), 413);
    has_cors(&response);
}

#[tokio::test]
async fn a_preflight_is_granted_on_every_path_below_api() {
    let server = TestServer::start().await;
    for path in [
        "/api/v1/sessions",
        "/api/v1/sessions/",
        "/api/v1/sessions/0123/events",
        "/api/v1/downloaded",
        "/api/v1/schemas/ping",
        "/api/anything",
        "//api/v1/sessions",
        "/api//v1//downloaded//",
    ] {
        let request = server
            .client
            .request(Method::OPTIONS, server.url(path))
            .header("origin", "https://player.example.com")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 204, "{path}");
        has_cors(&response);
        assert_eq!(response.headers()["access-control-max-age"], "86400");
        assert!(!response.headers().contains_key("content-type"));
        assert!(!response.headers().contains_key("content-length"));
    }
    let outside =
        server.client.request(Method::OPTIONS, server.url("/nothing")).send().await.unwrap();
    assert_eq!(outside.status(), 404);
}

#[tokio::test]
async fn a_preflight_grants_whatever_other_header_is_asked_for() {
    let server = TestServer::start().await;
    let granted = async |asked: &str| {
        let request = server
            .client
            .request(Method::OPTIONS, server.url("/api/v1/sessions"))
            .header("access-control-request-headers", asked);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 204);
        response.headers()["access-control-allow-headers"].to_str().unwrap().to_owned()
    };
    assert_eq!(granted("content-type,user-agent").await, "Content-Type,user-agent");
    assert_eq!(granted("X-A, Content-Type , x-b").await, "Content-Type,X-A,x-b");
    assert_eq!(granted("").await, "Content-Type");
    assert_eq!(granted("bad name,(,ok").await, "Content-Type,ok");
    let many: Vec<_> = (0..100).map(|n| format!("x-{n}")).collect();
    assert_eq!(granted(&many.join(",")).await.split(',').count(), 33);
    let long = |bytes| "x".repeat(bytes);
    assert_eq!(granted(&format!("{},ok", long(129))).await, "Content-Type,ok");
    assert_eq!(granted(&long(128)).await, format!("Content-Type,{}", long(128)));
    let many = vec![long(128); 40].join(",");
    assert_eq!(granted(&many).await.len(), "Content-Type".len() + 31 * 129);
}
