//! A job as the `brigade push` command that pushes one like it.

use std::time::Duration;

use brigade::JobInfo;

/// The command line, for a POSIX shell.
pub(super) fn push_command(job: &JobInfo) -> String {
    let mut words = vec!["brigade".to_owned(), "push".to_owned()];
    let options = &job.options;
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.push(format!("--{name}"));
            words.push(quoted(&value));
        }
    };
    let is_named = job.task.as_deref().is_some_and(|task| task != job.queue);
    option("task", job.task.clone().filter(|_| is_named));
    option(
        "priority",
        options.priority.filter(|n| *n != 0).map(|n| n.to_string()),
    );
    option("key", options.key.as_deref().map(str::to_owned));
    option("unique", options.unique.as_deref().map(str::to_owned));
    option("unique-for", options.unique_for.map(time));
    option("partition", options.partition.as_deref().map(str::to_owned));
    option("retries", options.retries.map(|n| n.to_string()));
    option(
        "within",
        options.retry.and_then(|retry| retry.within).map(time),
    );
    option("timeout", options.timeout.map(time));
    option("keep", options.keep.map(time));
    option("label", options.label.as_deref().map(str::to_owned));
    // A name or a value that begins with a dash is no option.
    if job.queue.starts_with('-') || job.payload.starts_with('-') {
        words.push("--".to_owned());
    }
    words.push(quoted(&job.queue));
    words.push(quoted(&job.payload));
    words.join(" ")
}

/// A duration as the command reads it: `90s`, `250ms`.
fn time(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// A word of a command line.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@,+=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_of_the_shell() {
        assert_eq!(quoted("mail"), "mail");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $(rm -rf /)"), r"'it'\''s $(rm -rf /)'");
    }

    #[test]
    fn times_are_as_the_command_reads_them() {
        assert_eq!(time(Duration::from_secs(90)), "90s");
        assert_eq!(time(Duration::from_millis(250)), "250ms");
    }
}
