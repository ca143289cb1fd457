//! Chromium without a window, driven over its DevTools protocol: what the page shows is asked of the browser that shows it.
//!
//! Each browser has a profile of its own in a temporary folder, and ends with its owner. One thread sends a command and reads until
//! its answer is there; what the browser says of itself in between (requests, messages on the console, exceptions) is kept.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, client};

use super::child::{self, Running};
use super::wait::{LIMIT, eventually};

/// Names under which systems install it.
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// Light or dark, as the reader's system is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

impl Scheme {
    /// The word of CSS for it.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        }
    }
}

/// A running browser with one tab or more.
pub struct Browser {
    // In the order in which they end: the process before its folder.
    socket: WebSocket<TcpStream>,
    _process: Running,
    _profile: tempfile::TempDir,
    commands: u64,
    /// What the tabs reported: their session, and the event.
    events: Vec<(String, Value)>,
}

/// A tab; what is said to it goes through its [`Browser`].
#[derive(Clone)]
pub struct Tab {
    session: String,
    target: String,
}

impl Browser {
    /// A new browser; `None`, and a printed line, where none is installed.
    pub fn start() -> Option<Self> {
        let Some(program) = installed() else {
            // Not by println!, which is not shown of a test that passes.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: Chromium is not installed ({})",
                NAMES.join(", ")
            );
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(program);
        command
            .args([
                "--headless",
                // Root, as in a container, has no sandbox; and the only pages here are our own.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            // What it is killed beside: the socket of its profile.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Running(child::spawn(command).expect("Chromium starts"));
        let mut said = BufReader::new(process.0.stderr.take().expect("a pipe")).lines();
        let url = said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.strip_prefix("DevTools listening on ")
                    .map(str::to_owned)
            })
            .expect("Chromium says where it listens");
        // A full pipe would stop it.
        thread::spawn(move || said.for_each(drop));

        let authority = url.split('/').nth(2).expect("ws://host:port/…");
        let stream = TcpStream::connect(authority).expect("Chromium listens");
        stream
            .set_read_timeout(Some(LIMIT))
            .expect("a time-out can be set");
        let (socket, _) = client(&url, stream).expect("Chromium speaks WebSocket");
        Some(Self {
            socket,
            _process: process,
            _profile: profile,
            commands: 0,
            events: Vec::new(),
        })
    }

    /// A new tab in front of the others.
    pub fn tab(&mut self) -> Tab {
        let target = self.command(None, "Target.createTarget", json!({"url": "about:blank"}));
        let target = text(&target["targetId"]);
        let attach = json!({"targetId": target, "flatten": true});
        let session = text(&self.command(None, "Target.attachToTarget", attach)["sessionId"]);
        let tab = Tab { session, target };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.on(&tab, &format!("{domain}.enable"), json!({}));
        }
        tab
    }

    /// Puts a tab in front: the others are hidden.
    pub fn activate(&mut self, tab: &Tab) {
        let target = json!({"targetId": tab.target});
        self.command(None, "Target.activateTarget", target);
    }

    /// A window of that many CSS pixels, for a reader who likes it light or dark.
    pub fn view(&mut self, tab: &Tab, width: u32, scheme: Scheme) {
        let size =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.on(tab, "Emulation.setDeviceMetricsOverride", size);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme.name()}]});
        self.on(tab, "Emulation.setEmulatedMedia", media);
    }

    /// Goes to an address, and forgets what was reported before.
    pub fn open(&mut self, tab: &Tab, url: &str) {
        self.events.retain(|(session, _)| *session != tab.session);
        let answer = self.on(tab, "Page.navigate", json!({"url": url}));
        assert_eq!(answer["errorText"], Value::Null, "{url} cannot be opened");
    }

    /// The value of an expression in the page; promises are awaited.
    #[track_caller]
    pub fn evaluate(&mut self, tab: &Tab, expression: &str) -> Value {
        let question =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.on(tab, "Runtime.evaluate", question);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    #[track_caller]
    pub fn wait_for(&mut self, tab: &Tab, expression: &str) {
        eventually(expression, || self.evaluate(tab, expression) == json!(true));
    }

    /// What a screen reader gets to know of the page: its nodes.
    pub fn accessibility_tree(&mut self, tab: &Tab) -> Vec<Value> {
        let answer = self.on(tab, "Accessibility.getFullAXTree", json!({}));
        answer["nodes"].as_array().expect("nodes").clone()
    }

    /// Presses and releases a key, such as `Tab` or `Enter`.
    pub fn press(&mut self, tab: &Tab, key: &str) {
        let (code, typed) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            _ => panic!("no code is known for the key {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": typed});
            self.on(tab, "Input.dispatchKeyEvent", event);
        }
    }

    /// Puts a picture of the whole page into a file.
    pub fn picture(&mut self, tab: &Tab, file: &Path) {
        let question = json!({"format": "png", "captureBeyondViewport": true});
        let data = text(&self.on(tab, "Page.captureScreenshot", question)["data"]);
        let png = data_encoding::BASE64.decode(data.as_bytes());
        fs::write(file, png.expect("base64")).expect("the picture can be written");
    }

    /// The addresses that the page asked for since it was opened.
    pub fn requests(&mut self, tab: &Tab) -> Vec<String> {
        self.reported(tab, "Network.requestWillBeSent")
            .map(|event| text(&event["params"]["request"]["url"]))
            .collect()
    }

    /// Exceptions, and messages on the console, since the page was opened: a page that is well has none.
    pub fn complaints(&mut self, tab: &Tab) -> Vec<String> {
        // What has been reported up to now is read with the answer to this.
        self.evaluate(tab, "0");
        [
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
        ]
        .iter()
        .flat_map(|kind| {
            self.reported(tab, kind)
                .map(Value::to_string)
                .collect::<Vec<_>>()
        })
        .collect()
    }

    fn reported(&self, tab: &Tab, method: &str) -> impl Iterator<Item = &Value> {
        let mine = self
            .events
            .iter()
            .filter(move |(session, _)| *session == tab.session);
        mine.map(|(_, event)| event)
            .filter(move |event| event["method"] == method)
    }

    fn on(&mut self, tab: &Tab, method: &str, params: Value) -> Value {
        self.command(Some(&tab.session), method, params)
    }

    fn command(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.commands += 1;
        let id = self.commands;
        let mut command = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let sent = self.socket.send(Message::text(command.to_string()));
        sent.expect("Chromium listens");
        loop {
            let message = self.socket.read().expect("Chromium answers");
            let Message::Text(message) = message else {
                continue;
            };
            let mut message: Value = serde_json::from_str(&message).expect("JSON");
            if message["id"] == id {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].take();
            }
            if let Some(session) = message["sessionId"].as_str() {
                self.events.push((session.to_owned(), message));
            }
        }
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|folder| NAMES.map(|name| folder.join(name)))
        .find(|file| file.is_file())
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
