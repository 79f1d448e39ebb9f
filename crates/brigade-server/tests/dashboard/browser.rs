//! A real Chromium, driven through `chromedriver` by the WebDriver protocol: JSON over HTTP.
//!
//! A client of its own, of a few requests: the crates for it bring two dozen others (an old `http`,
//! Unicode tables), which everyone who runs the tests would build. It blocks; the server under test
//! runs on other threads.
//!
//! Nothing waits for a time: [`Browser::until`] ends when a condition of the page holds, which is
//! looked at after each change of the page.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brigade_testkit::places::free_port;
use serde_json::{Value, json};

/// Far beyond what anything here takes.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Where Chromium puts its profile and sockets; removed after its end.
    _directory: tempfile::TempDir,
}

impl Browser {
    /// Starts one, with a window of a desktop.
    pub(crate) fn start() -> Self {
        let port = free_port();
        let directory = tempfile::tempdir().expect("a directory for the browser");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("TMPDIR", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian: chromium-driver)");
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            _directory: directory,
        };
        let began = Instant::now();
        while browser.request("GET", "/status", None).is_err() {
            assert!(began.elapsed() < BOUND, "chromedriver does not answer");
            std::thread::yield_now();
        }
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": BOUND.as_millis()},
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--disable-dev-shm-usage", "--force-color-profile=srgb",
            ]},
        }}});
        let session = browser.command("POST", "/session", capabilities);
        let id = session["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{id}");
        browser.size(1440, 900);
        browser
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(2 * BOUND))?;
        let body = body.map_or_else(String::new, Value::to_string);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
                Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        let mut answer = Vec::new();
        // It may keep the connection: the length says where the body ends.
        let mut part = [0; 65536];
        loop {
            let count = stream.read(&mut part)?;
            answer.extend_from_slice(&part[..count]);
            if let Some(body) = body_of(&answer) {
                return serde_json::from_slice(body).map_err(std::io::Error::other);
            }
            if count == 0 {
                return Err(std::io::Error::other("the answer was cut"));
            }
        }
    }

    /// A command that must succeed.
    fn command(&self, method: &str, path: &str, body: Value) -> Value {
        self.attempt(method, path, body)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn attempt(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let path = format!("{}{path}", self.session);
        let body = (method == "POST").then_some(&body);
        let mut answer = self
            .request(method, &path, body)
            .map_err(|error| error.to_string())?;
        let value = answer["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!(
                "{error}: {}",
                value["message"].as_str().unwrap_or_default()
            )),
            None => Ok(value),
        }
    }

    fn chromium(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.command("POST", "/goog/cdp/execute", body)
    }

    /// Sets the size of the screen, also to that of a phone.
    pub(crate) fn size(&self, width: u32, height: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.chromium("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Sets the colours that the viewer prefers: `light` or `dark`.
    pub(crate) fn scheme(&self, scheme: &str) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.chromium("Emulation.setEmulatedMedia", feature);
    }

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", json!({"url": url}));
    }

    /// The address of the page.
    pub(crate) fn address(&self) -> String {
        let address = self.command("GET", "/url", Value::Null);
        address.as_str().unwrap_or_default().to_owned()
    }

    /// The value of a script, which is the body of a function.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command(
            "POST",
            "/execute/sync",
            json!({"script": script, "args": []}),
        )
    }

    /// The same for the body of an asynchronous function.
    pub(crate) fn run_async(&self, script: &str) -> Value {
        self.run(&format!("return (async () => {{ {script} }})()"))
    }

    /// Waits until an expression of the page is true. Survives that another page is loaded.
    pub(crate) fn until(&self, expression: &str) {
        let script = format!(
            "const done = arguments[0]; const holds = () => {{ try {{ return {expression}; }} catch \
                {{ return false; }} }}; if (holds()) return done(true); const look = () => {{ if \
                (holds()) {{ watcher.disconnect(); done(true); }} }}; const watcher = new \
                MutationObserver(look); watcher.observe(document, {{subtree: true, childList: true, \
                attributes: true, characterData: true}}); addEventListener('load', look);"
        );
        let began = Instant::now();
        loop {
            let body = json!({"script": script, "args": []});
            match self.attempt("POST", "/execute/async", body) {
                Ok(_) => return,
                Err(error) => assert!(
                    began.elapsed() < BOUND,
                    "waited for {expression} at {}: {error}; the page says: {}",
                    self.address(),
                    self.run("return document.body.innerText.slice(0, 3000)")
                ),
            }
        }
    }

    /// Waits until the page shows a text.
    pub(crate) fn until_text(&self, text: &str) {
        self.until(&format!(
            "document.body.innerText.includes({})",
            json!(text)
        ));
    }

    /// The text of an element.
    pub(crate) fn text(&self, css: &str) -> String {
        let text = self.run(&format!(
            "return document.querySelector({})?.innerText",
            json!(css)
        ));
        text.as_str().unwrap_or_default().to_owned()
    }

    fn element(&self, css: &str) -> String {
        let found = json!({"using": "css selector", "value": css});
        let element = self.command("POST", "/element", found);
        let id = element.as_object().and_then(|ids| ids.values().next());
        id.and_then(Value::as_str)
            .expect("an element has an id")
            .to_owned()
    }

    /// Clicks on the first element that a selector finds, as a person does: it must be in sight.
    pub(crate) fn click(&self, css: &str) {
        let element = self.element(css);
        self.command("POST", &format!("/element/{element}/click"), json!({}));
    }

    /// Types into an element.
    pub(crate) fn type_into(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.command("POST", &format!("/element/{element}/clear"), json!({}));
        self.command(
            "POST",
            &format!("/element/{element}/value"),
            json!({"text": text}),
        );
    }

    /// Presses keys, one after the other.
    pub(crate) fn press(&self, keys: &str) {
        let presses = keys.chars().flat_map(|key| {
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        });
        let actions = json!({"actions": [
            {"type": "key", "id": "keys", "actions": presses.collect::<Vec<_>>()},
        ]});
        self.command("POST", "/actions", actions);
    }

    /// A picture of the page, PNG as base64; of its whole height, up to a bound.
    pub(crate) fn picture(&self, width: u32, height: u32) -> String {
        let content = self.chromium("Page.getLayoutMetrics", json!({}));
        let tall = content["cssContentSize"]["height"].as_f64().unwrap_or(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a height of some thousand"
        )]
        let tall = (tall.clamp(0.0, 3000.0) as u32).max(height);
        self.size(width, tall);
        let picture = self.command("GET", "/screenshot", Value::Null);
        self.size(width, height);
        picture.as_str().unwrap_or_default().to_owned()
    }

    /// Fails if the page reported an error, or the browser one of the page: exceptions, and what
    /// the page's policy has refused.
    pub(crate) fn check_console(&self) {
        let log = self.command("POST", "/se/log", json!({"type": "browser"}));
        let entries = log.as_array().cloned().unwrap_or_default();
        let wrong: Vec<&Value> = entries
            .iter()
            .filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG")
            .collect();
        assert!(wrong.is_empty(), "the browser's console: {wrong:?}");
    }

    /// Takes what was reported until now as known.
    pub(crate) fn forget_console(&self) {
        self.command("POST", "/se/log", json!({"type": "browser"}));
    }
}

fn body_of(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length?.trim().parse().ok()?;
    answer.get(end + 4..end + 4 + length)
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            self.request("DELETE", &self.session, None).ok();
        }
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
