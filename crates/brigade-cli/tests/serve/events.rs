//! The stream of events over HTTP.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::client::{Desk, desk};

/// One event of a stream.
#[derive(Debug, Default)]
struct Event {
    id: String,
    name: String,
    data: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// A stream, read event by event.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(desk: &Desk, query: &str, last: Option<&str>) -> Self {
        let address = desk.client.base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let last = last
            .map(|id| format!("last-event-id: {id}\r\n"))
            .unwrap_or_default();
        let request = format!("GET /v1/events{query} HTTP/1.1\r\nhost: localhost\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next event of a name other than `open`.
    fn next(&mut self) -> Event {
        loop {
            let event = self.read();
            if event.name != "open" {
                return event;
            }
        }
    }

    fn read(&mut self) -> Event {
        let mut event = Event::default();
        loop {
            let mut line = String::new();
            assert!(
                self.0.read_line(&mut line).unwrap() > 0,
                "the stream has ended"
            );
            let line = line.trim_end();
            if let Some(id) = line.strip_prefix("id: ") {
                event.id = id.to_owned();
            } else if let Some(name) = line.strip_prefix("event: ") {
                event.name = name.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                event.data = data.to_owned();
            } else if line.is_empty() && !event.name.is_empty() {
                return event;
            }
        }
    }
}

#[test]
fn events_arrive_as_they_happen_and_go_on_after_the_last_one() {
    let desk = desk();
    let mut events = Events::open(&desk, "?queue=q", None);
    assert_eq!(events.read().name, "open");
    let id = desk.client.push("q", &json!({"payload": 1}));
    desk.client.push("other", &json!({"payload": 1}));
    let pushed = events.next();
    assert_eq!(pushed.name, "pushed");
    assert_eq!(
        (&pushed.json()["job"], &pushed.json()["state"]),
        (&json!(id), &json!("ready"))
    );
    drop(events);
    desk.client.send("POST", "/v1/queues/q/take", "", "");
    let mut again = Events::open(&desk, "?queue=q", Some(&pushed.id));
    assert_eq!([again.next().name, again.next().name], ["leased", "done"]);
    desk.client
        .get("/v1/events?after=nonsense%00")
        .problem(400, "bad_option");
}
