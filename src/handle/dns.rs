//! TXT records of handles, over hickory-resolver and the reactor of [`Io`].
//!
//! The system's resolver has no call for TXT records, so its configuration is read and its servers are asked. Answers are kept as long
//! as they say. What a record says is told from that there is none: only then may another way be tried without a word.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfigGroup, ResolverConfig};
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::{ProtoError, ProtoErrorKind};
use hickory_resolver::{Name, TokioResolver};

use crate::block_on::Io;

/// How long a server may take to answer, and how often it is asked.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 2;
/// How long a look-up may take as a whole, however many servers there are.
const WHOLE: Duration = Duration::from_secs(20);

/// Asks DNS servers.
pub(super) struct Dns {
    /// Before the reactor, so that it is dropped first.
    resolver: Result<TokioResolver, String>,
    io: Io,
}

impl Dns {
    /// Nothing is asked and no thread started before the first question. `server`: the one to ask; else those of the system.
    pub fn new(server: Option<SocketAddr>) -> Self {
        let builder = match server {
            Some(server) => {
                let servers =
                    NameServerConfigGroup::from_ips_clear(&[server.ip()], server.port(), true);
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                let provider = TokioConnectionProvider::default();
                Ok(TokioResolver::builder_with_config(config, provider))
            }
            None => TokioResolver::builder_tokio(),
        };
        let resolver = builder.map(|mut builder| {
            let options = builder.options_mut();
            options.timeout = TIMEOUT;
            options.attempts = ATTEMPTS;
            // Records of some names do not fit into the 512 bytes of old.
            options.edns0 = true;
            builder.build()
        });
        Dns {
            resolver: resolver.map_err(|e| format!("no DNS server is configured: {e}")),
            io: Io::default(),
        }
    }

    /// The texts of the TXT records of a name; none where it has none.
    ///
    /// # Errors
    /// That nobody could say, in words.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        // With its root, so that no search list makes another name of it.
        let mut name = Name::from_ascii(name).map_err(|e| e.to_string())?;
        name.set_fqdn(true);
        let asked = async {
            let look_up = resolver.txt_lookup(name);
            tokio::time::timeout(WHOLE, look_up).await
        };
        let answer = self.io.block_on(asked);
        match answer.map_err(|e| format!("the thread io cannot be started: {e}"))? {
            Err(_) => Err(format!("DNS: no answer within {} s", WHOLE.as_secs())),
            Ok(Err(e)) => match e.proto().map(ProtoError::kind) {
                // The library says so of every answer without records, that of a server that failed included.
                Some(ProtoErrorKind::NoRecordsFound { response_code, .. }) => {
                    match *response_code {
                        ResponseCode::NoError | ResponseCode::NXDomain => Ok(Vec::new()),
                        code => Err(format!("DNS: {code}")),
                    }
                }
                _ => Err(format!("DNS: {e}")),
            },
            Ok(Ok(records)) => Ok(records
                .iter()
                .map(|record| String::from_utf8_lossy(&record.txt_data().concat()).into_owned())
                .collect()),
        }
    }
}
