//! One HTTP server that is an account's server (PDS) and the PLC directory in one, and fails on
//! demand.
//!
//! | request | answer |
//! |---|---|
//! | `GET /xrpc/com.atproto.sync.getRepo?did=…` | the CAR of [`FixtureServer::put_repo`], or what [`Fault`] says |
//! | `GET /{did}` | the document of [`FixtureServer::put_document`], or 404 |
//! | `GET /.well-known/did.json` | the document of [`FixtureServer::put_web_document`], or 404 |
//! | `GET /xrpc/com.atproto.sync.listRepos…` | a page of [`FixtureServer::list_repos`] |
//! | anything | what [`FixtureServer::answer`] says |
//!
//! Plain threads, one per connection: what goes over the wire is exactly what is written here.

mod answers;
mod faults;
mod http;
mod state;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::generator::{Repo, mixed_repo};

pub use faults::Fault;
pub use http::Request;
pub use state::Document;
use state::Shared;

use super::wait::eventually;

/// The path of the one XRPC method that it knows.
pub const GET_REPO: &str = "/xrpc/com.atproto.sync.getRepo";

/// A running server. All can be changed at any time, also while requests are being answered.
pub struct FixtureServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl FixtureServer {
    /// Starts a server on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::start_with_addr("127.0.0.1:0")
    }

    /// Starts a server on another address, such as `127.0.0.2:0`: another host to the program.
    pub fn start_with_addr(address: &str) -> Self {
        let listener = TcpListener::bind(address)
            .unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared::default());
        let acceptor = thread::Builder::new()
            .name("fixture".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || accept(&listener, &shared)
            })
            .expect("a thread");
        Self {
            shared,
            address,
            acceptor: Some(acceptor),
        }
    }

    /// `http://<address>:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `<address>:<port>`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The whole URL of a repository, for example to redirect to.
    pub fn repo_url(&self, did: &str) -> String {
        format!("{}{GET_REPO}?did={did}", self.url())
    }

    /// Is PDS and directory of this repo.
    pub fn serve(&self, repo: &Repo) {
        self.put_document(&repo.did, repo.did_document(&self.url()));
        self.put_repo(&repo.did, repo.car());
    }

    /// Registers or replaces the repository of an account.
    pub fn put_repo(&self, did: &str, car: Vec<u8>) {
        self.shared.lock().repos.insert(did.into(), Arc::new(car));
    }

    /// Takes the repository of an account away: RepoNotFound from now on.
    pub fn remove_repo(&self, did: &str) {
        self.shared.lock().repos.remove(did);
    }

    /// Registers or replaces the DID document of an account.
    pub fn put_document(&self, did: &str, document: Value) {
        self.put_document_status(did, 200, document.to_string());
    }

    /// What the directory answers for an account instead: 404, 410 (a tombstone), 429, 500.
    pub fn put_document_status(&self, did: &str, status: u16, body: impl Into<String>) {
        let document = Document {
            status,
            retry_after: None,
            body: body.into(),
        };
        self.shared.lock().documents.insert(did.into(), document);
    }

    /// The directory refuses for so many seconds whoever asks for this account.
    pub fn refuse_document(&self, did: &str, seconds: u64) {
        let document = Document {
            status: 429,
            retry_after: Some(seconds),
            body: "<html>".to_owned(),
        };
        self.shared.lock().documents.insert(did.into(), document);
    }

    /// Sets the document of `did:web:<this host>`.
    pub fn put_web_document(&self, document: Value) {
        self.put_web_text(document.to_string());
    }

    /// The document of `did:web:<this host>` is this text.
    pub fn put_web_text(&self, body: impl Into<String>) {
        self.answer_for_web(200, body.into());
    }

    /// Sends whoever asks for the document of `did:web:<this host>` to this URL.
    pub fn redirect_web_document(&self, location: impl Into<String>) {
        self.answer_for_web(302, location.into());
    }

    fn answer_for_web(&self, status: u16, body: String) {
        let document = Document {
            status,
            retry_after: None,
            body,
        };
        self.shared.lock().web_document = Some(document);
    }

    /// From now on the connection ends in the midst of each document, or not any more.
    pub fn cut_documents(&self, cuts: bool) {
        self.shared.lock().cuts_documents = cuts;
    }

    /// How getRepo fails for an account, until it is replaced, used up ([`Fault::Then`]) or
    /// cleared.
    pub fn set_fault(&self, did: &str, fault: Fault) {
        self.shared.lock().faults.insert(did.into(), fault);
    }

    /// The normal answers again.
    pub fn clear_fault(&self, did: &str) {
        self.shared.lock().faults.remove(did);
    }

    /// Lets the requests that [`Fault::Hold`] keeps go on, and ends that fault for the account.
    pub fn release(&self, did: &str) {
        self.shared.lock().release(did);
        self.shared.changed.notify_all();
    }

    /// How many requests for an account are being held. One whose client has gone away counts until
    /// it is released.
    pub fn held(&self, did: &str) -> usize {
        self.shared.lock().held.get(did).copied().unwrap_or(0)
    }

    /// Waits until that many requests for an account are being held.
    #[track_caller]
    pub fn wait_until_held(&self, did: &str, count: usize) {
        eventually(&format!("{count} requests for {did} are held"), || {
            self.held(did) >= count
        });
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// How many requests had a (decoded) path and query that begins so.
    pub fn count(&self, path_prefix: &str) -> usize {
        let state = self.shared.lock();
        let requests = state.requests.iter();
        requests
            .filter(|request| request.path.starts_with(path_prefix))
            .count()
    }

    /// How many requests there were for the repository of an account.
    pub fn repo_requests(&self, did: &str) -> usize {
        let state = self.shared.lock();
        let requests = state.requests.iter();
        requests
            .filter(|request| request.is_get_repo() && request.did.as_deref() == Some(did))
            .count()
    }

    /// How many requests there were for the DID document of an account.
    pub fn document_requests(&self, did: &str) -> usize {
        let state = self.shared.lock();
        let path = format!("/{did}");
        state
            .requests
            .iter()
            .filter(|request| request.path == path)
            .count()
    }
}

impl Drop for FixtureServer {
    fn drop(&mut self) {
        let connections: HashMap<_, _> = {
            let mut state = self.shared.lock();
            state.closing = true;
            std::mem::take(&mut state.connections)
        };
        self.shared.changed.notify_all();
        for stream in connections.into_values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let acceptor = self.acceptor.take().expect("it was started");
        while !acceptor.is_finished() {
            // One more connection, so that accept returns and sees that the server is closing.
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
        }
        let mut sound = acceptor.join().is_ok();
        let threads = std::mem::take(&mut self.shared.lock().threads);
        for thread in threads {
            sound &= thread.join().is_ok();
        }
        assert!(
            sound || thread::panicking(),
            "a thread of the fixture server panicked"
        );
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (stream, connection) in listener.incoming().zip(0..) {
        let mut state = shared.lock();
        if state.closing {
            return;
        }
        let Ok(stream) = stream.map(Arc::new) else {
            continue;
        };
        state.connections.insert(connection, Arc::clone(&stream));
        state.threads.retain(|thread| !thread.is_finished());
        let thread = thread::Builder::new()
            .name(format!("fixture-{connection}"))
            .spawn({
                let shared = Arc::clone(shared);
                move || {
                    http::serve(&stream, connection, &shared);
                    // The last owner closes the socket, so the list must not keep it.
                    shared.lock().connections.remove(&connection);
                }
            })
            .expect("a thread");
        state.threads.push(thread);
    }
}

/// The repo of a seed, on a server that is its PDS and directory.
pub fn served(server: &FixtureServer, seed: u64, size: usize) -> Repo {
    let repo = mixed_repo(seed, size);
    server.serve(&repo);
    repo
}
