//! The JavaScript client in a browser: on a page of the origin that has the API, as its README
//! says, and on a page of another one.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;
use brigade::Broker;
use brigade_server::{Auth, ServerOptions, Tokens};
use tokio::task::JoinHandle;

use crate::browser::Browser;

/// A program with a page and the client's files, and the API under `/jobs`.
struct Program {
    url: String,
    broker: Broker,
    serving: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

async fn file(
    Path(name): Path<String>,
) -> Result<([(axum::http::HeaderName, &'static str); 1], String), StatusCode> {
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/../../clients/js/src");
    let text = std::fs::read_to_string(std::path::Path::new(files).join(name));
    let text = text.map_err(|_| StatusCode::NOT_FOUND)?;
    Ok(([(CONTENT_TYPE, "text/javascript")], text))
}

impl Program {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
        let broker = Broker::connect(&url).await.unwrap();
        let mut tokens = Tokens::default();
        tokens.add("page", "push,work,read".parse().unwrap(), "let-me-in");
        let options = ServerOptions::new(Auth::tokens(tokens));
        let router = Router::new()
            .nest("/jobs", brigade_server::router(broker.clone(), options))
            .route(
                "/",
                get(|| async { Html("<!doctype html><title>a page</title>") }),
            )
            .route("/client/{name}", get(file));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            broker,
            serving,
            _directory: directory,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A script of the page with the client, connected to the API at this URL.
fn with_client(url: &str, script: &str) -> String {
    format!(
        "const {{ Brigade }} = await import('/client/index.js'); const brigade = new \
            Brigade('{url}/jobs', {{ token: 'let-me-in' }}); {script}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_works_in_a_browser_on_a_page_of_the_same_origin() {
    let program = Program::start().await;
    let browser = Browser::start();
    browser.open(&program.url);
    let script = "
        const stop = new AbortController();
        const events = brigade.events({ signal: stop.signal });
        let opened = false;
        const first = events.next().then(() => { opened = true; });
        while (!opened) await brigade.push('before', {});
        await first;
        const { id } = await brigade.push('mail', { to: 'ann@example.org' }, { keep: 60 });
        const worked = new AbortController();
        await brigade.work('mail', async (payload) => { worked.abort(); return payload.to; },
            { signal: worked.signal });
        const kinds = [];
        for await (const event of events) {
          if (event.job !== id) continue;
          kinds.push(event.kind);
          if (event.kind === 'done') break;
        }
        const refused = await brigade.pause('mail').catch((error) => error.kind);
        return { id, kinds, refused, job: await brigade.job(id) };";
    let found = browser.run_async(&with_client(&program.url, script));
    println!("{found}");
    assert_eq!(found["job"]["state"], "done", "{found}");
    assert_eq!(found["job"]["result"], "ann@example.org", "{found}");
    let kinds = found["kinds"].as_array().unwrap();
    assert_eq!(kinds.first().unwrap(), "pushed", "{found}");
    assert_eq!(found["refused"], "wrong_role", "{found}");
}

/// There is no permission for other origins: a browser keeps the request from the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_refused_by_the_browser() {
    let (program, other) = (Program::start().await, Program::start().await);
    let browser = Browser::start();
    browser.open(&other.url);
    let script = "return brigade.take('mail').then(() => 'answered', (error) => error.name);";
    let found = browser.run_async(&with_client(&program.url, script));
    assert_eq!(found, "ConnectionError");
    let jobs = program.broker.jobs(Some("mail"), None, None, 1).await;
    assert!(jobs.unwrap().is_empty());
}
