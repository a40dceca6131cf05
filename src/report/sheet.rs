//! A contact sheet: training images beside what a network sees of them.

use crate::batch::{BatchSettings, Changes};
use crate::dataset::Images;
use crate::dataset::bitmap::Raster;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::replica::Replica;
use crate::tensor::Shape;
use crate::train::TrainingData;

use super::picture::png;

/// Pixels between images.
const GAP: usize = 2;
/// Grey of what is between them.
const BETWEEN: u8 = 128;
/// Longest side of a sheet.
const MOST_SIDE: usize = 16_384;

/// A PNG with `rows` training images, of each class in turn: first the image, then what a net with this seed sees of it in its
/// first `columns` epochs.
///
/// # Errors
/// A model that does not augment its images or that the data do not fit, and a sheet that would be too large.
pub fn contact_sheet(
    model: &Model,
    data: &TrainingData,
    seed: u32,
    [rows, columns]: [usize; 2],
) -> Result<Vec<u8>> {
    data.check(model)?;
    let mut net = Replica::new(model, seed);
    if net.augment.is_none() {
        return Err(Error::Usage(format!(
            "{} does not augment its images; [train] augment = {{ rotate_degrees = 10, shift_pixels = 2 }} would",
            model.name
        )));
    }
    net.augment.plain_epochs = 0;
    let images = &*data.train;
    let chosen = of_each_class(images, rows);
    let (settings, _) = net.settings(model, columns);
    let batches = BatchSettings {
        batch_size: 1,
        image_count: images.count,
        image: model.input,
        epochs: columns,
        shuffle: false,
        changes: Changes::of(&[net]),
        normalization: data.normalization.clone(),
        class_weights: Vec::new(),
    };
    let mut sheet = Sheet::new(model.input, [chosen.len(), columns + 1])?;
    let size = model.input.len();
    for (row, &index) in chosen.iter().enumerate() {
        sheet.paste(row, 0, &images.pixels[index * size..][..size]);
        for epoch in 0..columns {
            let step = (epoch * images.count + index) as u32;
            let seen = batches.reference(images, batches.sample(&settings, step, 0));
            let map = model.input.area();
            let pixels = batches.normalization.affine().enumerate().flat_map(|(channel, (scale, offset))| {
                let values = &seen.data[channel * map..][..map];
                values.iter().map(move |value| ((value - f64::from(offset)) / f64::from(scale)).round() as u8)
            });
            sheet.paste(row, epoch + 1, &pixels.collect::<Vec<_>>());
        }
    }
    Ok(png(&sheet.raster))
}

/// The first images of each class, in turn.
fn of_each_class(images: &Images, count: usize) -> Vec<usize> {
    let mut seen = [0usize; 256];
    let mut places: Vec<(usize, u8, usize)> = Vec::with_capacity(images.count);
    for (index, &label) in images.labels.iter().enumerate() {
        places.push((seen[usize::from(label)], label, index));
        seen[usize::from(label)] += 1;
    }
    places.sort_unstable();
    places.into_iter().take(count).map(|(_, _, index)| index).collect()
}

/// Images of one shape in a grid.
struct Sheet {
    shape: Shape,
    raster: Raster<u8>,
}

impl Sheet {
    fn new(shape: Shape, [rows, columns]: [usize; 2]) -> Result<Self> {
        let (width, height) = (columns * (shape.width + GAP) + GAP, rows * (shape.height + GAP) + GAP);
        if width.max(height) > MOST_SIDE {
            return Err(Error::Usage(format!(
                "the sheet would have {width}x{height} pixels; at most {MOST_SIDE} fit each way, so ask for fewer images"
            )));
        }
        let channels = if shape.channels == 3 { 3 } else { 1 };
        let samples = vec![BETWEEN; width * height * channels];
        Ok(Self { shape, raster: Raster { width, height, channels, samples } })
    }

    /// An image [C, H, W]; of one without colours the first channel.
    fn paste(&mut self, row: usize, column: usize, pixels: &[u8]) {
        let Raster { width, channels, samples, .. } = &mut self.raster;
        let left = GAP + column * (self.shape.width + GAP);
        for y in 0..self.shape.height {
            let top = GAP + row * (self.shape.height + GAP) + y;
            for x in 0..self.shape.width {
                for channel in 0..*channels {
                    let from = channel * self.shape.area() + y * self.shape.width + x;
                    samples[(top * *width + left + x) * *channels + channel] = pixels[from];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> TrainingData {
        // Class 1 is darker.
        let labels: Vec<u8> = vec![0, 0, 1, 0, 1, 1];
        let pixels = labels.iter().flat_map(|label| [200 - 100 * label; 3 * 12]).collect();
        let train = Images::new([3, 3, 4], pixels, labels).unwrap();
        TrainingData::from_images(train.clone(), train, ["light", "dark"]).unwrap()
    }

    fn model(train: &str) -> Model {
        let text = format!(
            "name = \"x\"\ninput = [3, 3, 4]\nlayers = [{{ type = \"flatten\" }}, {{ type = \"linear\", out_features = 2 \
             }}]\n[train]\n{train}"
        );
        Model::parse(&text, "x.toml").unwrap()
    }

    #[test]
    fn a_sheet_has_each_image_and_its_changes() {
        let model = model("augment = { pad_crop = 1, fill = \"edge\", brightness = 0.5, plain_epochs = 3 }");
        let bytes = contact_sheet(&model, &data(), 3, [4, 5]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut samples = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut samples).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (6 * 6 + 2, 4 * 5 + 2, png::ColorType::Rgb));
        let at = |row: usize, column: usize| {
            let pixel = (GAP + row * 5 + 1) * 38 + GAP + column * 6 + 1;
            samples[3 * pixel]
        };
        // Light, dark, light, dark; and each brightness another one, in every epoch.
        assert_eq!([0, 1, 2, 3].map(|row| at(row, 0)), [200, 100, 200, 100]);
        for row in 0..4 {
            let seen: std::collections::BTreeSet<u8> = (1..6).map(|column| at(row, column)).collect();
            assert!(seen.len() >= 3, "{seen:?}");
            assert!(seen.iter().all(|&pixel| row % 2 == 0 || (49..=151).contains(&pixel)), "{seen:?}");
        }
    }

    #[test]
    fn what_cannot_be_shown() {
        let error =
            |train: &str, size| contact_sheet(&model(train), &data(), 0, size).unwrap_err().to_string();
        assert!(error("", [2, 2]).contains("does not augment its images"));
        assert!(error("augment = { hue = 0.1 }", [6, 9000]).contains("at most 16384 fit"));
    }
}
