//! Output of a worker as HTML: its colours shown, everything else as text.
//!
//! Of the escape sequences of terminals, SGR (`ESC [ .. m`) becomes classes; the others (cursor,
//! title, links) are left out. All text is escaped, so that output can never become a tag. Control
//! characters other than line breaks and tabs become a mark.

use std::fmt::Write as _;

/// What SGR has set.
#[derive(Clone, Copy, Default, PartialEq)]
struct Style {
    bold: bool,
    dim: bool,
    italic: bool,
    underlined: bool,
    fore: Option<u8>,
    back: Option<u8>,
}

impl Style {
    /// Applies the numbers of one sequence.
    fn apply(&mut self, numbers: &str) {
        let mut numbers = numbers
            .split([';', ':'])
            .map(|n| n.parse::<u16>().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                3 => self.italic = true,
                4 => self.underlined = true,
                22 => (self.bold, self.dim) = (false, false),
                23 => self.italic = false,
                24 => self.underlined = false,
                30..=37 => self.fore = u8::try_from(number - 30).ok(),
                90..=97 => self.fore = u8::try_from(number - 90).ok(),
                39 => self.fore = None,
                40..=47 => self.back = u8::try_from(number - 40).ok(),
                100..=107 => self.back = u8::try_from(number - 100).ok(),
                49 => self.back = None,
                38 | 48 => {
                    let colour = extended(&mut numbers);
                    if number == 38 {
                        self.fore = colour;
                    } else {
                        self.back = colour;
                    }
                }
                _ => {}
            }
        }
    }

    fn classes(self) -> String {
        let mut classes = Vec::new();
        let flags = [
            (self.bold, "a1"),
            (self.dim, "a2"),
            (self.italic, "a3"),
            (self.underlined, "a4"),
        ];
        classes.extend(
            flags
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, class)| (*class).to_owned()),
        );
        classes.extend(self.fore.map(|colour| format!("f{colour}")));
        classes.extend(self.back.map(|colour| format!("b{colour}")));
        classes.join(" ")
    }
}

/// A colour of 256 or of 16 million, as the nearest of the eight.
fn extended(numbers: &mut impl Iterator<Item = u16>) -> Option<u8> {
    let of_rgb = |r: u16, g: u16, b: u16| {
        let bit = |part: u16, bit: u8| if part > 110 { bit } else { 0 };
        bit(r, 1) | bit(g, 2) | bit(b, 4)
    };
    match numbers.next()? {
        5 => match numbers.next()? {
            low @ 0..=15 => u8::try_from(low % 8).ok(),
            cube @ 16..=231 => {
                let cube = cube - 16;
                let part = |digit: u16| digit * 51;
                Some(of_rgb(part(cube / 36), part(cube / 6 % 6), part(cube % 6)))
            }
            grey => Some(if grey > 243 { 7 } else { 0 }),
        },
        2 => Some(of_rgb(numbers.next()?, numbers.next()?, numbers.next()?)),
        _ => None,
    }
}

/// Output as HTML.
pub(super) fn html(output: &str) -> String {
    let mut html = String::with_capacity(output.len() + output.len() / 8);
    let mut style = Style::default();
    let mut rest = output;
    while let Some(start) = rest.find('\u{1b}') {
        write_text(&mut html, &rest[..start], style);
        rest = sequence(&rest[start + 1..], &mut style);
    }
    write_text(&mut html, rest, style);
    html
}

/// Text of a worker without escape sequences, for a place without colours.
pub(super) fn plain(output: &str) -> String {
    let mut plain = String::with_capacity(output.len());
    let mut style = Style::default();
    let mut rest = output;
    while let Some(start) = rest.find('\u{1b}') {
        plain.push_str(&rest[..start]);
        rest = sequence(&rest[start + 1..], &mut style);
    }
    plain.push_str(rest);
    // What a store has replaced before: the sequences without their first character.
    if plain.contains("\u{fffd}[") {
        return plain_of_marks(&plain);
    }
    plain
}

fn plain_of_marks(text: &str) -> String {
    let mut parts = text.split("\u{fffd}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !matches!(c, '0'..='9' | ';' | ':'));
        match end.map(|end| part.split_at(end)) {
            Some((_, rest)) if rest.starts_with('m') => plain.push_str(&rest[1..]),
            _ => {
                plain.push_str("\u{fffd}[");
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Reads an escape sequence, after its first character; gives what comes after it.
fn sequence<'a>(text: &'a str, style: &mut Style) -> &'a str {
    if let Some(inside) = text.strip_prefix('[') {
        let end = inside.find(|c: char| ('\u{40}'..='\u{7e}').contains(&c));
        let Some(end) = end else { return "" };
        let (numbers, rest) = inside.split_at(end);
        if rest.starts_with('m') {
            style.apply(numbers);
        }
        return &rest[1..];
    }
    if let Some(inside) = text.strip_prefix(']') {
        // A title or a link: up to BEL or ST.
        let end = inside.find(['\u{7}', '\u{1b}']);
        let Some(end) = end else { return "" };
        let rest = &inside[end..];
        return rest.strip_prefix("\u{1b}\\").unwrap_or(&rest[1..]);
    }
    let mut rest = text.chars();
    rest.next();
    rest.as_str()
}

fn write_text(html: &mut String, text: &str, style: Style) {
    if text.is_empty() {
        return;
    }
    let classes = style.classes();
    if !classes.is_empty() {
        _ = write!(html, "<span class=\"{classes}\">");
    }
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\n' | '\t' => html.push(c),
            '\r' => {}
            c if c.is_control() => html.push('\u{fffd}'),
            c => html.push(c),
        }
    }
    if !classes.is_empty() {
        html.push_str("</span>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_classes() {
        let red = html("a \u{1b}[1;31mred\u{1b}[0m b");
        assert_eq!(red, "a <span class=\"a1 f1\">red</span> b");
        assert_eq!(html("\u{1b}[38;5;196mx"), "<span class=\"f1\">x</span>");
        assert_eq!(html("\u{1b}[48;2;0;200;0mx"), "<span class=\"b2\">x</span>");
    }

    #[test]
    fn output_never_becomes_a_tag() {
        let evil = "<script>alert(1)</script>\u{1b}[31m<img src=x onerror=alert(1)>";
        let shown = html(evil);
        assert!(
            !shown.contains("<script") && !shown.contains("<img"),
            "{shown}"
        );
        let in_numbers = html("\u{1b}[31\"onx=1;<b>mx");
        assert!(!in_numbers.contains("<b>"), "{in_numbers}");
    }

    #[test]
    fn text_without_colours_has_no_sequences() {
        assert_eq!(plain("a \u{1b}[1;31mred\u{1b}[0m b"), "a red b");
        assert_eq!(
            plain("a \u{fffd}[1;31mred\u{fffd}[0m \u{fffd}[x"),
            "a red \u{fffd}[x"
        );
    }

    #[test]
    fn other_sequences_are_left_out() {
        assert_eq!(
            html("a\u{1b}[2Jb\u{1b}]0;title\u{7}c\u{1b}]8;;x\u{1b}\\d\u{1b}[12"),
            "abcd"
        );
        assert_eq!(html("\u{1b}"), "");
        assert_eq!(html("\u{1b}é\u{0}"), "\u{fffd}");
    }
}
