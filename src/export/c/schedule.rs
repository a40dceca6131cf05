//! In which order rows are computed, and where they lie: as little memory as possible, without computing anything twice.
//!
//! Neighbouring steps can work row by row: whenever a row can be made, the last step that can make one does. What lies between
//! them then needs a few rows, used in turn, in place of a whole map. Which neighbours do so is chosen for the smallest sum of
//! all that is kept at the same time.

use std::ops::Range;

use crate::inference::{Compute, Program, Step, Value};
use crate::tensor::Shape;

/// The order of the work, and the memory it takes.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Ranges of steps. Those of one range work row by row.
    pub(super) groups: Vec<Range<usize>>,
    /// For each step, where its values are; the last one's are the logits, which lie elsewhere.
    pub(super) buffers: Vec<Buffer>,
    /// Size of the memory for all buffers, in values.
    pub(super) size: usize,
}

/// Memory for what a step makes: [channels, rows, width], in which row y of the map has the place y mod rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buffer {
    /// In values, from the beginning of the memory.
    pub(super) offset: usize,
    pub(super) rows: usize,
}

impl Schedule {
    pub(super) fn new(program: &Program) -> Self {
        let readers = readers(program);
        let groups = groups(program, &readers);
        let mut rows = Vec::new();
        for group in &groups {
            rows.extend(rows_kept(program, &readers, group.clone()));
        }
        let (buffers, size) = place(program, &readers, &groups, &rows);
        Self { groups, buffers, size }
    }
}

/// Rows of an input that a row of the output needs.
pub(super) fn rows_needed(step: &Step, input: usize, made: Shape, y: usize) -> Range<usize> {
    let seen = step.shapes[input];
    let of_window = |axis: crate::layers::window::Axis, y: usize| {
        let first = (y * axis.stride).saturating_sub(axis.padding[0]);
        let end = (y * axis.stride + axis.reach()).saturating_sub(axis.padding[0]);
        first.min(axis.input)..end.min(axis.input)
    };
    if seen != made {
        return 0..made.height;
    }
    match &step.compute {
        Compute::Conv(filter) => {
            let rows = |y| of_window(filter.sizes.axes()[0], y);
            match &step.maximum {
                Some(pool) => {
                    let first = y * pool.stride[0];
                    rows(first).start..rows(first + pool.kernel[0] - 1).end
                }
                None => rows(y),
            }
        }
        Compute::MaxPool(pool) | Compute::AvgPool(pool) => of_window(pool.axes()[0], y),
        Compute::GroupNorm { .. } => 0..seen.height,
        // One value for each channel, for every row.
        _ if seen.height != step.output.height => 0..seen.height,
        _ => y..y + 1,
    }
}

/// For each step, who reads what it makes: a step and the position among its inputs.
type Readers = [Vec<(usize, usize)>];

fn readers(program: &Program) -> Vec<Vec<(usize, usize)>> {
    let mut readers = vec![Vec::new(); program.steps.len()];
    for (reader, step) in program.steps.iter().enumerate() {
        for (position, input) in step.inputs.iter().enumerate() {
            if let Value::Made(made) = *input {
                readers[made].push((reader, position));
            }
        }
    }
    readers
}

/// Values of a step's output if this many of its rows are kept.
fn size(step: &Step, rows: usize) -> usize {
    step.output.channels * rows * step.output.width
}

/// At most so many steps work row by row: no more are worth the search.
const LONGEST_GROUP: usize = 40;

/// The partition of all steps into groups that needs the least memory at any time, and of those the one with the shortest groups.
fn groups(program: &Program, readers: &Readers) -> Vec<Range<usize>> {
    let steps = program.steps.len();
    // For each number of steps from the first: the memory they need, and where their last group begins.
    let mut best: Vec<(usize, usize)> = vec![(0, 0)];
    for end in 1..=steps {
        let mut found = (usize::MAX, end - 1);
        for begin in (end.saturating_sub(LONGEST_GROUP)..end).rev() {
            // A normalisation over all rows works alone.
            let alone = program.steps[begin..end]
                .iter()
                .any(|step| matches!(step.compute, Compute::GroupNorm { .. }));
            if alone && end - begin > 1 {
                break;
            }
            let need = best[begin].0.max(need(program, readers, begin..end));
            if need < found.0 {
                found = (need, begin);
            }
        }
        best.push(found);
    }
    let mut groups = Vec::new();
    let mut end = steps;
    while end > 0 {
        let begin = best[end].1;
        groups.push(begin..end);
        end = begin;
    }
    groups.reverse();
    groups
}

/// The most values that are kept at any time while a group works: its own, and those of earlier steps that are still read.
fn need(program: &Program, readers: &Readers, group: Range<usize>) -> usize {
    let is_read = |step: &usize| readers[*step].iter().any(|(reader, _)| *reader >= group.start);
    let earlier: usize = (0..group.start).filter(is_read).map(|step| program.steps[step].output.len()).sum();
    let rows = rows_kept(program, readers, group.clone());
    let sizes: Vec<usize> =
        group.clone().zip(&rows).map(|(step, &rows)| size(&program.steps[step], rows)).collect();
    let mut most = 0;
    for_each_row(program, group.clone(), |row, made| {
        let kept = group.clone().filter(|&step| step == row || holds(program, readers, &group, step, made));
        most = most.max(kept.map(|step| sizes[step - group.start]).sum());
    });
    earlier + most
}

/// Calls `row(step, made)` for each row that a group makes, in order: who makes it, and how many rows each has made before.
fn for_each_row(program: &Program, group: Range<usize>, mut row: impl FnMut(usize, &[usize])) {
    let mut made = vec![0; group.len()];
    while let Some(step) = next(program, group.clone(), &made) {
        row(step, &made);
        made[step - group.start] += 1;
    }
}

/// The first row of a step that its group still needs; rows before it, and those that no later row needs, are given up.
fn oldest(program: &Program, readers: &Readers, group: &Range<usize>, step: usize, made: &[usize]) -> usize {
    let of_reader = |&(reader, input): &(usize, usize)| {
        let y = made[reader - group.start];
        let this = &program.steps[reader];
        (y < this.output.height).then(|| rows_needed(this, input, program.steps[step].output, y).start)
    };
    let inside = readers[step].iter().filter(|(reader, _)| group.contains(reader));
    inside.filter_map(of_reader).min().unwrap_or(usize::MAX)
}

/// True if a step of a group has made rows that are still needed.
fn holds(program: &Program, readers: &Readers, group: &Range<usize>, step: usize, made: &[usize]) -> bool {
    let rows = made[step - group.start];
    rows > 0 && (is_whole(readers, group, step) || rows > oldest(program, readers, group, step, made))
}

/// True if somebody outside its group reads a step.
fn is_whole(readers: &Readers, group: &Range<usize>, step: usize) -> bool {
    readers[step].iter().any(|(reader, _)| !group.contains(reader))
}

/// For each step of a group, how many of its rows must be kept. The last step of all makes the logits, of which none is.
fn rows_kept(program: &Program, readers: &Readers, group: Range<usize>) -> Vec<usize> {
    let height = |step: usize| program.steps[step].output.height;
    let mut kept = vec![0; group.len()];
    for_each_row(program, group.clone(), |step, made| {
        let at = step - group.start;
        let oldest = oldest(program, readers, &group, step, made).min(made[at]);
        kept[at] = kept[at].max(made[at] + 1 - oldest);
    });
    for (step, kept) in group.clone().zip(&mut kept) {
        let is_last = step + 1 == program.steps.len();
        let is_reshaped = readers[step]
            .iter()
            .any(|&(reader, input)| program.steps[reader].shapes[input] != program.steps[step].output);
        *kept = match () {
            () if is_last => 0,
            () if is_whole(readers, &group, step) || is_reshaped => height(step),
            () => (*kept).min(height(step)),
        };
    }
    kept
}

/// The last step of a group that can make its next row, given how many rows each has made.
fn next(program: &Program, group: Range<usize>, made: &[usize]) -> Option<usize> {
    let can_go_on = |&step: &usize| {
        let this = &program.steps[step];
        let y = made[step - group.start];
        y < this.output.height
            && this.inputs.iter().enumerate().all(|(position, input)| match *input {
                Value::Made(before) if group.contains(&before) => {
                    let needed = rows_needed(this, position, program.steps[before].output, y);
                    made[before - group.start] >= needed.end
                }
                _ => true,
            })
    };
    group.clone().rev().find(can_go_on)
}

/// For each step, which others hold values at the same time: even of neighbours that work row by row many never do, because
/// what one makes is read at once.
fn together(program: &Program, readers: &Readers, groups: &[Range<usize>]) -> Vec<Vec<bool>> {
    let steps = program.steps.len();
    let mut together = vec![vec![false; steps]; steps];
    for group in groups {
        let is_read = |step: &usize| readers[*step].iter().any(|(reader, _)| *reader >= group.start);
        let earlier: Vec<usize> = (0..group.start).filter(is_read).collect();
        for_each_row(program, group.clone(), |row, made| {
            let own = group.clone().filter(|&step| step == row || holds(program, readers, group, step, made));
            let held: Vec<usize> = earlier.iter().copied().chain(own).collect();
            for &step in &held {
                held.iter().for_each(|&other| together[step][other] = true);
            }
        });
    }
    together
}

/// Places all buffers, the largest first, each as low as those that hold values at the same time allow (Pisarchyk and Lee 2020,
/// "Efficient Memory Management for Deep Neural Net Inference": greedy by size).
fn place(
    program: &Program,
    readers: &Readers,
    groups: &[Range<usize>],
    rows: &[usize],
) -> (Vec<Buffer>, usize) {
    let together = together(program, readers, groups);
    let sizes: Vec<usize> = program.steps.iter().zip(rows).map(|(step, &rows)| size(step, rows)).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&step| (usize::MAX - sizes[step], step));
    let mut buffers: Vec<Buffer> = rows.iter().map(|&rows| Buffer { offset: 0, rows }).collect();
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for step in order {
        let mut taken: Vec<Range<usize>> = placed
            .iter()
            .filter(|&&other| together[step][other])
            .map(|&other| buffers[other].offset..buffers[other].offset + sizes[other])
            .collect();
        taken.sort_by_key(|range| range.start);
        let mut offset = 0;
        for range in taken {
            if offset + sizes[step] <= range.start {
                break;
            }
            offset = offset.max(range.end);
        }
        buffers[step].offset = offset;
        total = total.max(offset + sizes[step]);
        placed.push(step);
    }
    (buffers, total)
}
