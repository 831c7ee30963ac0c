//! A plan in words, for `--dry-run` and `regild rollout show`: exactly which host would be rewritten in which wave, in
//! which order, with how many bytes, and who is left out and why. Nothing is rounded away: every host has its line.

use super::plan::{Goal, Member, Plan, WaveSize};
use crate::decide::group::Check;
use crate::decide::host::ImageChoice;
use crate::decide::span::{bytes, hosts, span};
use std::fmt::Write;

/// The text, one line each, without a time: the same plan is always the same text.
#[must_use]
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = head(&mut out, plan);
    let _ = waves(&mut out, plan);
    let _ = left_out(&mut out, plan);
    out
}

fn head(out: &mut String, plan: &Plan) -> std::fmt::Result {
    let request = &plan.request;
    let members = plan.members().count();
    match &request.goal {
        Goal::Image(image) => writeln!(out, "rollout of {}", named(image))?,
        Goal::Former { of } => writeln!(out, "rollback of rollout {of}: each host gets back what it ran before")?,
    }
    writeln!(out, "asked for by {}: {}", request.by, request.reason)?;
    writeln!(
        out,
        "selector {}: {} to rewrite in {}, {} left out, {} there already",
        request.selector,
        hosts(members),
        count(plan.waves.len(), "wave"),
        plan.excluded.len(),
        plan.done_already.len()
    )?;
    writeln!(out, "{} to fetch", bytes(plan.fetch_bytes()))?;
    writeln!(
        out,
        "waves: {}; at most {}% of the hosts of one {} at once, but always one",
        sizes(request.canary, &request.waves),
        request.spread_percent,
        request.spread
    )?;
    let gate = &request.gate;
    let mut needs =
        vec![if gate.confirmed { "ready and confirmed by the installed system" } else { "ready" }.to_string()];
    match &gate.check {
        Some(Check::Http { url }) => needs.push(format!("GET {url} answers 2xx")),
        Some(Check::Command { program }) => needs.push(format!("{program} exits 0")),
        None => {}
    }
    writeln!(
        out,
        "gate after each wave: {} within {}; then healthy for {}",
        needs.join(", "),
        span(gate.health_seconds),
        span(gate.soak_seconds)
    )?;
    match request.failures_max {
        0 => writeln!(out, "halts at the first host that fails"),
        max => {
            writeln!(out, "halts when more than {} failed, or when nobody of a wave is healthy", hosts(max as usize))
        }
    }
}

fn waves(out: &mut String, plan: &Plan) -> std::fmt::Result {
    if plan.waves.is_empty() {
        return writeln!(out, "\nnothing to do");
    }
    let mut order = 0;
    for (number, wave) in plan.waves.iter().enumerate() {
        let fetch_bytes = wave.iter().fold(0u64, |sum, member| sum.saturating_add(member.fetch_bytes));
        let canary = if number == 0 && plan.request.canary > 0 { " (canary)" } else { "" };
        writeln!(out, "\nwave {}{canary}: {}, {}", number + 1, hosts(wave.len()), bytes(fetch_bytes))?;
        writeln!(out, "  {}", begins(plan, number))?;
        let width = |text: &dyn Fn(&Member) -> usize| wave.iter().map(text).max().unwrap_or(0);
        let (id, name, rack) = (
            width(&|member| member.id.len()),
            width(&|member| shown(member.name.as_deref()).len()),
            width(&|member| shown(member.spread.as_deref()).len()),
        );
        for member in wave {
            order += 1;
            writeln!(
                out,
                "  {order:>5}  {:id$}  {:name$}  {}={:rack$}  {} -> {}  {}",
                member.id,
                shown(member.name.as_deref()),
                plan.request.spread,
                shown(member.spread.as_deref()),
                member.former.as_ref().map_or("nothing known", |image| image.name.as_str()),
                member.image.name,
                bytes(member.fetch_bytes)
            )?;
        }
    }
    Ok(())
}

fn left_out(out: &mut String, plan: &Plan) -> std::fmt::Result {
    if !plan.excluded.is_empty() {
        writeln!(out, "\nleft out: {}", hosts(plan.excluded.len()))?;
    }
    for (id, reason) in &plan.excluded {
        writeln!(out, "  {id}  {reason}")?;
    }
    if !plan.done_already.is_empty() {
        writeln!(out, "\nthere already: {}", hosts(plan.done_already.len()))?;
    }
    for id in &plan.done_already {
        writeln!(out, "  {id}")?;
    }
    Ok(())
}

/// When a wave begins. Nobody can know the hour: that is what the gate is for.
fn begins(plan: &Plan, number: usize) -> String {
    if number == 0 {
        return "begins at once, as far as the limits open orders".to_string();
    }
    let soak = span(plan.request.gate.soak_seconds);
    format!("begins when every host of wave {number} has been healthy for {soak} (failed ones within the budget aside)")
}

fn sizes(canary: u32, waves: &[WaveSize]) -> String {
    let size = |size: &WaveSize| match size {
        WaveSize::Hosts(count) => count.to_string(),
        WaveSize::Percent(percent) => format!("{percent}%"),
    };
    let canary = (canary > 0).then(|| format!("canary {canary}"));
    let words: Vec<String> = canary.into_iter().chain(waves.iter().map(size)).collect();
    format!("{}, the last size again until all are in", words.join(", "))
}

fn named(image: &ImageChoice) -> String {
    // Enough of the digest to tell two apart by eye.
    let digest: String = image.manifest.chars().take(12).collect();
    format!("{} ({digest})", image.name)
}

fn shown(text: Option<&str>) -> &str {
    text.unwrap_or("-")
}

fn count(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
