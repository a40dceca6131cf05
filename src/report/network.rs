//! Pictures of a network: its layers, its first filters, and what its layers make of an image.

use super::html::{escape, note, section, table};
use super::picture::{MOST_TILES, of_image, of_tiles};
use crate::checkpoint::Checkpoint;
use crate::dataset::Images;
use crate::layers::Op;
use crate::model::{Model, NamedLayer, thousands};
use crate::reference::Reference;
use crate::tensor::Array;

/// The reference implementation takes about a second for this many operations; above, no feature maps are made.
const MOST_FLOPS: f64 = 4e8;

/// Operations in a forward pass with one image.
fn flops(model: &Model) -> f64 {
    model.layers.iter().map(NamedLayer::forward_flops).sum()
}

/// The layer table, with the work of each layer.
pub(super) fn layers(model: &Model) -> String {
    let all = flops(model).max(1.0);
    let row = |(index, layer): (usize, &NamedLayer)| {
        let (keys, flops) = (layer.layer.keys(), layer.forward_flops());
        let from = layer.from(index, &model.layers).map(|names| format!("from {}", names.join(" and ")));
        let owner = layer.weights_of.map(|owner| format!("weights of {}", model.layers[owner].name));
        let keys = keys.iter().map(|(key, value)| format!("{key} {value}"));
        let keys: Vec<_> = from.into_iter().chain(owner).chain(keys).collect();
        let [c, h, w]: [usize; 3] = layer.output.into();
        let work = if flops > 0.0 {
            [thousands((flops / 2.0) as usize), format!("{:.1} %", 100.0 * flops / all)]
        } else {
            Default::default()
        };
        let parameters = match layer.parameter_count() {
            0 => String::new(),
            count => thousands(count),
        };
        let [work, share] = work;
        vec![escape(&layer.name), escape(keys.join(", ")), format!("{c}×{h}×{w}"), parameters, work, share]
    };
    let mut rows: Vec<_> = model.layers.iter().enumerate().map(row).collect();
    let (parameters, work) = (thousands(model.parameter_count()), thousands((all / 2.0) as usize));
    rows.push(["<b>all</b>", "", "", &parameters, &work, ""].map(String::from).into());
    let heads = ["layer", "settings", "output", "parameters", "multiply-adds per image", "share"];
    let table = table(&heads, &rows, 2);
    let [c, h, w]: [usize; 3] = model.input.into();
    section("The network", &(note(&format!("Input: {c}×{h}×{w} (channels, height, width).")) + &table))
}

/// The filters of the first layer, if it is a convolution with windows of more than one pixel.
pub(super) fn filters(checkpoint: &Checkpoint) -> Option<String> {
    let first = checkpoint.model.layers.iter().position(|layer| layer.parameter_count() > 0)?;
    let params = checkpoint.model.params();
    let index = params.iter().position(|param| param.layer == first && param.param.name == "weight")?;
    let &[outputs, inputs, height, width] = &params[index].param.shape[..] else { return None };
    if height * width == 1 {
        return None;
    }
    let values: Vec<f64> = checkpoint.weights[index].data.iter().map(|&value| value.into()).collect();
    let name = escape(&params[index].name);
    let picture =
        of_tiles(&values, [outputs * inputs, height, width], &format!("filters of {}", params[index].name));
    let of_inputs = if inputs > 1 { format!(", each of {inputs} input channels") } else { String::new() };
    let cut = cut(outputs * inputs);
    let text = format!(
        "{name}: {outputs} filters of {height}×{width}{of_inputs}{cut}. Blue is positive, orange negative, white zero."
    );
    Some(section("Filters of the first layer", &(note(&text) + &picture)))
}

fn cut(tiles: usize) -> String {
    if tiles > MOST_TILES { format!(", the first {MOST_TILES} of {tiles} tiles") } else { String::new() }
}

/// Layers whose outputs are shown, with the names of the layers combined in each: each convolution and linear layer
/// with its activation, and each pooling.
fn shown(model: &Model) -> Vec<(usize, String)> {
    let mut shown = Vec::new();
    for (index, layer) in model.layers.iter().enumerate() {
        let mut last = index;
        match layer.op {
            Op::Conv2d(_) => {
                let behind = (index + 1..model.layers.len()).take_while(|&next| model.is_chained(next));
                let activation = behind
                    .map(|next| model.layers[next].op)
                    .take_while(|op| {
                        matches!(op, Op::Activation(_) | Op::BatchNorm2d { .. } | Op::GroupNorm { .. })
                    })
                    .position(|op| matches!(op, Op::Activation(_)));
                last += activation.map_or(0, |position| position + 1);
            }
            Op::MaxPool2d(_) | Op::AvgPool2d(_) | Op::Add | Op::Concat | Op::Multiply => {}
            _ => continue,
        }
        let names: Vec<_> = model.layers[index..=last].iter().map(|layer| layer.name.as_str()).collect();
        shown.push((last, names.join(" → ")));
    }
    shown
}

/// What the main layers make of the first image.
pub(super) fn feature_maps(checkpoint: &Checkpoint, images: &Images, judged_on: &str) -> String {
    let Checkpoint { model, normalization, .. } = checkpoint;
    let title = "Feature maps of one image";
    if flops(model) > MOST_FLOPS {
        return section(
            title,
            &note("Omitted: the network is too large for the reference implementation, which computes them."),
        );
    }
    let len = model.input.len();
    let [channels, height, width]: [usize; 3] = model.input.into();
    let maps = images.pixels[..len].chunks(height * width).zip(&normalization.mean).zip(&normalization.std);
    let values = maps.flat_map(|((pixels, &mean), &std)| {
        pixels.iter().map(move |&pixel| (f64::from(pixel) / 255.0 - f64::from(mean)) / f64::from(std))
    });
    let input = Array::exact(&[1, channels, height, width], values.collect());
    let outputs = Reference::new(model, &checkpoint.weights).outputs(input);
    let name = escape(&checkpoint.classes[usize::from(images.labels[0])]);
    let mut body = note(&format!(
        "The first {judged_on} image, with label {name}. Blue is positive, orange negative, white zero; each layer has its own scale."
    ));
    let alt = format!("the image, label {}", checkpoint.classes[usize::from(images.labels[0])]);
    let mut figure = |picture: String, caption: String| {
        body += &format!("<figure>{picture}<figcaption>{caption}</figcaption></figure>\n");
    };
    figure(of_image(images, 0, &alt, 112), "input".into());
    for (index, names) in shown(model) {
        let [c, h, w]: [usize; 3] = model.layers[index].output.into();
        let values = &outputs[index].data;
        // Avoids -0.00.
        let low = values.iter().copied().fold(f64::INFINITY, f64::min) + 0.0;
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let caption = format!("<b>{}</b> {c}×{h}×{w}, {low:.2} to {high:.2}{}", escape(&names), cut(c));
        figure(of_tiles(values, [c, h, w], &format!("output of {names}")), caption);
    }
    section(title, &format!("<div class=maps>\n{body}</div>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_a_layer_reads_and_whose_weights_it_has() {
        let text = "name = \"x\"\ninput = [2, 1, 1]\nlayers = [{ type = \"conv2d\", out_channels = 2, kernel = 1, name = \"step\" }, \
                    { type = \"conv2d\", out_channels = 2, kernel = 1, weights_of = \"step\" }, \
                    { type = \"add\", from = [\"step\", \"conv2\"] }]";
        let table = layers(&Model::parse(text, "x.toml").unwrap());
        assert!(
            table.contains(">weights of step, bias true,") && table.contains(">from step and conv2<"),
            "{table}"
        );
    }
}
