//! The shared key: 256 random bits in a form that people and secret scanners recognise.
//!
//! ```text
//! brigade-key-<48 characters>      base64url, no padding, of: key (32 bytes), first 4 bytes of SHA-256 of the key
//! ```
//!
//! Only generated keys are accepted. A fake listener could try keys offline with what a handshake
//! sends: hopeless against 256 random bits, quick against a password. By the checksum a key that
//! was cut or mistyped is recognised before it is used.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, ErrorKind};

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// A shared key.
pub(super) type Key = [u8; KEY_BYTES];
const CHECK_BYTES: usize = 4;
const PREFIX: &str = "brigade-key-";

/// A new key: `brigade-key-` and 48 characters, with 256 bits from the system's generator. Write it
/// into a file that only its user may read and give it to both sides with
/// [`Credentials::key_file`](super::Credentials::key_file). `brigade key FILE` does the first part.
///
/// ```
/// let key = brigade::remote::generate_key()?;
/// assert!(key.starts_with("brigade-key-") && key.len() == 60);
/// brigade::remote::Credentials::key(&key)?;
/// # Ok::<(), brigade::Error>(())
/// ```
///
/// # Errors
///
/// `Os` if the system gives no random bytes.
pub fn generate_key() -> Result<String, Error> {
    let mut key = [0; KEY_BYTES];
    let drawn = getrandom(&mut key, GetRandomFlags::empty())
        .map_err(|e| Error::os("draw a random key", e))?;
    debug_assert_eq!(drawn, key.len(), "so few bytes come at once (getrandom(2))");
    Ok(format!(
        "{PREFIX}{}",
        URL_SAFE_NO_PAD.encode([&key[..], &checksum(&key)].concat())
    ))
}

/// Reads a key. No error repeats it.
pub(super) fn parse(text: &[u8]) -> Result<Key, Error> {
    let Some(encoded) = text.strip_prefix(PREFIX.as_bytes()) else {
        return Err(bad(
            "it is not a generated key, which begins with `brigade-key-`",
        ));
    };
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(encoded) else {
        return Err(bad(
            "it has characters that no generated key has, or some are missing",
        ));
    };
    match bytes.split_first_chunk::<KEY_BYTES>() {
        Some((key, check)) if check == checksum(key) => Ok(*key),
        _ => Err(bad("it is not whole or was mistyped")),
    }
}

fn checksum(key: &[u8; KEY_BYTES]) -> [u8; CHECK_BYTES] {
    let digest = digest(&SHA256, key);
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

fn bad(what: &str) -> Error {
    let text = format!(
        "use this shared key: {what}; make one with `brigade key FILE` or \
            `brigade::remote::generate_key()`"
    );
    Error::new(ErrorKind::BadOption, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generated_keys_are_taken() {
        let key = generate_key().unwrap();
        assert!(parse(key.as_bytes()).is_ok());
        assert_ne!(generate_key().unwrap(), key);
        for (wrong, hint) in [
            ("correct horse battery staple".to_owned(), "begins with"),
            ("sesame".repeat(10), "begins with"),
            (format!("{PREFIX}sesame"), "some are missing"),
            (format!("{PREFIX}{}", "sesame!!".repeat(6)), "characters"),
            (key[..59].to_owned(), "brigade key FILE"),
            (format!("{key}A"), "brigade key FILE"),
            (
                format!(
                    "{}{}{}",
                    &key[..20],
                    if &key[20..21] == "A" { "B" } else { "A" },
                    &key[21..]
                ),
                "mistyped",
            ),
            (String::new(), "begins with"),
        ] {
            let error = parse(wrong.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadOption, "{wrong}");
            assert!(
                error.to_string().contains(hint) && !error.to_string().contains("sesame"),
                "{wrong}: {error}"
            );
        }
    }
}
