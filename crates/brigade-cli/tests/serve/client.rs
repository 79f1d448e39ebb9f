//! A server on a job file of its own, and requests to it.

use brigade_testkit::http_server::HttpServer;
use serde_json::Value;
use tempfile::TempDir;

/// A server and its broker.
pub(crate) struct Desk {
    pub(crate) server: HttpServer,
    pub(crate) directory: TempDir,
    pub(crate) client: Client,
}

/// Sends requests with one credential.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) base: String,
    token: Option<String>,
    headers: Vec<(String, String)>,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_brigade");

/// A server that wants no credential.
pub(crate) fn desk() -> Desk {
    desk_with(&["--auth", "none"])
}

/// A server with these arguments.
pub(crate) fn desk_with(arguments: &[&str]) -> Desk {
    let directory = tempfile::tempdir().unwrap();
    let server = HttpServer::start(BINARY, &url_in(&directory), arguments).unwrap();
    let client = Client::new(server.base().unwrap());
    Desk {
        server,
        directory,
        client,
    }
}

pub(crate) fn url_in(directory: &TempDir) -> String {
    format!("sqlite:{}/jobs.db", directory.path().display())
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        Self {
            base: base.to_owned(),
            token: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "")
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "", "")
    }

    /// Sends JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", &body.to_string())
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, "application/json", &body.to_string())
    }

    /// Pushes a job and gives its id.
    pub(crate) fn push(&self, queue: &str, job: &Value) -> String {
        let pushed = self.post(&format!("/v1/queues/{queue}/jobs"), job);
        assert_eq!(pushed.status, 201, "{pushed:?}");
        pushed.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn send(&self, method: &str, path: &str, media: &str, body: &str) -> Answer {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if !media.is_empty() {
            request = request.header("content-type", media);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .allow_non_standard_methods(true)
            .build()
            .into();
        let mut response = match body.is_empty() {
            true => agent.run(request.body(()).unwrap()),
            false => agent.run(request.body(body.to_owned()).unwrap()),
        }
        .unwrap();
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        Answer {
            status: response.status().as_u16(),
            headers,
            text: response.body_mut().read_to_string().unwrap(),
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Asserts that it is a problem of this status and kind, and gives its document.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["kind"], kind, "{self:?}");
        assert_eq!(problem["type"], format!("urn:brigade:problem:{kind}"));
        assert_eq!(problem["status"], status);
        problem
    }
}
