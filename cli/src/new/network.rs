//! The network that is proposed: residual blocks (He et al. 2016).

use std::fmt::Write as _;

use shadernet::error::{Error, Result};
use shadernet::model::Model;
use shadernet::tensor::Shape;

/// Maps are halved while their smaller side is above this.
const SMALLEST_SIDE: usize = 8;
/// Images with a smaller side from here on are halved by the first convolution.
const HALVED_AT_ONCE: usize = 48;
/// Widths are multiples of this, so that no vector of four channels is partly empty.
const STEP: usize = 4;
/// Widest first block.
const MOST_CHANNELS: usize = 256;

/// The lines of `layers`, for an image of this shape. The first block has `width` channels, the second twice as many, and so on.
pub(super) fn layers(input: Shape, classes: usize, width: usize) -> String {
    let mut text = String::new();
    let mut line = |layer: String| writeln!(text, "  {{ {layer} }},").expect("a String takes all");
    let halved = |sides: [usize; 2]| sides.map(|side| side.div_ceil(2));
    let mut sides = [input.height, input.width];
    let mut stride = 1;
    if sides[0].min(sides[1]) >= HALVED_AT_ONCE {
        (sides, stride) = (halved(sides), 2);
    }
    line(conv(width, 3, stride));
    line("type = \"batch_norm2d\"".into());
    line("type = \"relu\", name = \"block0\"".into());
    for number in 1.. {
        let channels = number * width;
        let stride = if number == 1 { 1 } else { 2 };
        line(conv(channels, 3, stride));
        line("type = \"batch_norm2d\"".into());
        line("type = \"relu\"".into());
        line(conv(channels, 3, 1));
        line(format!("type = \"batch_norm2d\", name = \"main{number}\""));
        let mut shortcut = format!("block{}", number - 1);
        if stride == 2 {
            // Pooling would lose the last row or column of an odd number.
            if sides.iter().all(|side| side.is_multiple_of(2)) {
                line(format!("type = \"avg_pool2d\", kernel = 2, from = \"{shortcut}\""));
                line(format!("type = \"conv2d\", out_channels = {channels}, kernel = 1, bias = false"));
            } else {
                line(format!(
                    "type = \"conv2d\", out_channels = {channels}, kernel = 1, stride = 2, bias = false, from = \"{shortcut}\""
                ));
            }
            shortcut = format!("shortcut{number}");
            line(format!("type = \"batch_norm2d\", name = \"{shortcut}\""));
            sides = halved(sides);
        }
        line(format!("type = \"add\", from = [\"{shortcut}\", \"main{number}\"]"));
        line(format!("type = \"relu\", name = \"block{number}\""));
        if sides[0].min(sides[1]) <= SMALLEST_SIDE {
            break;
        }
    }
    line("type = \"global_avg_pool2d\"".into());
    line(format!("type = \"linear\", out_features = {classes}"));
    text
}

fn conv(channels: usize, kernel: usize, stride: usize) -> String {
    let stride = if stride == 1 { String::new() } else { format!(", stride = {stride}") };
    format!(
        "type = \"conv2d\", out_channels = {channels}, kernel = {kernel}, padding = 1{stride}, bias = false"
    )
}

/// The widest network with at most so many parameters.
///
/// # Errors
/// When even the narrowest has more.
pub(super) fn width_within(input: Shape, classes: usize, most: usize) -> Result<usize> {
    let count = |width: usize| -> Result<usize> {
        let text = format!("name = \"x\"\ninput = {input}\nlayers = [\n{}]\n", layers(input, classes, width));
        Ok(Model::parse(&text, "x")?.parameter_count())
    };
    let mut fits = None;
    for width in (STEP..=MOST_CHANNELS).step_by(STEP) {
        if count(width)? > most {
            break;
        }
        fits = Some(width);
    }
    match fits {
        Some(width) => Ok(width),
        None => Err(Error::Usage(format!(
            "--parameters {most}: the smallest network that is proposed for {input} and {classes} classes has {}",
            count(STEP)?
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(input: Shape, width: usize) -> Model {
        let text = format!("name = \"x\"\ninput = {input}\nlayers = [\n{}]\n", layers(input, 5, width));
        Model::parse(&text, "x").unwrap()
    }

    #[test]
    fn every_size_has_a_network() {
        for (height, width) in
            [(8, 8), (9, 13), (17, 8), (28, 28), (32, 52), (50, 47), (49, 51), (96, 64), (512, 512)]
        {
            for channels in [1, 3] {
                let model = model(Shape::new(channels, height, width), 4);
                assert_eq!(model.class_count(), 5);
                let last =
                    model.layers.iter().rev().find(|layer| layer.kind.name == "global_avg_pool2d").unwrap();
                let side = last.inputs[0].height.min(last.inputs[0].width);
                assert!((4..=SMALLEST_SIDE).contains(&side), "{height}x{width}: {}", last.inputs[0]);
            }
        }
    }

    #[test]
    fn a_budget_is_used_and_kept() {
        let input = Shape::new(3, 32, 32);
        for most in [5_000, 60_000, 1_000_000] {
            let width = width_within(input, 5, most).unwrap();
            let count = |width| model(input, width).parameter_count();
            assert!(count(width) <= most && count(width + STEP) > most, "{most}: {width}");
        }
        let message = width_within(input, 5, 1000).unwrap_err().to_string();
        assert!(message.contains("--parameters 1000: the smallest network"), "{message}");
    }
}
