//! `%20` and the like in a broker's URL.

/// Undoes it; what is wrong, otherwise, as the end of a sentence.
pub fn decode(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || "behind a % stand two hexadecimal digits; write %25 for a % itself".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(wrong)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(
            u8::from_str_radix(digits, 16)
                .ok()
                .filter(|_| is_hex)
                .ok_or_else(wrong)?,
        );
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}
