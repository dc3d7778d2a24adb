//! `refocus rewrite`.

use std::time::Instant;

use refocus_compute::Eager;
use refocus_model::Model;
use refocus_model::template::ChatTemplate;
use refocus_system2::{Chat, Guards, Judge, Local, Options, Request, Templates, Variant, rewrite};

use super::rewrite_view::{Report, shown};
use super::{Ended, upstream};
use crate::cli::{Global, Rewrite};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::{backend, input, model_arg};

/// Runs the command.
pub(super) fn run(args: &Rewrite, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let text = match (&args.input.prompt, &args.input.file) {
        (Some(prompt), _) if prompt != "-" => prompt.clone(),
        (_, Some(file)) => input::text(file)?,
        _ => input::text("-".as_ref())?,
    };
    let templates = args.template.as_deref().map(Templates::load).transpose()?.unwrap_or_default();
    let mut options = Options {
        judge: args.score_by.map_or_else(Judge::default, Judge::from),
        threshold: args.threshold,
        templates,
        guards: Guards { strict: args.strict, ..Guards::default() },
        max_new: args.max_new.map(|n| n as usize),
        seed: global.seed,
        deadline: args.deadline,
        ..Options::new(args.variant.into())
    };
    // What only one variant reads is refused elsewhere, not passed over.
    let scored = [
        ("--threshold", args.threshold.is_some()),
        ("--score-by", args.score_by.is_some()),
        ("--answer", !args.answer.is_empty()),
    ];
    if let Some((flag, _)) = scored.iter().find(|(_, given)| *given && options.variant != Variant::Scored) {
        return Err(Failure::new(format!("{flag} is for --variant scored")).hint("add --variant scored"));
    }
    if args.threshold.is_none() && options.variant == Variant::Scored && options.judge == Judge::Need {
        printer
            .note("the threshold is 0, but where yes and no balance differs between models: set --threshold");
    }
    let request = Request { answers: args.answer.clone(), ..Request::new(text) };
    if let Some(url) = &args.server.upstream {
        let name = args.model.as_deref().map(|m| m.to_string_lossy());
        let mut chat = upstream::open(&args.server, url, name.as_deref(), 1)?;
        if options.variant == Variant::Scored {
            // The more tokens it tells of, the likelier both answers are among them. Where it cannot be asked, the
            // rewriting says why.
            let began = Instant::now();
            chat.limit(options.deadline.and_then(|d| began.checked_add(d)));
            let _ = chat.find_out();
            options.deadline = options.deadline.map(|d| d.saturating_sub(began.elapsed()));
        }
        return made(&mut chat, &request, &options, args.diff, printer);
    }
    if args.model.is_none() {
        return Err(Failure::new("no model is given").hint("give --model MODEL"));
    }
    let checkpoint = model_arg::open(args.model.as_deref(), printer)?;
    let tokenizer = checkpoint.tokenizer()?;
    let template = ChatTemplate::of(&checkpoint, &tokenizer)?;
    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let mut o = Eager::new(cpu);
    let name = model_arg::shown(&checkpoint);
    let mut chat = Local::new(name.as_str(), &mut o, &model, &tokenizer, template.as_ref());
    if !chat.has_template() {
        printer.note("the model brings no chat template: it is asked as a plain script of a conversation");
    }
    made(&mut chat, &request, &options, args.diff, printer)
}

/// Rewrites and shows what came of it.
fn made(
    chat: &mut dyn Chat,
    request: &Request,
    options: &Options,
    diff: bool,
    printer: &Printer,
) -> Outcome<Ended> {
    let made = rewrite(chat, request, options);
    let report = Report { model: chat.name(), original: &request.text, options, made: &made };
    if printer.is_json() {
        printer.document(&report.document())?;
        return Ok(Ended::Well);
    }
    if let Some(reason) = made.reason() {
        printer.note(&format!("the original goes through: {reason}"));
    }
    if diff {
        printer.text(&shown(&report, printer.colours()))?;
    } else {
        printer.text(&made.text)?;
        if !made.text.is_empty() && !made.text.ends_with('\n') {
            printer.text("\n")?;
        }
    }
    Ok(Ended::Well)
}
