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
