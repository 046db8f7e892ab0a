//! What orchestrators and load balancers ask.

use crate::harness::TestServer;

#[tokio::test]
async fn both_doors_tell_the_health() {
    let server = TestServer::start().await;
    for path in ["/livez", "/healthz", "/readyz"] {
        for url in [server.url(path), server.admin_url(path)] {
            let response = server.client.get(&url).send().await.unwrap();
            assert_eq!(response.status(), 200, "{url}");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.text().await.unwrap(), "ok\n");
            assert_eq!(server.client.head(&url).send().await.unwrap().status(), 200);
        }
    }
}

#[tokio::test]
async fn the_operators_door_has_no_cors_and_no_players() {
    let server = TestServer::start().await;
    let response = server.client.post(server.admin_url("/api/v1/sessions")).send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    let body: serde_json::Value = response.json().await.unwrap();
    assert!(body["message"].is_string());
}
