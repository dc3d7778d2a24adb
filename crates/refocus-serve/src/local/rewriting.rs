//! `[rewrite]` of a patch: the newest message of a user is rewritten before the model answers.
//!
//! Which requests and which bytes of them, is as in the proxy. There is no deadline and nothing is remembered, so that
//! an answer still depends on its request alone. The model that rewrites is the one served, without the patch: a
//! threshold was chosen on its scores.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use refocus_model::generate::{Request, RequestError, Sampling, What};
use refocus_model::patch::Rewrite;
use refocus_system2::{Ask, Chat, ChatError, Finish, Message, Options, Reply, Scores, Usage};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Local;
use super::answer::failure;
use super::engine::{Place, Update};
use super::prepare::{Prepared, refused_by_engine};
use super::router::{submitted, whole};
use crate::error::{ApiError, ApiResult};
use crate::exchange;
use crate::openai::{ChatRequest, Choice};
use crate::proxy::config::{CHATS, Mode};
use crate::proxy::flights::Origin;
use crate::proxy::json::{Splice, quoted, spliced};
use crate::proxy::report::{APPLIED, Report, tokens};
use crate::proxy::rewriter::{Cancel, rewritten};
use crate::proxy::select::{self, MODE, Skip, Target, Wish};
use crate::proxy::{Rewritten, System2Config};

/// How messages are rewritten.
pub(super) struct Rewriting {
    select: System2Config,
    options: Options,
    /// How often a client that waits hears that it goes on.
    pub(super) beat: Duration,
}

impl Rewriting {
    /// As a patch says.
    pub(super) fn of(patch: Rewrite, beat: Duration) -> Self {
        // Names of models have no prefix here: the patch is of the one model that there is.
        let select = System2Config { mode: Mode::On, prefix: String::new(), ..System2Config::default() };
        let threshold = patch.threshold.map(f64::from);
        Self { select, options: Options { threshold, ..Options::new(patch.variant) }, beat }
    }
}

/// A chat request with its newest message rewritten, and what became of it; the request as it is where nothing is to
/// be done.
///
/// # Errors
/// The request is none, or the model cannot be asked now.
pub(super) async fn before(
    local: &Arc<Local>,
    rewriting: &Arc<Rewriting>,
    wish: Wish,
    body: Bytes,
    place: Arc<Place>,
) -> ApiResult<(Bytes, Report)> {
    local.is_here(&ChatRequest::parse(&body)?.shared.model)?;
    if wish.mode == Some(Mode::Audit) {
        let text = format!("the header {MODE} takes on or off here; audit is for a proxy");
        return Err(ApiError::invalid(MODE, text));
    }
    let began = Instant::now();
    let mut report =
        Report { what: "skipped", model: local.name.clone(), origin: Some(Origin::New), ..Report::default() };
    // Goes with this future: whoever left waits for nothing.
    let (_waiting, gone) = watch::channel(());
    let work = {
        let (local, rewriting, body) = (Arc::clone(local), Arc::clone(rewriting), body.clone());
        let call = Call { local, place, runtime: Handle::current(), gone: Cancel(gone), lost: None };
        tokio::task::spawn_blocking(move || all(call, &rewriting, &wish, &String::from_utf8_lossy(&body)))
    };
    let all = work.await.map_err(|_| ApiError::internal("the rewriting ended before it was done"))??;
    let all = match all {
        Ok(all) => all,
        Err(skip) => return Ok((body, Report::skipped(skip))),
    };
    let (mut before, mut after) = (0, 0);
    // Why a target was left out, beside others that were not.
    let mut left_out = None;
    for (target, Rewritten { text, reason, usage, failed, .. }) in all {
        report.usage += usage;
        before += tokens(&target.text);
        after += tokens(text.as_deref().unwrap_or(&target.text));
        let why = reason.map_or("kept", |(name, _)| name);
        match text {
            Some(text) => report.splices.push(Splice { at: target.at, with: quoted(&text) }),
            None if failed => drop(left_out.get_or_insert(why)),
            None => drop(report.reason.get_or_insert(why)),
        }
    }
    report.reason = left_out.or(report.reason);
    report.tokens = Some((before, after));
    report.elapsed = began.elapsed();
    if report.splices.is_empty() {
        return Ok((body, report));
    }
    (report.what, report.reason) = (APPLIED, left_out);
    Ok((spliced(&String::from_utf8_lossy(&body), &report.splices).into(), report))
}

type All = Vec<(Target, Rewritten)>;

/// All that there is to rewrite in a request, one after another, or why that is nothing. It blocks.
fn all(mut call: Call, rewriting: &Rewriting, wish: &Wish, text: &str) -> ApiResult<Result<All, Skip>> {
    let usual = rewriting.options.variant;
    let Some(plan) = select::plan(&rewriting.select, usual, CHATS, wish, text) else {
        return Ok(Err(Skip::Off));
    };
    let targets = match plan.targets {
        Ok(targets) => targets,
        Err(skip) => return Ok(Err(skip)),
    };
    let threshold = rewriting.options.threshold.filter(|_| plan.variant == usual);
    let options = Options { variant: plan.variant, threshold, ..rewriting.options.clone() };
    let mut all = Vec::with_capacity(targets.len());
    for target in targets {
        let done = rewritten(&mut call, &target.text, target.question.as_deref(), &options);
        if let Some(lost) = call.lost.take() {
            return Err(lost);
        }
        all.push((target, done));
    }
    Ok(Ok(all))
}

/// The served model as a [`Chat`], for the time of one request. It blocks.
struct Call {
    local: Arc<Local>,
    /// That of the request, which is busy here until the last work for it ends, whoever waits.
    place: Arc<Place>,
    runtime: Handle,
    gone: Cancel,
    /// Why it could not be asked for a reason that is not the request's own.
    lost: Option<ApiError>,
}

impl Call {
    /// Waits for what the engine says, as long as somebody waits for this.
    fn wait<T>(&mut self, work: impl Future<Output = ApiResult<T>>) -> Result<T, ChatError> {
        let mut gone = self.gone.clone();
        let outcome = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = gone.cancelled() => Err(left()),
                outcome = work => outcome,
            }
        });
        outcome.map_err(|error| self.refused(error))
    }

    /// A request that this model does not take keeps its original; what says nothing about it ends it.
    fn refused(&mut self, error: ApiError) -> ChatError {
        let why = error.to_string();
        if !error.status().is_client_error() || error.status() == StatusCode::TOO_MANY_REQUESTS {
            self.lost = Some(error);
        }
        ChatError::Refused { model: self.local.name.clone(), why }
    }
}

/// Why nothing is computed for who left.
fn left() -> ApiError {
    ApiError::internal("nobody waits for it any more")
}

impl Chat for Call {
    fn name(&self) -> &str {
        &self.local.name
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        let local = Arc::clone(&self.local);
        let body = exchange::completion(&local.name, exchange::OLD_LIMIT, ask).to_string();
        // It is greedy, so its number draws nothing.
        let prepared = ChatRequest::parse(body.as_bytes()).and_then(|chat| local.prepare_chat(chat, "", 0));
        let prepared = prepared.map_err(|error| self.refused(error))?;
        let place = Arc::clone(&self.place);
        self.wait(written(&local, place, prepared))
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        let (mut rows, usage) = self.score_each(&[messages.to_vec()], answers)?;
        Ok((rows.pop().unwrap_or_default(), usage))
    }

    fn score_each(&mut self, conversations: &[Vec<Message>], answers: &[&str]) -> Result<Scores, ChatError> {
        let local = Arc::clone(&self.local);
        let asked = asked(&local, &self.gone, conversations, answers);
        let asked = asked.map_err(|error| self.refused(error))?;
        let usage = Usage { prompt: asked.tokens as u64, completion: 0 };
        // A request for each token of each answer, in order.
        let place = Arc::clone(&self.place);
        let logprobs = self.wait(read(&local, place, asked.requests))?;
        let mut rest = logprobs.into_iter();
        let sums = asked.lengths.iter().map(|&n| rest.by_ref().take(n).map(f64::from).sum::<f64>());
        let sums: Vec<f64> = sums.collect();
        Ok((sums.chunks(answers.len().max(1)).map(<[f64]>::to_vec).collect(), usage))
    }
}

/// What is asked to score answers.
struct Scored {
    requests: Vec<Request>,
    /// Tokens of each answer to each conversation.
    lengths: Vec<usize>,
    /// Tokens of the conversations.
    tokens: usize,
}

/// Stops where nobody waits any more, and at the first prompt that is too long: each holds the whole text.
fn asked(
    local: &Local,
    gone: &Cancel,
    conversations: &[Vec<Message>],
    answers: &[&str],
) -> ApiResult<Scored> {
    let mut out = Scored { requests: Vec::new(), lengths: Vec::new(), tokens: 0 };
    for messages in conversations {
        if gone.is_cancelled() {
            return Err(left());
        }
        let messages: Vec<Value> = messages.iter().map(|m| json!(m)).collect();
        let (text, prompt) = local.rendered(&messages)?;
        if !local.spec.fits(prompt.len()) {
            let why = RequestError::Context { len: prompt.len(), n_ctx: local.n_ctx };
            return Err(refused_by_engine(&why, "messages"));
        }
        out.tokens += prompt.len();
        for answer in answers {
            // As they follow this prompt: a tokenizer may join them to what is before.
            let whole = local.encode(&format!("{text}{answer}"), "messages")?;
            let rest = whole.strip_prefix(prompt.as_slice()).filter(|rest| !rest.is_empty());
            let answer = match rest {
                Some(rest) => rest.to_vec(),
                None => local.encode(answer, "messages")?,
            };
            out.lengths.push(answer.len());
            out.requests.extend((0..answer.len()).map(|n| forced(&prompt, &answer[..n], answer[n])));
        }
    }
    Ok(out)
}

/// Asks for one token, whose log-probability is told before this bias.
fn forced(prompt: &[u32], begun: &[u32], token: u32) -> Request {
    let sampling = Sampling { logit_bias: vec![(token, 1e9)], ..Sampling::default() };
    Request { sampling, logprobs: Some(0), ..Request::new([prompt, begun].concat(), 1) }
}

/// The log-probability of the one token of each request.
async fn read(local: &Local, place: Arc<Place>, requests: Vec<Request>) -> ApiResult<Vec<f32>> {
    let mut logprobs = vec![f32::NEG_INFINITY; requests.len()];
    let mut left = requests.len();
    let tokens = requests.iter().map(|r| r.prompt.len()).sum();
    let mut updates = submitted(local, place, requests, "messages", tokens).await?;
    while left > 0 {
        match updates.recv().await {
            Some(Update::Choice { index, what: What::Token(token) }) => {
                if let (Some(place), Some(logprob)) = (logprobs.get_mut(index), token.logprob) {
                    *place = logprob;
                }
            }
            Some(Update::Choice { what: What::Finished { .. }, .. }) => left -= 1,
            Some(Update::Choice { what: What::Failed(error), .. }) => return Err(failure(&error)),
            Some(Update::Accepted) => {}
            Some(Update::Refused { why, .. }) => return Err(ApiError::internal(why.to_string())),
            Some(Update::Cut) => return Err(ApiError::stopping()),
            None => return Err(local.engine.stop().why()),
        }
    }
    Ok(logprobs)
}

/// The answer to a chat, by the model without the patch.
async fn written(local: &Local, place: Arc<Place>, prepared: Prepared) -> ApiResult<Reply> {
    let Prepared { mut requests, writers, prompt, .. } = prepared;
    requests.iter_mut().for_each(|request| request.changes = Arc::default());
    let updates = submitted(local, place, requests, "messages", prompt).await?;
    let (choices, completion) = whole(updates, writers, &[], &local.engine.stop()).await?;
    let (text, cut) = choices.first().map_or(("", false), Choice::said);
    let finish = if cut { Finish::Length } else { Finish::Stop };
    let usage = Usage { prompt: prompt as u64, completion: completion as u64 };
    Ok(Reply { text: text.to_owned(), finish, usage })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use refocus_compute::Isa;
    use refocus_model::Checkpoint;

    use super::*;
    use crate::config::Config;
    use crate::keys::Keys;
    use crate::local::Source;
    use crate::metrics::Metrics;

    #[test]
    fn scores_are_not_prepared_for_who_left_nor_of_what_is_too_long() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        let folder = std::env::temp_dir().join(format!("refocus-scores-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        for name in ["model.safetensors", "tokenizer.json", "config.json"] {
            std::fs::copy(fixture.join(name), folder.join(name)).expect("copy");
        }
        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        std::fs::write(folder.join("chat_template.jinja"), template).expect("write");
        let checkpoint = Checkpoint::open(&folder).expect("opens");
        let (name, isa) = ("tiny".to_owned(), Isa::detect());
        let source = Source { checkpoint, name, patch: None, isa, threads: 1, seed: 0 };
        let local = Local::start(source, &Config::default(), Keys::default(), Arc::new(Metrics::default()));
        let local = local.expect("starts");
        let (waits, here) = watch::channel(());
        let here = Cancel(here);
        let of = |text: &str| vec![vec![Message::user(text)]];
        let told = |texts: &[Vec<Message>]| {
            asked(&local, &here, texts, &["Yes", "No"]).map(|s| s.lengths.len()).map_err(|e| e.to_string())
        };
        assert_eq!(told(&of("Once")), Ok(2));
        let long = told(&of(&"Once ".repeat(local.n_ctx + 1))).expect_err("too long");
        assert!(long.contains("the model's context is 512"), "{long}");
        drop(waits);
        assert_eq!(told(&of("Once")), Err(left().to_string()));
        local.finish();
        std::fs::remove_dir_all(folder).expect("remove");
    }
}
