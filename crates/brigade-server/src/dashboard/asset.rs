//! The files of the dashboard: style sheet, script, icon. Part of the program, so that it works
//! without an internet connection.
//!
//! Their paths contain a hash of their content, so browsers keep them for good, and a page of a new
//! build never gets the script of the build before. The tests compute the contrast of all colours
//! of the style sheet, in light and dark.

use std::hash::Hasher as _;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

/// Name, media type and content of a file.
type Asset = (&'static str, &'static str, &'static [u8]);

const STYLE: &str = include_str!("assets/brigade.css");
const SCRIPT: &str = include_str!("assets/brigade.js");

const ASSETS: &[Asset] = &[
    ("brigade.css", "text/css; charset=utf-8", STYLE.as_bytes()),
    (
        "brigade.js",
        "text/javascript; charset=utf-8",
        SCRIPT.as_bytes(),
    ),
    (
        "icon.svg",
        "image/svg+xml",
        include_bytes!("assets/icon.svg"),
    ),
];

/// The hash of all files, in hexadecimal digits.
pub(super) fn version() -> String {
    // The hasher has fixed keys, so all servers of one build agree.
    let mut hasher = std::hash::DefaultHasher::new();
    for (_, _, content) in ASSETS {
        hasher.write(content);
    }
    format!("{:016x}", hasher.finish())
}

/// A file. Those of another version are served too, but not kept: a browser with a page of the
/// build before asks for them.
pub(super) async fn serve(Path((hash, name)): Path<(String, String)>) -> Response {
    let Some((_, media_type, content)) = ASSETS.iter().find(|(asset, ..)| *asset == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kept = if hash == version() {
        "public, max-age=31536000, immutable"
    } else {
        "no-store"
    };
    let headers = [
        (CONTENT_TYPE, *media_type),
        (CACHE_CONTROL, kept),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ];
    (headers, *content).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_script_is_below_its_limit() {
        assert!(SCRIPT.len() < 40 << 10, "{} bytes", SCRIPT.len());
    }

    /// The variables of one block of the style sheet: what stands between its selector and `}`.
    fn variables(selector: &str) -> HashMap<&'static str, [f64; 3]> {
        let start = STYLE.find(selector).unwrap() + selector.len();
        let block = &STYLE[start..start + STYLE[start..].find('}').unwrap()];
        let colours = block
            .split([';', '\n'])
            .filter_map(|line| line.trim().strip_prefix("--"));
        let colours = colours.filter_map(|line| line.split_once(":#"));
        colours.map(|(name, digits)| (name, rgb(digits))).collect()
    }

    fn rgb(digits: &str) -> [f64; 3] {
        let part = |at: usize| f64::from(u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
        [part(0), part(2), part(4)]
    }

    /// The contrast of two colours as WCAG 2.2 defines it.
    fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
        let linear = |part: f64| match part / 255.0 {
            low if low <= 0.04045 => low / 12.92,
            high => ((high + 0.055) / 1.055).powf(2.4),
        };
        let luminance =
            |[r, g, b]: [f64; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn the_colours_have_contrast_in_light_and_dark() {
        let blocks = [
            ":root{color-scheme:light;",
            ":root[data-theme=dark]{color-scheme:dark;",
        ];
        let by_system = variables(":root:not([data-theme=light]){color-scheme:dark;");
        assert_eq!(
            by_system,
            variables(blocks[1]),
            "both dark blocks are the same"
        );
        let texts = [
            "ink",
            "muted",
            "accent",
            "ready",
            "running",
            "retrying",
            "done",
            "dead",
            "scheduled",
            "blocked",
            "cancelled",
            "paused",
            "warning",
            "problem",
            "well",
            "unknown",
        ];
        let mut wrong = Vec::new();
        for block in blocks {
            let colours = variables(block);
            let mut check = |text: &'static str, ground: &'static str, least: f64| {
                let contrast = contrast(colours[text], colours[ground]);
                if contrast < least {
                    wrong.push(format!("{text} on {ground} of {block} has {contrast:.2}"));
                }
            };
            for text in texts {
                check(text, "surface", 4.5);
                check(text, "ground", 4.5);
            }
            for text in ["ink", "muted"] {
                check(text, "raised", 4.5);
                for mood in ["warning", "problem", "well", "unknown"] {
                    let ground = [
                        "warning-ground",
                        "problem-ground",
                        "well-ground",
                        "unknown-ground",
                    ];
                    let ground = ground.into_iter().find(|ground| ground.starts_with(mood));
                    check(text, ground.unwrap(), 4.5);
                }
            }
            check("warning", "warning-ground", 4.5);
            check("on-accent", "accent", 4.5);
            check("surface", "problem", 4.5);
            check("term-ink", "term", 4.5);
            check("focus", "surface", 3.0);
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
