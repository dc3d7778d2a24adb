//! Flags of commands that write a model as a folder.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArg;

#[derive(Debug, Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Replace a model that is there already.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// A folder in Hugging Face layout.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Type of the weights.
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = WeightType::Keep)]
    pub(crate) dtype: WeightType,
    /// Largest weights file, such as 500MB or 2GiB; a single tensor may be larger.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    pub(crate) max_shard_size: u64,
}

/// In which type weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightType {
    /// As stored; quantised weights as f32, which holds their values exactly
    Keep,
    /// IEEE single precision
    F32,
    /// IEEE half precision; a weight beyond its range is an error
    F16,
    /// bfloat16
    Bf16,
}

/// A number of bytes: `5GB`, `500 MB`, `2GiB`, `1000`.
fn size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &lower[digits.len()..] {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err("a size is a number with B, kB, MB, GB, KiB, MiB or GiB".to_owned()),
    };
    match digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(0) | None => Err("a size is a whole number above zero, such as 500MB".to_owned()),
        Some(n) => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("2 GiB"), Ok(2 << 30));
        assert_eq!(size("1000"), Ok(1000));
        for bad in ["", "GB", "0", "-1", "1.5GB", "5 GBit", "99999999999GB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
