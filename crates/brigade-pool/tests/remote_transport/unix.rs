//! `unix://`: the file, and which users may connect.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use brigade::ErrorKind;
use brigade::remote::Peer;

use super::*;

fn url(path: &Path) -> String {
    format!("unix://{}", path.display())
}

async fn bind(path: &Path) -> Result<Listener, brigade::Error> {
    Listener::bind(&url(path), &key(), ListenerLimits::default()).await
}

#[test]
fn the_socket_is_its_owners_and_goes_with_its_listener() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut listener = TestListener::open(&url(&path), &key(), ListenerLimits::default()).await;
        assert_eq!(listener.url, url(&path));
        let file = std::fs::symlink_metadata(&path).unwrap();
        assert!(file.file_type().is_socket() && file.permissions().mode() & 0o777 == 0o600);
        let peer = listener.accepts(&key()).await.peer;
        let own = rustix::process::geteuid().as_raw();
        assert!(
            matches!(peer, Peer::Unix { user, process, .. } if user == own && process == std::process::id()),
            "{peer:?}"
        );
        assert!(peer.to_string().contains(&format!("user {own}")));
        let other = Credentials::key(OTHER_KEY).unwrap();
        assert_eq!(
            connect(&listener.url, &other).await.unwrap_err().kind(),
            ErrorKind::Refused
        );
        listener.task.abort();
        (&mut listener.task).await.unwrap_err();
        assert!(!path.exists());
    });
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else_is() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        // Its listener died without removing it.
        drop(UnixListener::bind(&path).unwrap());
        let bound = bind(&path).await.unwrap();
        let error = bind(&path).await.err().unwrap();
        assert!(
            error.kind() == ErrorKind::Os && error.to_string().contains("another listener"),
            "{error}"
        );
        assert!(path.exists());
        drop(bound);
        drop(bind(&path).await.unwrap());

        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind(&path).await.err().unwrap().kind(),
            ErrorKind::BadOption
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let missing = directory.path().join("missing/socket");
        assert_eq!(bind(&missing).await.err().unwrap().kind(), ErrorKind::Os);
        assert_eq!(
            connect(&url(&missing), &key()).await.unwrap_err().kind(),
            ErrorKind::Unreachable
        );
    });
}

#[test]
fn another_user_is_refused_even_if_the_file_allows_it() {
    // Only root can become another user.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("socket");
        let listener = TestListener::open(&url(&path), &key(), ListenerLimits::default()).await;
        let as_other = |path: std::path::PathBuf| {
            std::thread::spawn(move || {
                // Of this thread alone.
                let other = rustix::process::Uid::from_raw(65_534);
                rustix::thread::set_thread_res_uid(other, other, other).unwrap();
                UnixStream::connect(path)
            })
        };
        let refused = as_other(path.clone()).join().unwrap();
        assert_eq!(
            refused.unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let connected = as_other(path).join().unwrap().unwrap();
        listener
            .until(|counts| counts.users == 1 && counts.total() == 1)
            .await;
        drop(connected);
    });
}
