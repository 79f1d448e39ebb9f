//! [`Sandbox`]: what an attempt may do to the rest of the machine.
//!
//! A sandbox is a value: three profiles with names, or rules of your own by [`Sandbox::builder`].
//! It holds no descriptor and asks nothing of the system; `brigade-pool` applies it to a worker
//! process, by landlock and seccomp, before the attempt begins. What each profile stops is a table
//! in `docs/guide/untrusted-code.md`.
//!
//! In JSON (options of jobs) a profile is its name and other sandboxes are an object with the
//! fields of [`SandboxRules`]. An unknown name or field is an error, never a weaker sandbox.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind};

/// Most paths that one sandbox names, to read and to write each.
pub const PATHS_MAX: usize = 64;
/// Longest path, as the kernel has it (PATH_MAX).
const PATH_BYTES_MAX: usize = 4095;

/// What an attempt may do to the rest of the machine: a profile, or rules of your own.
///
/// A worker keeps its first sandbox until it ends. Every sandbox stops system calls by which code
/// reaches other processes or much of the kernel: `ptrace`, `io_uring`, `mount`, namespaces, `bpf`,
/// keyrings and more. The profiles:
///
/// | profile | network | files | other programs |
/// |---|---|---|---|
/// | [`no-network`](Self::no_network) | none, no Unix sockets either | as the user may | yes |
/// | [`read-only`](Self::read_only) | none | read only | yes |
/// | [`compute`](Self::compute) | none | none | none, and no child processes |
///
/// ```
/// use brigade::{Sandbox, task};
///
/// #[task(sandbox = "compute", memory = "256MiB", timeout = "10s")]
/// fn decode(image: Vec<u8>) -> usize {
///     image.len()
/// }
///
/// # fn example() -> Result<(), brigade::Error> {
/// let scripts = Sandbox::builder()
///     .system() // the system's programs and libraries
///     .programs()
///     .read("/srv/models")
///     .write("/srv/scratch")
///     .build()?;
/// let call = decode(vec![1, 2, 3]).sandbox(scripts);
/// # drop(call);
/// let profile: Sandbox = "read-only".parse()?;
/// assert_eq!(profile, Sandbox::read_only());
/// # Ok(()) }
/// # example().unwrap();
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sandbox(Arc<SandboxRules>);

/// What a sandbox allows. All of it is refused by default.
#[doc(hidden)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxRules {
    /// Files as the user may use them; the paths below mean nothing then.
    pub all_files: bool,
    /// Files and directories to read, and to execute where programs may be started.
    pub read: Vec<PathBuf>,
    /// Files and directories to read and to change.
    pub write: Vec<PathBuf>,
    /// The system's programs, libraries and fonts, to read.
    pub system: bool,
    /// Child processes and other programs.
    pub programs: bool,
    /// Sockets.
    pub network: bool,
}

/// Makes a [`Sandbox`] with rules of your own.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until its sandbox is built"]
pub struct SandboxBuilder(SandboxRules);

impl Sandbox {
    /// No sockets but pairs that the code makes for itself; files and programs as the user may use
    /// them.
    #[must_use]
    pub fn no_network() -> Self {
        Self::of(SandboxRules {
            all_files: true,
            programs: true,
            ..SandboxRules::default()
        })
    }

    /// No network, and nothing on disk changes. Everything that the user may read can be read.
    #[must_use]
    pub fn read_only() -> Self {
        Self::of(SandboxRules {
            read: vec![PathBuf::from("/")],
            programs: true,
            ..SandboxRules::default()
        })
    }

    /// CPU, memory and what is open already: no network, no files, no child processes.
    #[must_use]
    pub fn compute() -> Self {
        Self::of(SandboxRules::default())
    }

    /// Rules of your own: as [`compute`](Self::compute), and what the builder adds.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }

    /// What this sandbox allows, to add to.
    pub fn to_builder(&self) -> SandboxBuilder {
        SandboxBuilder(self.rules().clone())
    }

    fn of(rules: SandboxRules) -> Self {
        Self(Arc::new(rules))
    }

    /// What it allows.
    #[doc(hidden)]
    #[must_use]
    pub fn rules(&self) -> &SandboxRules {
        &self.0
    }

    /// The sandbox of a command, which is a program itself: it may start programs, and those of the
    /// system can be read where files are restricted.
    #[doc(hidden)]
    #[must_use]
    pub fn of_command(&self) -> Self {
        let mut rules = self.rules().clone();
        rules.programs = true;
        rules.system |= !rules.all_files;
        Self::of(rules)
    }

    /// The name, if it is one of the profiles.
    #[must_use]
    pub fn profile(&self) -> Option<&'static str> {
        PROFILES
            .iter()
            .find(|(_, profile)| profile() == *self)
            .map(|(name, _)| *name)
    }
}

type NewSandbox = fn() -> Sandbox;

/// The profiles by their names.
const PROFILES: [(&str, NewSandbox); 3] = [
    ("no-network", Sandbox::no_network),
    ("read-only", Sandbox::read_only),
    ("compute", Sandbox::compute),
];

impl SandboxBuilder {
    /// Allows to read what is at this absolute path and below, and to execute it where
    /// [`programs`](Self::programs) are allowed. The path is resolved, with its links, when a
    /// worker takes the sandbox on; it must exist then.
    pub fn read(mut self, path: impl AsRef<Path>) -> Self {
        self.0.read.push(path.as_ref().to_owned());
        self
    }

    /// Allows to read and to change what is at this absolute path and below: to write, create,
    /// rename and delete, but not to execute, nor to change modes, owners, times and attributes.
    /// The path is resolved as that of [`read`](Self::read).
    pub fn write(mut self, path: impl AsRef<Path>) -> Self {
        self.0.write.push(path.as_ref().to_owned());
        self
    }

    /// Allows to read the programs, libraries and shared data that the system has installed:
    /// `/usr`, `/bin`, `/lib` and alike, and the few files of `/etc` that every program reads.
    pub fn system(mut self) -> Self {
        self.0.system = true;
        self
    }

    /// Allows child processes, and other programs as far as their files can be read.
    pub fn programs(mut self) -> Self {
        self.0.programs = true;
        self
    }

    /// Allows sockets.
    pub fn network(mut self) -> Self {
        self.0.network = true;
        self
    }

    /// The sandbox.
    ///
    /// # Errors
    ///
    /// `BadOption` for more than 64 paths to read or to write, and for a path that is not absolute,
    /// has more than 4,095 bytes or a NUL; and for paths where all files may be used anyway.
    pub fn build(self) -> Result<Sandbox, Error> {
        self.0.check()?;
        Ok(Sandbox::of(self.0))
    }
}

impl SandboxRules {
    fn check(&self) -> Result<(), Error> {
        let bad = |text: String| Err(Error::new(ErrorKind::BadOption, text));
        if self.all_files && !(self.read.is_empty() && self.write.is_empty()) {
            return bad(
                "make a sandbox with paths that restricts no files: begin with read-only or \
                    compute, or leave the paths out"
                    .to_owned(),
            );
        }
        for (what, paths) in [("read", &self.read), ("write", &self.write)] {
            if paths.len() > PATHS_MAX {
                return bad(format!(
                    "make a sandbox with {} paths to {what}: at most {PATHS_MAX} are allowed; name \
                        a directory above them",
                    paths.len()
                ));
            }
            for path in paths {
                let bytes = path.as_os_str().as_encoded_bytes();
                if !path.is_absolute() || bytes.len() > PATH_BYTES_MAX || bytes.contains(&0) {
                    return bad(format!(
                        "make a sandbox with the path {path:?} to {what}: a path is absolute, has \
                            at most {PATH_BYTES_MAX} bytes and no NUL"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Sandbox {
    type Err = Error;

    /// A profile by its name.
    ///
    /// # Errors
    ///
    /// `BadOption` for another text.
    fn from_str(name: &str) -> Result<Self, Error> {
        let known = PROFILES.iter().find(|(profile, _)| *profile == name);
        known.map(|(_, profile)| profile()).ok_or_else(|| {
            let text = format!(
                "find a sandbox {name:?}: there are no-network, read-only and compute; others are \
                    made by Sandbox::builder()"
            );
            Error::new(ErrorKind::BadOption, text)
        })
    }
}

/// The name of a profile, or what it allows.
impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.profile() {
            return f.write_str(name);
        }
        let rules = self.rules();
        f.write_str("compute")?;
        let words = [
            (rules.all_files, "all files"),
            (rules.system, "system"),
            (rules.programs, "programs"),
            (rules.network, "network"),
        ];
        for (_, word) in words.iter().filter(|(is_allowed, _)| *is_allowed) {
            write!(f, " + {word}")?;
        }
        for (word, paths) in [("read", &rules.read), ("write", &rules.write)] {
            for path in paths {
                write!(f, " + {word} {path:?}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sandbox({self})")
    }
}

/// As stores and HTTP have it.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "the name of a sandbox, or an object with its rules"
)]
enum WrittenSandbox {
    Name(String),
    Rules(SandboxRules),
}

impl Serialize for Sandbox {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.profile() {
            Some(name) if serializer.is_human_readable() => serializer.serialize_str(name),
            _ => self.rules().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Sandbox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rules = if deserializer.is_human_readable() {
            match WrittenSandbox::deserialize(deserializer)? {
                WrittenSandbox::Name(name) => return name.parse().map_err(de::Error::custom),
                WrittenSandbox::Rules(rules) => rules,
            }
        } else {
            SandboxRules::deserialize(deserializer)?
        };
        rules.check().map_err(de::Error::custom)?;
        Ok(Self::of(rules))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(sandbox: &Sandbox) -> String {
        serde_json::to_string(sandbox).unwrap()
    }

    #[test]
    fn a_profile_is_its_name_as_text_and_in_json() {
        for (name, profile) in PROFILES {
            assert_eq!(name.parse::<Sandbox>().unwrap(), profile());
            assert_eq!(profile().to_string(), name);
            assert_eq!(json(&profile()), format!("{name:?}"));
            let read: Sandbox = serde_json::from_str(&format!("{name:?}")).unwrap();
            assert_eq!(read, profile());
        }
        "none".parse::<Sandbox>().unwrap_err();
    }

    #[test]
    fn rules_of_ones_own_arrive_equal_in_json_and_between_processes() {
        let own = Sandbox::builder().system().read("/a b").write("/c");
        let own = own.programs().build().unwrap();
        assert_eq!(
            own.to_string(),
            r#"compute + system + programs + read "/a b" + write "/c""#
        );
        for sandbox in [own, Sandbox::compute(), Sandbox::no_network()] {
            let read: Sandbox = serde_json::from_str(&json(&sandbox)).unwrap();
            assert_eq!(read, sandbox);
            let bytes = postcard::to_stdvec(&sandbox).unwrap();
            assert_eq!(postcard::from_bytes::<Sandbox>(&bytes).unwrap(), sandbox);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_and_never_a_weaker_sandbox() {
        for text in [
            r#""all""#,
            r#"{"reads": ["/"]}"#,
            r#"{"read": ["relative"]}"#,
            r#"{"network": 1}"#,
            "null",
            "7",
        ] {
            serde_json::from_str::<Sandbox>(text).unwrap_err();
        }
        let many = (0..=PATHS_MAX).fold(Sandbox::builder(), |builder, n| {
            builder.read(format!("/{n}"))
        });
        assert_eq!(many.build().unwrap_err().kind(), ErrorKind::BadOption);
        for path in ["a", "", "/a\0b"] {
            Sandbox::builder().write(path).build().unwrap_err();
        }
    }
}
