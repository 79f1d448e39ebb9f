//! Both programs run, with what they are made for: scripts that misbehave, images that are none.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(clippy::disallowed_methods, reason = "starts the programs")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The service, ended with the test.
struct Service {
    child: Child,
    url: String,
}

impl Service {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_scripts"))
            .arg("127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let url = format!("http://{address}/run");
        Self { child, url }
    }

    fn run(&self, script: &str) -> Value {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let mut response = agent.post(&self.url).send(script).unwrap();
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap()
    }
}

impl Drop for Service {
    /// Ends it in good order, so that it leaves nothing; by force if it does not end.
    fn drop(&mut self) {
        // SAFETY: sends a signal to our own child, which was not waited for.
        #[expect(unsafe_code, reason = "sends a signal")]
        unsafe {
            libc::kill(self.child.id().cast_signed(), libc::SIGTERM);
        }
        let began = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if began.elapsed() > Duration::from_secs(60) {
                self.child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn output(answer: &Value) -> &str {
    answer["ran"]["output"].as_str().unwrap_or_default()
}

#[test]
fn scripts_run_within_their_limits_and_each_ending_is_reported() {
    if !Path::new("/usr/bin/python3").exists() {
        return println!("MISSING: /usr/bin/python3");
    }
    let service = Service::start();
    let sum = service.run("print(6 * 7)");
    assert_eq!(
        (&sum["ending"], output(&sum)),
        (&"done".into(), "42\n"),
        "{sum}"
    );

    let raised = service.run("raise ValueError('no')");
    assert_eq!(raised["ran"]["exit_code"], 1, "{raised}");
    assert!(output(&raised).contains("ValueError: no"), "{raised}");

    for (script, refusal) in [
        (
            "import socket; socket.create_connection(('127.0.0.1', 80))",
            "PermissionError",
        ),
        ("open('/etc/passwd').read()", "PermissionError"),
        ("open('/tmp/untrusted', 'w')", "PermissionError"),
        (
            "import os; os.kill(os.getppid(), 0); os.kill(1, 0)",
            "Error",
        ),
        ("import os; os.setsid()", "PermissionError"),
        ("import os; os.memfd_create('program')", "PermissionError"),
    ] {
        let refused = service.run(script);
        assert_eq!(refused["ran"]["exit_code"], 1, "{script}: {refused}");
        assert!(output(&refused).contains(refusal), "{script}: {refused}");
    }

    // A time limit, of the CPU or of the clock.
    let endless = service.run("while True: pass");
    assert_eq!(endless["ending"], "timed out", "{endless}");
    assert!(endless["report"]["cost"].is_object(), "{endless}");
    let asleep = service.run("import time; time.sleep(60)");
    assert_eq!(asleep["ending"], "timed out", "{asleep}");

    // Memory: Python gets an error, or the pool ends it.
    let greedy = service.run("x = [bytearray(1 << 20) for _ in range(4096)]");
    let was_told = output(&greedy).contains("MemoryError");
    assert!(was_told || greedy["ending"] == "crashed", "{greedy}");

    // None of that hurt the service.
    assert_eq!(output(&service.run("print('still here')")), "still here\n");
}

/// A PNG image of 1 x 1 pixels: red, opaque.
const RED: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0xd, 0xa, 0x1a, 0xa, 0x0, 0x0, 0x0, 0xd, 0x49, 0x48, 0x44, 0x52, 0x0,
    0x0, 0x0, 0x1, 0x0, 0x0, 0x0, 0x1, 0x8, 0x2, 0x0, 0x0, 0x0, 0x90, 0x77, 0x53, 0xde, 0x0, 0x0,
    0x0, 0xc, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0xf8, 0xcf, 0xc0, 0x0, 0x0, 0x3, 0x1, 0x1,
    0x0, 0xc9, 0xfe, 0x92, 0xef, 0x0, 0x0, 0x0, 0x0, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60,
    0x82,
];

#[test]
fn images_are_decoded_by_a_library_that_can_do_nothing_else() {
    // SAFETY: only looks whether the library can be loaded.
    #[expect(unsafe_code, reason = "looks for a C library")]
    let is_there = unsafe { !libc::dlopen(c"libpng16.so.16".as_ptr(), libc::RTLD_NOW).is_null() };
    if !is_there {
        return println!("MISSING: libpng16.so.16");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut cut = RED.to_vec();
    cut.truncate(50);
    let mut huge = RED.to_vec();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let images = [
        ("red.png", RED),
        ("none.png", b"not an image"),
        ("cut.png", &cut),
        ("huge.png", &huge),
    ];
    let paths = images.map(|(name, bytes)| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    });
    let output = Command::new(env!("CARGO_BIN_EXE_images"))
        .args(&paths)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        lines[0].ends_with("red.png: 1 x 1, mean colour [255, 0, 0, 255]"),
        "{text}"
    );
    for (line, name) in lines[1..].iter().zip(["none.png", "cut.png", "huge.png"]) {
        assert!(line.contains(&format!("{name}: failed: ")), "{text}");
    }
    assert_eq!(lines.len(), 4, "{text}");
}
