//! Where groups for workers can be made: below our own group, in each hierarchy that has what we
//! need.
//!
//! Version 2 has one hierarchy, whose controllers have to be given on to the groups below. A group
//! that does so must hold no processes itself (the "no internal processes" rule of the kernel's
//! `cgroup-v2` document), so what is in our own group is moved into a leaf first: this program, as
//! in a systemd unit with `Delegate=yes`, or all of a container. Where others share the group, it
//! is left as it is, and there are no groups of version 2 with controllers. Version 1 has a
//! hierarchy per controller, and not this rule.
//!
//! All paths start at a root directory, so that tests can have one of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::process::proc_fs::Stat;

/// The group into which the members of our own are moved.
const LEAF: &str = "brigade-main";
/// Controllers that groups of workers use.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// How often the members of our group are moved: some may be started meanwhile.
const MOVES: u32 = 20;

/// The group below which those of workers are made, in each hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    pub(super) unified: Option<PathBuf>,
    /// Of version 1.
    pub(super) memory: Option<PathBuf>,
    /// Of version 1.
    pub(super) pids: Option<PathBuf>,
}

impl Hierarchies {
    /// Those of this process. The first time, version 2 is made ready.
    ///
    /// # Errors
    ///
    /// Where `/proc` does not say.
    pub(super) fn of_this_process() -> io::Result<Self> {
        static FOUND: OnceLock<Hierarchies> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found.clone());
        }
        let found = Self::read(
            &fs::read_to_string("/proc/self/mountinfo")?,
            &fs::read_to_string("/proc/self/cgroup")?,
            Path::new("/"),
        );
        Ok(FOUND.get_or_init(|| found.ready()).clone())
    }

    /// Our own groups, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)) and `/proc/self/cgroup`
    /// (cgroups(7)).
    pub(super) fn read(mounts: &str, own: &str, root: &Path) -> Self {
        let of = |wanted: &str| {
            let own = own.lines().find_map(|line| own_path(line, wanted))?;
            mounts
                .lines()
                .filter_map(Mount::parse)
                .filter(|mount| mount.has(wanted))
                .find_map(|mount| mount.path_of(own, root))
        };
        Self {
            unified: of(""),
            memory: of("memory"),
            pids: of("pids"),
        }
    }

    /// With version 2 ready for groups with controllers, if that is possible.
    pub(super) fn ready(self) -> Self {
        let unified = self.unified.map(|own| {
            give_on_controllers(&own).unwrap_or_else(|e| {
                tracing::debug!(
                    group = %own.display(),
                    "no limits by control groups of version 2: {e}"
                );
                own
            })
        });
        Self { unified, ..self }
    }
}

/// The path of our group, if this line of `/proc/self/cgroup` is of the wanted controller; version
/// 2 has none.
fn own_path<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    controllers
        .split(',')
        .any(|controller| controller == wanted)
        .then_some(path)
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    /// What of the hierarchy is mounted.
    root: &'a str,
    path: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, source) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut source = source.split(' ');
        Some(Self {
            root: mount.next()?,
            path: mount.next()?,
            kind: source.next()?,
            options: source.nth(1)?,
        })
    }

    fn has(&self, wanted: &str) -> bool {
        match wanted {
            "" => self.kind == "cgroup2",
            controller => {
                self.kind == "cgroup" && self.options.split(',').any(|option| option == controller)
            }
        }
    }

    /// Where a group is to be seen; `None` if this mount does not show it.
    fn path_of(&self, group: &str, root: &Path) -> Option<PathBuf> {
        let below = match self.root {
            "/" => group,
            root => group
                .strip_prefix(root)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))?,
        };
        let mount = root.join(self.path.trim_start_matches('/'));
        Some(mount.join(below.trim_start_matches('/')))
    }
}

/// Has groups below ours get our controllers. Returns the group below which they are to be made.
///
/// # Errors
///
/// Where that is not allowed, or would need others' processes to be moved.
fn give_on_controllers(own: &Path) -> io::Result<PathBuf> {
    // A program that was started by one that has made the leaf is in it.
    let base = match (own.file_name(), own.parent()) {
        (Some(name), Some(parent)) if name == LEAF => parent,
        _ => own,
    };
    let list = |file: &str| fs::read_to_string(base.join(file));
    let (available, given) = (list("cgroup.controllers")?, list("cgroup.subtree_control")?);
    let has = |list: &str, wanted: &str| list.split_ascii_whitespace().any(|name| name == wanted);
    let missing: Vec<String> = CONTROLLERS
        .into_iter()
        .filter(|name| has(&available, name) && !has(&given, name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(base.to_owned());
    }
    let give_on = || fs::write(base.join("cgroup.subtree_control"), missing.join(" "));
    let mut gave = give_on();
    for _ in 0..MOVES {
        match gave {
            Ok(()) => return Ok(base.to_owned()),
            Err(e) if e.kind() != io::ErrorKind::ResourceBusy => return Err(e),
            Err(_) => move_into_leaf(base)?,
        }
        gave = give_on();
    }
    gave.map(|()| base.to_owned())
}

/// Moves the members of a group into its leaf.
fn move_into_leaf(base: &Path) -> io::Result<()> {
    let members = fs::read_to_string(base.join("cgroup.procs"))?;
    let members: Vec<u32> = members.lines().filter_map(|pid| pid.parse().ok()).collect();
    if !is_root_of_container(base) && !members.iter().all(|pid| is_ours(*pid)) {
        return Err(io::Error::other(
            "processes of others are in our control group; give this program one of its own \
                (systemd: Delegate=yes)",
        ));
    }
    let leaf = base.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    for pid in members {
        match fs::write(leaf.join("cgroup.procs"), pid.to_string()) {
            // It has ended.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// Whether a group is the first of our namespace and not of the host: the host's has no type.
fn is_root_of_container(group: &Path) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let is_first = own
        .lines()
        .any(|line| matches!(own_path(line, ""), Some("/")));
    is_first && group.join("cgroup.type").exists()
}

/// Whether a process is this one or descends from it.
fn is_ours(pid: u32) -> bool {
    const DEPTH_MAX: usize = 64;
    let own = std::process::id();
    let mut at = pid;
    for _ in 0..DEPTH_MAX {
        if at == own {
            return true;
        }
        match Stat::of(at).and_then(|stat| u32::try_from(stat.parent).ok()) {
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "8:pids:/jobs\n4:memory:/docker/ab12\n0::/\n";

    #[test]
    fn our_groups_are_found_where_the_mounts_show_them() {
        let mounts = "\
32 31 0:29 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
33 31 0:30 /docker/ab12 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let found = Hierarchies::read(mounts, OWN, Path::new("/test"));
        let expected = Hierarchies {
            unified: Some("/test/sys/fs/cgroup/unified/".into()),
            memory: Some("/test/sys/fs/cgroup/memory/".into()),
            pids: Some("/test/sys/fs/cgroup/pids/jobs".into()),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_group_outside_of_what_is_mounted_is_not_there() {
        let mounts = "33 31 0:30 /docker/other /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let found = Hierarchies::read(mounts, OWN, Path::new("/"));
        assert_eq!(found, Hierarchies::default());
    }

    /// Ordinary files stand for those of the kernel: a write replaces what it would add.
    #[test]
    fn controllers_of_version_2_are_given_on_once() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("unit");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(own.join("cgroup.subtree_control"), "cpu\n").unwrap();
        assert_eq!(give_on_controllers(&own).unwrap(), own);
        let given = || fs::read_to_string(own.join("cgroup.subtree_control")).unwrap();
        assert_eq!(given(), "+memory +pids");
        fs::write(own.join("cgroup.subtree_control"), "memory pids\n").unwrap();
        let leaf = own.join(LEAF);
        fs::create_dir(&leaf).unwrap();
        assert_eq!(
            give_on_controllers(&leaf).unwrap(),
            own,
            "as one in the leaf"
        );
        assert_eq!(given(), "memory pids\n", "they are given on already");
    }

    #[test]
    fn only_our_own_processes_are_moved_into_a_leaf() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path();
        let own = std::process::id();
        fs::write(base.join("cgroup.procs"), format!("{own}\n1\n")).unwrap();
        move_into_leaf(base).unwrap_err();
        assert!(!base.join(LEAF).exists(), "nothing was moved");
        fs::write(base.join("cgroup.procs"), format!("{own}\n")).unwrap();
        move_into_leaf(base).unwrap();
        let moved = fs::read_to_string(base.join(LEAF).join("cgroup.procs")).unwrap();
        assert_eq!(moved, own.to_string());
    }
}
