//! `brigade serve`: the HTTP API and the dashboard of a broker.
//!
//! In order: the credentials and the certificate are read, the broker is connected, the address is
//! bound, and only then the command says that it is ready, on standard output and to systemd. At
//! SIGHUP it reads the tokens and the certificate again. At SIGINT or SIGTERM it drains. It does so
//! too when it cannot manage its queues any more, or when the connection to the broker has ended
//! for good; these are errors. The routes and the connections are the library's; here are the
//! decisions of a program: which addresses need what, and where its token is.

mod certificate;
mod credentials;
mod notify;
mod token_file;
mod watched_files;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use brigade::Broker;
use brigade_server::{Auth, Server, ServerOptions, ServerTls};
use futures_util::future::{OptionFuture, try_join_all};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::certificate::CertificateFiles;
use self::credentials::AuthChoice;
use self::token_file::TokenFile;
use crate::connection::Globals;
use crate::escape::escape;
use crate::exit::{self, usage};
use crate::show::{self, note};
use crate::times;
use crate::trace::TraceOptions;

/// Serve the HTTP API and the dashboard of a broker
///
/// Programs in any language push, take and call over HTTP; /openapi.json describes the API. Without
/// --auth, a token is made at the first start, in a file that only you can read. A token file or a
/// certificate that changes is read again, at SIGHUP at once. The command ends at SIGINT or
/// SIGTERM, after the requests that it is answering.
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:7420")]
    listen: SocketAddr,

    /// File with the tokens, made by `brigade token`; or `none`, on a loopback address only
    #[arg(long, value_name = "FILE")]
    auth: Option<AuthChoice>,

    /// Certificate chain of the server, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Allow another address than loopback without TLS: a proxy in front of it has to encrypt
    #[arg(long, conflicts_with = "tls_cert")]
    insecure: bool,

    /// A proxy in front of the server encrypts: allow another address than loopback, and let
    /// browsers send cookies by HTTPS only
    #[arg(long, conflicts_with = "tls_cert")]
    https_proxy: bool,

    /// Name by which clients may reach the server, besides localhost and addresses; may be repeated
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,

    /// Also hand out jobs of this queue to plain Redis clients, as `brigade manager` does; may be
    /// repeated
    #[arg(long, value_name = "QUEUE")]
    manager: Vec<String>,

    /// If the broker cannot be reached at the start, wait for it
    #[arg(long)]
    wait_for_broker: bool,

    /// The most connections at once; further ones wait
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    connections: usize,

    /// /health is not well when a job has been ready for longer than this
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "5m")]
    healthy_wait: Duration,

    /// /health is not well when more jobs of a queue than this became dead letters within an hour
    #[arg(long, value_name = "N", default_value_t = 100)]
    healthy_dead: u64,

    /// The longest wait that a request may ask for
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "5m")]
    wait_max: Duration,

    #[command(flatten)]
    trace: TraceOptions,

    /// Longest time for requests to come to their end after a stop
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "25s")]
    drain: Duration,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an IP address and a port, as 127.0.0.1:7420 or [::1]:7420".to_owned())
}

/// Only a new connection can help then, which a restart makes.
const ENDED: &str = "the connection to the broker has ended for good: start the server again";
/// Between two attempts to reach the broker.
const BROKER_PAUSE: Duration = Duration::from_millis(500);

impl Serve {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        // Without files to read again, too, it does not end the server.
        let _hangups = watched_files::hangups();
        let certificate = self.certificate();
        let tls = certificate
            .as_ref()
            .map(CertificateFiles::read)
            .transpose()?;
        self.check_address()?;
        let credentials = credentials::of(self.auth.as_ref(), self.listen.ip())?;
        let _tracing = self.trace.start(true)?;
        let mut stopped = std::pin::pin!(brigade::stop_signal());
        let broker = tokio::select! {
            _ = &mut stopped => return Ok(exit::STOPPED.into()),
            broker = self.connect(globals) => broker?,
        };
        if !self.manager.is_empty() && !broker.capabilities().manager {
            return Err(usage(
                "this broker has no plain clients: --manager is for redis://",
            ));
        }
        let listener = self.bind().await?;
        let address = listener.local_addr().context("cannot read the address")?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ended = CancellationToken::new();
        let options = ServerOptions::new(credentials.auth.clone())
            .stop(stop.clone())
            .tasks(tasks.clone())
            .ended(ended.clone())
            .wait_max(self.wait_max)
            // The others are for probes and requests that do not wait.
            .waits_max((self.connections / 2).max(1))
            .healthy_wait(self.healthy_wait)
            .healthy_dead(self.healthy_dead)
            .hosts(self.host.iter().map(String::as_str))
            .secure(tls.is_some() || self.https_proxy);
        let app = brigade_server::router(broker.clone(), options);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut server = Server::new(listener)
            .connections_max(self.connections)
            .drain_time(self.drain)
            .tasks(tasks);
        if let Some(tls) = tls.clone() {
            server = server.tls(tls);
        }
        if let Some(path) = credentials.file.as_ref().and_then(|file| file.own_path()) {
            show::line(&format!("token in {}", path.display()))?;
        }
        show::line(&format!("listening on {scheme}://{address}"))?;
        notify::systemd("READY=1");
        let stopping = async {
            tokio::select! {
                _ = &mut stopped => {}
                () = ended.cancelled() => note!("the server ends: {ENDED}"),
                () = stop.cancelled() => {}
            }
            stop.cancel();
            notify::systemd("STOPPING=1");
        };
        let serving = server.run(app, stop.clone());
        let tokens = credentials.file.map(|file| (file, &credentials.auth));
        let following = follow(tokens, certificate.zip(tls.as_ref()), &stop);
        let managing = self.manage(&broker, &stop);
        let ((), managed, (), ()) = tokio::join!(serving, managing, stopping, following);
        managed?;
        match ended.is_cancelled() {
            true => Err(anyhow!(ENDED)),
            false => Ok(ExitCode::SUCCESS),
        }
    }

    async fn bind(&self) -> anyhow::Result<TcpListener> {
        TcpListener::bind(self.listen).await.with_context(|| {
            format!(
                "cannot listen on {}: choose another port with --listen",
                self.listen
            )
        })
    }

    fn certificate(&self) -> Option<CertificateFiles> {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        files.map(|(certificate, key)| CertificateFiles::new(certificate, key))
    }

    /// What leaves this machine is encrypted, unless the user says that something else does it.
    fn check_address(&self) -> anyhow::Result<()> {
        if self.listen.ip().is_loopback()
            || self.tls_cert.is_some()
            || self.insecure
            || self.https_proxy
        {
            return Ok(());
        }
        Err(usage(format!(
            "{} can be reached from other machines: give --tls-cert and --tls-key, or \
                --https-proxy (or --insecure) behind a proxy that encrypts",
            self.listen.ip()
        )))
    }

    async fn connect(&self, globals: &Globals) -> anyhow::Result<Broker> {
        let mut is_first = true;
        loop {
            let error = match globals.connect().await {
                Ok(broker) => return Ok(broker),
                Err(error) => error,
            };
            let is_temporary = error
                .downcast_ref::<brigade::Error>()
                .is_some_and(brigade::Error::is_retryable);
            if !self.wait_for_broker || !is_temporary {
                let hint = match is_temporary {
                    true => "start the broker first, or wait for it with --wait-for-broker",
                    false => "cannot start the server",
                };
                return Err(error.context(hint));
            }
            if is_first {
                note!("waiting for the broker: {error:#}");
                is_first = false;
            }
            sleep(BROKER_PAUSE).await;
        }
    }

    /// Hands out jobs to plain clients until the stop. If that fails, the server is stopped, so
    /// that the requests that it is answering come to their end before the error ends the program.
    async fn manage(&self, broker: &Broker, stop: &CancellationToken) -> anyhow::Result<()> {
        let managers = self.manager.iter().map(|queue| {
            let manager = broker.manager(queue.as_str());
            manager.run_until(stop.clone().cancelled_owned())
        });
        if !self.manager.is_empty() {
            note!("managing {}", escape(&self.manager.join(", ")));
        }
        let managed = try_join_all(managers)
            .await
            .context("cannot manage the queues");
        if let Err(error) = &managed {
            note!("the server ends: {error:#}");
            stop.cancel();
        }
        managed.map(drop)
    }
}

/// Keeps the tokens and the certificate as their files have them, until the stop.
async fn follow(
    tokens: Option<(TokenFile, &Auth)>,
    certificate: Option<(CertificateFiles, &ServerTls)>,
    stop: &CancellationToken,
) {
    let tokens = OptionFuture::from(tokens.map(|(file, auth)| file.follow(auth)));
    let certificate = OptionFuture::from(certificate.map(|(files, tls)| files.follow(tls)));
    let following = async { tokio::join!(tokens, certificate) };
    stop.run_until_cancelled(following).await;
}
