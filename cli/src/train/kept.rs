//! What a recipe decided by the held-out images.

use shadernet::config::{Criterion, Keep};
use shadernet::model::Model;
use shadernet::train::Summary;

/// Which epochs' weights were saved, and why, if the recipe decides by held-out images.
pub(super) fn line(summary: &Summary, model: &Model) -> Option<String> {
    let (_, by) = model.train.judges()?;
    let by = if by == Criterion::Loss { "loss" } else { "accuracy" };
    let why = match model.train.keep {
        Keep::Best => format!("the best by the {by} of the held-out images"),
        Keep::Last => "the last".into(),
    };
    let patience = model.train.early_stop.map_or(0, |stop| stop.patience);
    let early = format!("since the {by} had not got better for {patience} epochs");
    let stopped = summary.replicas.iter().filter(|net| net.stopped_epoch.is_some()).count();
    let stopped = match summary.stopped_epoch {
        Some(epoch) => format!("; stopped after epoch {epoch}, {early}"),
        None if stopped > 0 => {
            format!("; {stopped} of {} nets stopped early, {early}", summary.replicas.len())
        }
        None => String::new(),
    };
    let kept = match summary.kept_epoch {
        Some(epoch) => format!("Saved: the weights of epoch {epoch}, {why}"),
        None => {
            let kept =
                summary.replicas.iter().filter(|net| net.file.is_some()).filter_map(|net| net.kept_epoch);
            let kept = kept.map(|epoch| epoch.to_string()).collect::<Vec<_>>().join(", ");
            format!("Saved: of each net the weights of its epoch {kept}, {why}")
        }
    };
    Some(kept + &stopped)
}
