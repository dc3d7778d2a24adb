//! What the machine itself can do.

use std::time::Instant;

use crate::Outcome;

/// GB/s at which `threads` threads read a buffer of 1 GiB: the best of five sweeps.
pub fn bandwidth(threads: usize) -> f64 {
    let buffer: Vec<u64> = (0..1 << 27).collect();
    let part = buffer.len() / threads;
    let sweep = |_| {
        let start = Instant::now();
        std::thread::scope(|s| {
            for chunk in buffer.chunks(part) {
                s.spawn(move || std::hint::black_box(sum(chunk)));
            }
        });
        start.elapsed().as_secs_f64()
    };
    size_of_val(&buffer[..]) as f64 / (0..5).map(sweep).fold(f64::MAX, f64::min) / 1e9
}

/// Sums in 32 chains, so that loads and not additions are waited for.
fn sum(words: &[u64]) -> u64 {
    let mut chains = [0u64; 32];
    for line in words.chunks_exact(32) {
        for (c, w) in chains.iter_mut().zip(line) {
            *c = c.wrapping_add(*w);
        }
    }
    chains.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// The most memory this process ever held, in bytes.
pub fn peak_memory() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM on this system")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
