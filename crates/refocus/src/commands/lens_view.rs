//! How the lens, the attribution and the patching grids look in a terminal.

use refocus_measure::{Attribution, LensGrid, Patching, PatchingGrid};
use refocus_model::Kind;

/// Widest token shown in a cell, in characters.
const CELL: usize = 10;

/// Columns a table may take.
const WIDTH: usize = 100;

/// A token on one line: spaces and line ends made visible, cut to `width`.
pub(crate) fn show(token: &str, width: usize) -> String {
    let plain: String = token
        .chars()
        .map(|c| match c {
            ' ' => '·',
            '\n' => '↵',
            '\t' => '→',
            c if c.is_control() => '�',
            c => c,
        })
        .collect();
    if plain.chars().count() <= width {
        return plain;
    }
    plain.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Pads to `width` characters.
fn pad(s: &str, width: usize) -> String {
    let n = s.chars().count();
    format!("{s}{}", " ".repeat(width.saturating_sub(n)))
}

/// Layers down, positions across, the last positions that fit; at the right the followed token.
pub(crate) fn lens(grid: &LensGrid, input: &[String], token: &dyn Fn(u32) -> String) -> String {
    let target = show(&token(grid.target_id), CELL);
    let fit = ((WIDTH - 30) / (CELL + 2)).max(1);
    let first = input.len().saturating_sub(fit);
    let mut out = format!("{:>7} ", "after");
    for t in &input[first..] {
        out += &format!(" {}", pad(&show(t, CELL), CELL + 1));
    }
    out += &format!("  P({target})  rank\n");
    for (row, cells) in grid.cells.iter().enumerate() {
        let name = if row == 0 { "embed".to_owned() } else { format!("block {}", row - 1) };
        out += &format!("{name:>8}");
        for c in &cells[first..] {
            out += &format!(" {}", pad(&show(&token(c.id), CELL), CELL + 1));
        }
        let (prob, rank) = grid.target[row];
        out += &format!("  {:>w$.4}  {:>4}\n", prob, rank + 1, w = target.chars().count() + 3);
    }
    if first > 0 {
        out += &format!("(the first {first} of {} positions are not shown; --json has all)\n", input.len());
    }
    out
}

/// The parts with the largest shares, both ways, and how the rest adds up.
pub(crate) fn attribution(a: &Attribution, top: usize, token: &dyn Fn(u32) -> String) -> String {
    let mut parts: Vec<_> = a.parts.iter().collect();
    parts.sort_by(|x, y| y.share.abs().total_cmp(&x.share.abs()));
    let what = match a.minus {
        Some(minus) => {
            format!("logit({}) − logit({})", show(&token(a.id), 2 * CELL), show(&token(minus), 2 * CELL))
        }
        None => format!("logit({})", show(&token(a.id), 2 * CELL)),
    };
    let mut out = format!("{what} = {:.3} at the last position, by what wrote it\n", a.logit);
    let scale = parts.first().map_or(1.0, |p| p.share.abs()).max(f32::MIN_POSITIVE);
    for p in parts.iter().take(top) {
        let bar = "█".repeat((p.share.abs() / scale * 24.0).round() as usize);
        let name = if p.part.contains('.') { format!("head {}", p.part) } else { p.part.clone() };
        out += &format!("{name:>14}  {:>8.3}  {bar}\n", p.share);
    }
    let rest: f32 = parts.iter().skip(top).map(|p| p.share).sum();
    let count = parts.len().saturating_sub(top);
    if count > 0 {
        out += &format!("{:>14}  {rest:>8.3}  ({count} parts)\n", "the rest");
    }
    out
}

/// The experiment in words, then a grid a kind.
pub(crate) fn patching(p: &Patching, clean: &[String], token: &dyn Fn(u32) -> String) -> String {
    let (a, w) = (show(&token(p.answer), 2 * CELL), show(&token(p.wrong), 2 * CELL));
    let mut out = format!(
        "logit({a}) − logit({w}): {:.3} on the prompt, {:.3} on the other\n\
         share of the difference that comes back when one place of the other run is replaced\n",
        p.clean, p.corrupted
    );
    for g in &p.grids {
        out += "\n";
        out += &restored(g, clean);
    }
    out
}

fn restored(g: &PatchingGrid, clean: &[String]) -> String {
    let (title, heads): (String, Vec<String>) = if g.kind == Kind::Z {
        let n = g.restored.first().map_or(0, Vec::len);
        ("heads, all positions (attn.hook_z)".into(), (0..n).map(|h| format!("head {h}")).collect())
    } else {
        let name = match g.kind {
            Kind::ResidPre => "residual stream before the block (hook_resid_pre)",
            Kind::AttnOut => "attention output (hook_attn_out)",
            _ => "MLP output (hook_mlp_out)",
        };
        (name.into(), clean.to_vec())
    };
    let fit = ((WIDTH - 10) / (CELL - 1)).max(1);
    let first = if g.kind == Kind::Z { 0 } else { heads.len().saturating_sub(fit) };
    let last = heads.len().min(first + fit);
    let mut out = format!("{title}\n{:>8}", "block");
    for h in &heads[first..last] {
        out += &format!(" {:>w$}", show(h, CELL - 2), w = CELL - 2);
    }
    out += "\n";
    for (layer, row) in g.restored.iter().enumerate() {
        out += &format!("{layer:>8}");
        for v in &row[first..last] {
            // What stays below half a percent is a dot: the eye finds the rest.
            let cell = if v.abs() < 0.005 { "·".to_owned() } else { format!("{v:.2}") };
            out += &format!(" {}{cell}", " ".repeat((CELL - 2).saturating_sub(cell.chars().count())));
        }
        out += "\n";
    }
    if last - first < heads.len() {
        out += &format!("({} of {} columns are shown; --json has all)\n", last - first, heads.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_on_one_line_and_within_their_cell() {
        assert_eq!(show(" the\n", 10), "·the↵");
        assert_eq!(show("internationalisation", 6), "inter…");
        assert_eq!(show("\u{7}", 6), "�");
    }
}
