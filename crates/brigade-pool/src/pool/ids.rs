//! Ids of the dispatcher: a call, and a worker.

/// A call that the dispatcher has admitted.
///
/// `key` is its place in the table of calls, which a later call may take again; `generation` counts
/// calls and distinguishes the two. Ordered by generation: in the order of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CallId {
    generation: u32,
    key: u32,
}

impl CallId {
    pub(super) fn new(generation: u32, key: usize) -> Self {
        let key = u32::try_from(key).expect("invariant: the number of calls is limited");
        Self { generation, key }
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }

    pub(super) fn key(self) -> usize {
        self.key as usize
    }

    /// The number that people see: it distinguishes four billion calls in a row.
    pub(crate) fn number(self) -> u64 {
        self.generation.into()
    }

    /// The id as it stands in frames.
    pub(crate) fn to_wire(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.key)
    }

    /// The id in a frame. A peer may send any number, also one of no call.
    pub(crate) fn from_wire(id: u64) -> Self {
        let [g3, g2, g1, g0, k3, k2, k1, k0] = id.to_be_bytes();
        Self {
            generation: u32::from_be_bytes([g3, g2, g1, g0]),
            key: u32::from_be_bytes([k3, k2, k1, k0]),
        }
    }
}

/// A worker: its number, which a replacement takes over, and its epoch, which no other worker of
/// the pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkerId {
    pub(crate) number: u32,
    pub(crate) epoch: u64,
}

impl WorkerId {
    /// Its place in the table of workers.
    pub(super) fn index(self) -> usize {
        self.number as usize - 1
    }
}
