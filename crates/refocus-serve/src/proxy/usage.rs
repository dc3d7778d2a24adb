//! Usage of both calls in one place: the answer's own numbers become sums, and a breakdown stands beside them.

use refocus_system2::Usage;

use super::json::{self, Splice};

/// Adds the rewriting's tokens to the `usage` of a JSON answer, at their place in its bytes; nothing where it has none.
///
/// `{"prompt_tokens": 10, …}` becomes `{"prompt_tokens": 52, …, "refocus": {"rewrite": …, "answer": …}}`.
pub(crate) fn summed(body: &str, step_one: Usage) -> Option<String> {
    let all = json::members(body)?;
    let usage = json::only(&all, "usage").ok()??;
    let own = json::members(usage)?;
    let start = json::place(body, usage);
    let mut splices = Vec::new();
    let mut numbers = [0; 3];
    let more = [step_one.prompt, step_one.completion, step_one.prompt.checked_add(step_one.completion)?];
    for ((name, more), number) in
        ["prompt_tokens", "completion_tokens", "total_tokens"].iter().zip(more).zip(&mut numbers)
    {
        let Some(value) = json::only(&own, name).ok()? else { continue };
        *number = value.parse::<u64>().ok()?;
        let sum = number.checked_add(more)?;
        splices.push(Splice { at: json::place(body, value), with: sum.to_string() });
    }
    if splices.is_empty() {
        return None;
    }
    let end = start.end - 1;
    let breakdown = format!(
        ",\"refocus\":{{\"rewrite\":{{\"prompt_tokens\":{},\"completion_tokens\":{}}},\
         \"answer\":{{\"prompt_tokens\":{},\"completion_tokens\":{}}}}}",
        step_one.prompt, step_one.completion, numbers[0], numbers[1]
    );
    splices.push(Splice { at: end..end, with: breakdown });
    Some(json::spliced(body, &splices))
}

/// The same for one line of a stream of events: only the chunk with the usage changes.
pub(crate) fn summed_line(line: &str, step_one: Usage) -> Option<String> {
    let data = line.strip_prefix("data:")?;
    if !data.contains("\"usage\"") {
        return None;
    }
    let text = data.trim();
    let at = json::place(line, text);
    Some(json::spliced(line, &[Splice { with: summed(text, step_one)?, at }]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_ONE: Usage = Usage { prompt: 100, completion: 7 };

    #[test]
    fn numbers_become_sums_and_everything_else_stays() {
        let body = "{ \"id\":\"\\u0041\", \"usage\" : {\"prompt_tokens\": 10,\"total_tokens\":13,\"x\":1e9, \"completion_tokens\":3 } ,\"z\":[]}\n";
        assert_eq!(
            summed(body, STEP_ONE).expect("usage"),
            "{ \"id\":\"\\u0041\", \"usage\" : {\"prompt_tokens\": 110,\"total_tokens\":120,\"x\":1e9, \"completion_tokens\":10 \
             ,\"refocus\":{\"rewrite\":{\"prompt_tokens\":100,\"completion_tokens\":7},\
             \"answer\":{\"prompt_tokens\":10,\"completion_tokens\":3}}} ,\"z\":[]}\n"
        );
    }

    #[test]
    fn what_has_no_usage_stays() {
        for body in [
            "",
            "[]",
            "{}",
            "{\"usage\":null}",
            "{\"usage\":{}}",
            "{\"usage\":{\"prompt_tokens\":\"many\"}}",
            "{\"usage\":1}",
            "{\"usage\":{\"prompt_tokens\":18446744073709551615}}",
        ] {
            assert_eq!(summed(body, STEP_ONE), None, "{body}");
        }
    }

    #[test]
    fn the_chunk_with_the_usage_is_the_only_line_that_changes() {
        for line in
            ["data: [DONE]\n", ": \"usage\"\n", "data: {\"choices\":[],\"usage\":null}\n", "event: x\n", "\n"]
        {
            assert_eq!(summed_line(line, STEP_ONE), None, "{line}");
        }
        let line = "data: {\"usage\":{\"completion_tokens\":1}}\r\n";
        let new = summed_line(line, STEP_ONE).expect("usage");
        assert!(
            new.starts_with("data: {\"usage\":{\"completion_tokens\":8,") && new.ends_with("}}\r\n"),
            "{new}"
        );
    }
}
