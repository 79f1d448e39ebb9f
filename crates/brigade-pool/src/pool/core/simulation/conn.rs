//! The connection to a worker of the simulation: it writes down what it is sent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::super::super::ids::CallId;
use super::super::super::stop_reason::StopReason;
use super::super::super::worker_conn::WorkerConn;
use super::super::super::worker_conn::outgoing::OutgoingAttempt;
use crate::sync::lock;

/// What connections were sent, in order.
pub(super) type SentLog = Arc<Mutex<Vec<(usize, CallId)>>>;

pub(super) struct SimConn {
    serial: usize,
    log: SentLog,
}

impl WorkerConn for SimConn {
    fn append(&self, attempt: &OutgoingAttempt<'_>) {
        lock(&self.log).push((self.serial, attempt.call));
    }

    fn is_congested(&self) -> bool {
        false
    }

    fn flush(&self) {}

    fn kick(&self) {}

    fn let_go(&self) {}

    fn ask_to_stop(&self, _call: CallId, _reason: &StopReason, _hurry: bool) {}
}

impl SimConn {
    pub(super) fn connect(serial: usize, log: SentLog) -> Arc<dyn WorkerConn> {
        let conn = Arc::new(Self { serial, log });
        SERIALS.with_borrow_mut(|known| known.insert(Arc::as_ptr(&conn).addr(), serial));
        conn
    }
}

std::thread_local! {
    /// Serials by the address of the connection. Connections of a world are never freed before the
    /// next one begins, but addresses may come again, with a new serial.
    static SERIALS: RefCell<BTreeMap<usize, usize>> =
        const { RefCell::new(BTreeMap::new()) };
}

/// The serial of a connection that the dispatcher gives back.
pub(super) fn serial_of(conn: &dyn WorkerConn) -> usize {
    let address = std::ptr::from_ref(conn).cast::<()>().addr();
    SERIALS.with_borrow(|known| known[&address])
}
