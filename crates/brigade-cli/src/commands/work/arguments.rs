//! The command line of a program, with parts of a job's payload.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use serde_json::value::RawValue;

/// A program and its arguments, some of which name parts of the payload. The program itself is
/// never taken from a payload.
pub(super) struct CommandLine {
    program: OsString,
    arguments: Vec<Argument>,
}

enum Argument {
    /// As it was given; also one that is not UTF-8.
    Plain(OsString),
    Parts(Vec<Part>),
}

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    /// `{}`
    Payload,
    /// `{name}`
    Field(String),
}

impl CommandLine {
    /// `command` is not empty: clap checks that.
    pub(super) fn parse(command: &[OsString]) -> Self {
        let (program, arguments) = command
            .split_first()
            .map_or((OsString::new(), &[][..]), |(first, rest)| {
                (first.clone(), rest)
            });
        Self {
            program,
            arguments: arguments.iter().map(Argument::parse).collect(),
        }
    }

    pub(super) fn program(&self) -> &OsStr {
        &self.program
    }

    /// The arguments for this payload, or why there are none.
    pub(super) fn fill(&self, payload: &str) -> Result<Vec<OsString>, String> {
        let wants_field = |argument: &Argument| matches!(argument, Argument::Parts(parts) if parts.iter().any(|p| matches!(p, Part::Field(_))));
        let fields: Option<BTreeMap<String, &RawValue>> = self
            .arguments
            .iter()
            .any(wants_field)
            .then(|| serde_json::from_str(payload).ok())
            .flatten();
        self.arguments
            .iter()
            .map(|argument| argument.fill(payload, fields.as_ref()))
            .collect()
    }
}

impl Argument {
    fn parse(argument: &OsString) -> Self {
        let parts = argument.to_str().map(parts).unwrap_or_default();
        if parts.is_empty() {
            Self::Plain(argument.clone())
        } else {
            Self::Parts(parts)
        }
    }

    fn fill(
        &self,
        payload: &str,
        fields: Option<&BTreeMap<String, &RawValue>>,
    ) -> Result<OsString, String> {
        let parts = match self {
            Self::Plain(text) => return Ok(text.clone()),
            Self::Parts(parts) => parts,
        };
        let mut filled = String::new();
        for part in parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Payload => filled.push_str(&unquoted(payload)),
                Part::Field(name) => {
                    let fields = fields.ok_or_else(|| {
                        format!(
                            "the arguments use the field {name:?}, but \
                            the payload is not a JSON object"
                        )
                    })?;
                    let value = fields.get(name).ok_or_else(|| {
                        format!("the arguments use the field {name:?}, which the payload lacks")
                    })?;
                    filled.push_str(&unquoted(value.get()));
                }
            }
        }
        if filled.contains('\0') {
            return Err(
                "an argument would hold a NUL character, which no program can be given".to_owned(),
            );
        }
        Ok(filled.into())
    }
}

/// A string's text; other JSON as it is.
fn unquoted(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|_| json.to_owned())
}

/// Splits at `{}` and `{name}`. Braces around anything else are text, so that shell and awk code
/// goes through as it is.
fn parts(text: &str) -> Vec<Part> {
    let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
    while let Some(start) = rest.find('{') {
        let (before, here) = rest.split_at(start);
        plain.push_str(before);
        let (name, length) = match name_at(here) {
            Some(name) if !before.ends_with('$') => (Some(name), name.len() + 2),
            // `{{name}}` is `{name}`, `${name}` a shell's.
            _ => match here
                .get(1..)
                .and_then(name_at)
                .filter(|name| here[1 + name.len() + 2..].starts_with('}'))
            {
                Some(name) => {
                    plain.push_str(&here[1..name.len() + 3]);
                    (None, name.len() + 4)
                }
                None => {
                    plain.push('{');
                    (None, 1)
                }
            },
        };
        if let Some(name) = name {
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(if name.is_empty() {
                Part::Payload
            } else {
                Part::Field(name.to_owned())
            });
        }
        rest = &here[length..];
    }
    plain.push_str(rest);
    parts.push(Part::Text(plain));
    parts.retain(|part| *part != Part::Text(String::new()));
    parts
}

/// The name in `{name}` at the start of the text, which may be empty.
fn name_at(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.split_once('}')?.0;
    let starts_well = name
        .chars()
        .next()
        .is_none_or(|char| char.is_alphabetic() || char == '_');
    let goes_on_well = name
        .chars()
        .all(|char| char.is_alphanumeric() || matches!(char, '_' | '-'));
    (starts_well && goes_on_well).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(arguments: &[&str], payload: &str) -> Result<Vec<String>, String> {
        let command: Vec<OsString> = ["program"]
            .iter()
            .chain(arguments)
            .map(OsString::from)
            .collect();
        Ok(CommandLine::parse(&command)
            .fill(payload)?
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect())
    }

    #[test]
    fn payload_and_fields_go_in() {
        let payload = r#"{"name": "Zoë {} x", "n": 1.50, "list": [1, "a"], "none": null}"#;
        let arguments = [
            "--to={name}",
            "{n}{n}",
            "{list}",
            "{none}",
            "{}",
            "",
            "plain",
        ];
        let expected = [
            "--to=Zoë {} x",
            "1.501.50",
            r#"[1, "a"]"#,
            "null",
            payload,
            "",
            "plain",
        ];
        assert_eq!(filled(&arguments, payload).unwrap(), expected);
        assert_eq!(
            filled(&["{}", "a{}b"], r#""te\"xt""#).unwrap(),
            ["te\"xt", "ate\"xtb"]
        );
        assert_eq!(
            filled(&["{}"], "12345678901234567890123").unwrap(),
            ["12345678901234567890123"]
        );
    }

    #[test]
    fn other_braces_are_text() {
        let text = [
            "{print $1}",
            "${HOME}",
            "a { b",
            "}{",
            "{1,2}",
            "{\"a\":{\"b\":1}}",
            "x{",
            "${",
        ];
        assert_eq!(filled(&text, "1").unwrap(), text);
        assert_eq!(
            filled(&["{{}}", "{{name}}", "$${{x}}"], "1").unwrap(),
            ["{}", "{name}", "$${x}"]
        );
    }

    #[test]
    fn what_cannot_be_filled_says_why() {
        assert!(
            filled(&["{a}"], r#"{"b": 1}"#)
                .unwrap_err()
                .contains("which the payload lacks")
        );
        assert!(
            filled(&["{a}"], "[1]")
                .unwrap_err()
                .contains("not a JSON object")
        );
        assert!(
            filled(&["{}"], r#""a\u0000b""#)
                .unwrap_err()
                .contains("NUL")
        );
    }
}
