//! The limits of programs, on the command line.

use std::time::Duration;

use brigade::AttemptLimits;

use crate::times;

/// Limits of each program, with all that it starts. A job that goes over one has failed.
#[derive(clap::Args)]
#[command(next_help_heading = "Limits of each program")]
pub(crate) struct LimitOptions {
    /// Memory that it may fill, with all that it starts (512MiB, 2GiB)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// Address space of each of its processes
    #[arg(long, value_name = "SIZE", value_parser = size)]
    address_space: Option<u64>,

    /// CPU time that it may use, with all that it starts
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    cpu: Option<Duration>,

    /// Files that each of its processes may have open beyond the standard streams
    #[arg(long, value_name = "N")]
    files: Option<u32>,

    /// Processes and threads that there may be of it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    processes: Option<u32>,

    /// Size of a file that it may write
    #[arg(long, value_name = "SIZE", value_parser = size)]
    file_size: Option<u64>,
}

impl LimitOptions {
    pub(super) fn limits(&self) -> AttemptLimits {
        let mut limits = AttemptLimits::new();
        limits.memory = self.memory;
        limits.address_space = self.address_space;
        limits.cpu = self.cpu;
        limits.files = self.files;
        limits.processes = self.processes;
        limits.file_size = self.file_size;
        limits
    }
}

/// `64KiB`, `512MiB`, `2GiB`, or a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let help = || "write a size as 64KiB, 512MiB, 2GiB or a number of bytes".to_owned();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(help()),
    };
    let number: u64 = number.parse().map_err(|_| help())?;
    number.checked_mul(factor).ok_or_else(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("4096"), Ok(4096));
        for wrong in ["", "MiB", "1.5GiB", "2GB", "-1", "99999999999GiB"] {
            size(wrong).unwrap_err();
        }
    }
}
