//! The address of a client, as the connection has it.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::Extensions;

/// The address of the client, if the server knows it.
pub(crate) fn peer_of(request: &Request) -> Option<IpAddr> {
    peer_in(request.extensions())
}

/// The address of the client by the extensions of its request.
pub(crate) fn peer_in(extensions: &Extensions) -> Option<IpAddr> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map(|ConnectInfo(address)| address.ip())
}
