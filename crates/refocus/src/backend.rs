//! The arithmetic that a command runs on.

use refocus_compute::{Cpu, Isa};

use crate::cli::Global;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// The environment variable that forces an instruction set.
const ISA: &str = "REFOCUS_ISA";

/// The instruction set: the best of this machine, or what the environment asks for.
pub(crate) fn isa() -> Outcome<Isa> {
    let Some(wanted) = std::env::var_os(ISA).filter(|v| !v.is_empty()) else { return Ok(Isa::detect()) };
    let wanted = wanted.to_string_lossy();
    Isa::parse(&wanted).map_err(|why| {
        let can: Vec<_> = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon]
            .into_iter()
            .filter(|i| i.available())
            .map(Isa::name)
            .collect();
        Failure::because(format!("{ISA}={wanted} cannot be used"), why)
            .hint(format!("this machine runs {}", can.join(", ")))
    })
}

/// Threads: as asked for, or one for every core that this process may use.
pub(crate) fn threads(global: &Global) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, |n| n.get());
    global.threads.map_or_else(all, usize::from)
}

/// The f32 backend.
pub(crate) fn cpu(global: &Global, printer: &Printer) -> Outcome<Cpu> {
    let cpu = Cpu::new(isa()?, threads(global));
    printer.detail(&format!("running on {} with {} thread(s)", cpu.isa().name(), cpu.threads()));
    Ok(cpu)
}
