//! `key`: a shared key for hosts.

use std::os::unix::fs::MetadataExt as _;

use super::desk::Desk;

#[test]
fn a_key_is_new_each_time_private_to_its_file_and_overwrites_nothing() {
    let desk = Desk::new();
    let run = |arguments: &[&str]| desk.command(arguments).output().unwrap();
    let printed = |arguments: &[&str]| String::from_utf8(run(arguments).stdout).unwrap();
    let (one, other) = (printed(&["key"]), printed(&["key"]));
    assert!(
        one.starts_with("brigade-key-") && one.trim_end().len() == 60 && one != other,
        "{one}"
    );

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.key");
    let file = path.to_str().unwrap();
    assert_eq!(printed(&["key", file]), "");
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.starts_with("brigade-key-"));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let again = run(&["key", file]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("exists"),
        "{again:?}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
}
