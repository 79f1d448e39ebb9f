//! `brigade serve`: the HTTP API and the dashboard of a broker.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use brigade_server::{Auth, ServerOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connection::Globals;
use crate::exit::usage;
use crate::show;

/// Serve the HTTP API and the dashboard of a broker
///
/// Programs in any language push, take and call over HTTP; /openapi.json describes the API. The
/// command ends at SIGINT or SIGTERM, after the requests that it is answering.
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7420")]
    listen: SocketAddr,
}

impl Serve {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        if !self.listen.ip().is_loopback() {
            return Err(usage("without credentials, listen on a loopback address"));
        }
        let broker = globals.connect().await?;
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr().context("cannot read the address")?;
        let stop = CancellationToken::new();
        let options = ServerOptions::new(Auth::none()).stop(stop.clone());
        let app = brigade_server::router(broker, options);
        show::line(&format!("listening on http://{address}"))?;
        let stopped = async move {
            brigade::stop_signal().await;
            stop.cancel();
        };
        axum::serve(listener, app)
            .with_graceful_shutdown(stopped)
            .await
            .context("cannot serve")?;
        Ok(ExitCode::SUCCESS)
    }
}
