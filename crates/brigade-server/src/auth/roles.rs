//! [`Role`] and [`Roles`]: what a credential allows.

use std::fmt;
use std::str::FromStr;

/// What a credential allows. A credential has one or more of them; none implies another, but
/// `admin` has every right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look at queues, jobs, consumers, schedules, statistics and events, with payloads.
    Read,
    /// Push jobs and flows, make calls, and see what became of single jobs by their ids, without
    /// payloads, results and reasons.
    Push,
    /// Take and lease jobs, settle leases, and see what became of single jobs, as `Push` does.
    Work,
    /// Everything, above all what changes the jobs of others: cancel, retry, delete, pause, limit,
    /// purge, schedules.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Read, Self::Push, Self::Work, Self::Admin];

    /// Its name in files and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Push => "push",
            Self::Work => "work",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Push => 2,
            Self::Work => 4,
            Self::Admin => 8,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of roles. As text, their names with commas between: `push,work`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Every role.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// Whether these allow what the role allows.
    pub fn allow(self, role: Role) -> bool {
        self.0 & (role.bit() | Role::Admin.bit()) != 0
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Role::ALL
            .into_iter()
            .filter(|role| self.0 & role.bit() != 0);
        let names: Vec<&str> = names.map(Role::name).collect();
        f.pad(&names.join(","))
    }
}

impl FromStr for Roles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = |name: &str| {
            let found = Role::ALL
                .into_iter()
                .find(|role| role.name() == name.trim());
            found.ok_or_else(|| {
                format!("unknown role {name:?} (there are: read, push, work, admin)")
            })
        };
        text.split(',').map(role).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_as_they_are_written() {
        let roles: Roles = "work, push".parse().unwrap();
        assert_eq!(roles.to_string(), "push,work");
        assert!(roles.allow(Role::Push) && roles.allow(Role::Work));
        assert!(!roles.allow(Role::Read) && !roles.allow(Role::Admin));
        let error = "push,boss".parse::<Roles>().unwrap_err();
        assert!(
            error.contains("\"boss\"") && error.contains("admin"),
            "{error}"
        );
    }

    #[test]
    fn an_admin_may_do_everything() {
        let admin: Roles = "admin".parse().unwrap();
        assert!(Role::ALL.into_iter().all(|role| admin.allow(role)));
    }
}
