//! The landlock ruleset of a sandbox: files, TCP ports, abstract Unix sockets, signals.
//!
//! Every ruleset keeps signals within the sandbox, and with any of them the kernel refuses to trace
//! processes outside of it (ptrace(2), `/proc/PID/mem`, process_vm_readv(2)).

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    Scope,
};

use super::unsupported;
use crate::error::{Error, ErrorKind};
use crate::sandbox::{Sandbox, SandboxRules};

/// What all programs may open, without a rule of their own.
const DEVICES: [(&str, bool); 5] = [
    ("/dev/null", true),
    ("/dev/zero", true),
    ("/dev/full", true),
    ("/dev/random", false),
    ("/dev/urandom", false),
];
/// Where systems keep their programs, libraries and shared data, and the few files elsewhere that
/// every program reads. What does not exist on a system is passed over.
const SYSTEM: [&str; 19] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/locale.alias",
    "/etc/mime.types",
    "/etc/ssl/openssl.cnf",
];

/// Whether the kernel has landlock with all that sandboxes need. It does not change.
static IS_SUPPORTED: OnceLock<bool> = OnceLock::new();

/// # Errors
///
/// `Unsupported` if the kernel has no landlock, or an older one.
pub(super) fn check(sandbox: &Sandbox) -> Result<(), Error> {
    let is_supported = IS_SUPPORTED.get_or_init(|| empty(&SandboxRules::default()).is_ok());
    if *is_supported {
        return Ok(());
    }
    let what = "the kernel does not offer landlock with signal scopes (ABI 6), which Linux 6.12 and \
        newer have unless it is left out of their list of security modules (lsm=), or a container's \
        seccomp profile refuses its system calls; update the kernel, or run it without a sandbox";
    Err(unsupported(sandbox, what))
}

/// A ruleset that handles what a sandbox restricts and allows none of it.
fn empty(rules: &SandboxRules) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let mut scope = BitFlags::from(Scope::Signal);
    if !rules.all_files {
        ruleset = ruleset.handle_access(AccessFs::from_all(ABI::V5))?;
    }
    if !rules.network {
        ruleset = ruleset.handle_access(AccessNet::from_all(ABI::V4))?;
        scope |= Scope::AbstractUnixSocket;
    }
    ruleset.scope(scope)?.create()
}

/// # Errors
///
/// `BadOption` if a path cannot be opened, `Unsupported` if the kernel refuses the ruleset.
pub(super) fn ruleset(
    rules: &SandboxRules,
    own_directory: Option<&PathFd>,
) -> Result<OwnedFd, Error> {
    let mut ruleset = empty(rules).map_err(|e| refused(&e))?;
    if !rules.all_files {
        let mut read = AccessFs::ReadFile | AccessFs::ReadDir;
        if let Some(directory) = own_directory {
            ruleset = ruleset
                .add_rule(PathBeneath::new(directory, read))
                .map_err(|e| refused(&e))?;
        }
        let devices = DEVICES
            .into_iter()
            .filter(|(path, _)| Path::new(path).exists());
        for (path, is_written) in devices {
            let written = is_written.then_some(AccessFs::WriteFile | AccessFs::Truncate);
            ruleset = allow(ruleset, path, read | written.unwrap_or_default())?;
        }
        if rules.programs {
            read |= AccessFs::Execute;
        }
        let system = SYSTEM
            .into_iter()
            .filter(|path| rules.system && Path::new(path).exists());
        for path in system
            .map(Path::new)
            .chain(rules.read.iter().map(AsRef::as_ref))
        {
            ruleset = allow(ruleset, path, read)?;
        }
        let devices_and_programs =
            AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
        let written = AccessFs::from_all(ABI::V5) & !devices_and_programs;
        for path in &rules.write {
            ruleset = allow(ruleset, path, written)?;
        }
    }
    let descriptor: Option<OwnedFd> = ruleset.into();
    descriptor.ok_or_else(|| refused(&"it gave no descriptor"))
}

/// Allows this of what is at a path and below.
fn allow(
    ruleset: RulesetCreated,
    path: impl AsRef<Path>,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Error> {
    let path = path.as_ref();
    let opened = PathFd::new(path).map_err(|e| unreadable(path, &e))?;
    let kind = rustix::fs::fstat(&opened)
        .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode))
        .map_err(|e| unreadable(path, &e))?;
    // The others mean something for directories only, and the kernel refuses them for a file.
    let access = if kind == rustix::fs::FileType::Directory {
        access
    } else {
        access & AccessFs::from_file(ABI::V5)
    };
    ruleset
        .add_rule(PathBeneath::new(opened, access))
        .map_err(|e| refused(&e))
}

fn refused(error: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("make the landlock ruleset of a sandbox: {error}"),
    )
}

pub(super) fn unreadable(path: impl AsRef<Path>, error: &dyn fmt::Display) -> Error {
    let text = format!(
        "make a sandbox with the path {:?}: {error}; name paths that exist where workers run",
        path.as_ref()
    );
    Error::new(ErrorKind::BadOption, text)
}
