use super::*;
use crate::config::Augment;
use crate::model::Model;

fn images(channels: usize, [height, width]: [usize; 2], pixels: Vec<u8>) -> Images {
    let count = pixels.len() / (channels * height * width);
    Images::new([channels, height, width], pixels, (0..count).map(|image| image as u8).collect()).unwrap()
}

/// Batches of all of these images, normalised to pixel − 128.
fn batches(images: &Images, nets: &[Replica]) -> BatchSettings {
    BatchSettings {
        batch_size: images.count,
        image_count: images.count,
        image: Shape::new(images.channels, images.height, images.width),
        epochs: 1,
        shuffle: false,
        changes: Changes::of(nets),
        normalization: Normalization::uniform(images.channels, 128.0 / 255.0, 1.0 / 255.0),
        class_weights: Vec::new(),
    }
}

fn net(augment: Augment) -> (Replica, NetSettings) {
    let model = Model::parse(include_str!("../../data/models/seed.toml"), "seed.toml").unwrap();
    let net = Replica { augment, ..Replica::new(&model, 0) };
    let (settings, _) = net.settings(&model, 1);
    (net, settings)
}

/// What a network sees of the only image after a change, as pixels.
fn seen(images: &Images, change: Change, fill: Fill) -> Vec<f64> {
    let sample = Sample { change: Some(change), fill, ..Sample::plain(0) };
    let made = batches(images, &[net(Augment::default()).0]).reference(images, sample);
    assert!(made.bound.iter().all(|&bound| bound < 0.01), "{:?}", made.bound);
    made.data.iter().map(|value| ((value + 128.0) * 100.0).round() / 100.0).collect()
}

/// (pixel / 255 − mean) / std with a mean and a deviation for each channel.
#[test]
fn channels_are_normalised_by_their_own_mean_and_deviation() {
    let images = images(2, [1, 2], vec![255, 0, 51, 255]);
    let batches = BatchSettings {
        normalization: Normalization { mean: vec![0.5, 0.25], std: vec![0.5, 2.0] },
        ..batches(&images, &[net(Augment::default()).0])
    };
    let round = |made: Array| made.data.iter().map(|value| (value * 1e4).round() / 1e4).collect::<Vec<_>>();
    assert_eq!(round(batches.reference(&images, Sample::plain(0))), [1.0, -1.0, -0.025, 0.375]);
}

/// From one column to the right of the image.
#[test]
fn what_is_moved_in() {
    let images = images(1, [1, 3], vec![10, 20, 40]);
    let moved = Change { transform: [1.0, 0.0, 2.0, 0.0, 1.0, 0.0], ..Change::none() };
    for (fill, wanted) in [
        (Fill::Value(0.0), [40.0, 0.0, 0.0]),
        (Fill::Value(200.0), [40.0, 200.0, 200.0]),
        (Fill::Mean, [40.0, 128.0, 128.0]),
        (Fill::Edge, [40.0, 40.0, 40.0]),
        (Fill::Reflect, [40.0, 20.0, 10.0]),
    ] {
        assert_eq!(seen(&images, moved, fill), wanted, "{fill}");
    }
    // Half a column: between neighbours.
    let half = Change { transform: [1.0, 0.0, 0.5, 0.0, 1.0, 0.0], ..Change::none() };
    assert_eq!(seen(&images, half, Fill::Value(100.0)), [15.0, 30.0, 70.0]);
}

#[test]
fn colours_by_hand() {
    let picture = images(3, [1, 2], vec![100, 200, 50, 0, 10, 80]);
    let with = |colour| seen(&picture, Change { colour, ..Change::none() }, Fill::Value(0.0));
    assert_eq!(with([1.5, 1.0, 1.0, 0.0]), [150.0, 255.0, 75.0, 0.0, 15.0, 120.0]);
    // Mean grey: 0.2989 · 150 + 0.587 · 25 + 0.114 · 45 = 64.64.
    assert_eq!(with([1.0, 0.5, 1.0, 0.0]), [82.32, 132.32, 57.32, 32.32, 37.32, 72.32]);
    // Greys: 60.38 and 68.9.
    assert_eq!(with([1.0, 1.0, 0.0, 0.0]), [60.38, 68.9, 60.38, 68.9, 60.38, 68.9]);
    // Half a turn of (100, 50, 10) and (200, 0, 80): what was the most is the least, and (10, 60, 100), (0, 200, 120) remain.
    assert_eq!(with([1.0, 1.0, 1.0, 0.5]), [10.0, 0.0, 60.0, 200.0, 100.0, 120.0]);
    let grey = images(1, [1, 2], vec![100, 200]);
    let with = |colour| seen(&grey, Change { colour, ..Change::none() }, Fill::Value(0.0));
    assert_eq!(with([1.0, 0.5, 1.0, 0.0]), [125.0, 175.0]);
}

#[test]
fn an_erased_rectangle_has_the_mean() {
    let images = images(1, [2, 3], vec![1, 2, 3, 4, 5, 6]);
    let erased = Region { left: 1, top: 0, right: 3, bottom: 1 };
    assert_eq!(
        seen(&images, Change { erased, ..Change::none() }, Fill::Value(0.0)),
        [1.0, 128.0, 128.0, 4.0, 5.0, 6.0]
    );
}

/// Flips and whole shifts of a picture whose pixels tell where they come from.
#[test]
fn images_are_mirrored_and_shifted_by_whole_pixels() {
    let picture = images(1, [3, 5], (10..25).collect());
    let rows = [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21, 22, 23, 24]];
    let at = |x: i64, y: i64| {
        let inside = (0..5).contains(&x) && (0..3).contains(&y);
        if inside { f64::from(rows[y as usize][x as usize]) } else { 0.0 }
    };
    let (replica, settings) = net(Augment::default().flip_horizontal(0.3).flip_vertical(0.6).pad_crop(2.0));
    let batches = BatchSettings { image_count: 4000, ..batches(&picture, &[replica]) };
    let [mut across, mut down] = [0, 0];
    let mut shifts = std::collections::BTreeMap::<(i64, i64), usize>::new();
    for n in 0..4000 {
        let sample = Sample { index: 0, ..batches.sample(&settings, 0, n) };
        let [a, _, c, _, e, f] = sample.change.unwrap().transform;
        across += usize::from(a < 0.0);
        down += usize::from(e < 0.0);
        let shift = [c - if a < 0.0 { 4.0 } else { 0.0 }, f - if e < 0.0 { 2.0 } else { 0.0 }]
            .map(|shift| shift as i64);
        *shifts.entry((shift[0], shift[1])).or_default() += 1;
        if n < 100 {
            let made = batches.reference(&picture, sample);
            for (place, value) in made.data.iter().enumerate() {
                let (x, y) = (place as i64 % 5, place as i64 / 5);
                let source =
                    [if a < 0.0 { 4 - x } else { x } + shift[0], if e < 0.0 { 2 - y } else { y } + shift[1]];
                assert!((value + 128.0 - at(source[0], source[1])).abs() < 1e-4, "{sample:?}: {x}, {y}");
            }
        }
    }
    // Four standard deviations of a binomial distribution.
    assert!(across.abs_diff(1200) < 116, "{across}");
    assert!(down.abs_diff(2400) < 124, "{down}");
    assert_eq!(shifts.len(), 25);
    assert!(shifts.values().all(|&count| count.abs_diff(160) < 50), "{shifts:?}");
}

/// A crop is a rectangle inside the image, of areas and aspect ratios within the range, resized to the whole.
#[test]
fn crops_are_inside_and_cover_their_range() {
    let picture = images(1, [20, 30], vec![0; 600]);
    let (replica, settings) = net(Augment::default().crop(0.5).crop_aspect(1.0));
    let batches = BatchSettings { image_count: 4000, ..batches(&picture, &[replica]) };
    let (mut areas, mut aspects) = (Vec::new(), Vec::new());
    for n in 0..4000 {
        let [a, b, c, d, e, f] = batches.sample(&settings, 0, n).change.unwrap().transform;
        assert_eq!([b, d], [0.0, 0.0]);
        // Edges of the image: half a pixel before the first and behind the last.
        let edges = |scale: f32, start: f32, size: f32| [scale * -0.5 + start, scale * (size - 0.5) + start];
        for (edges, size) in [(edges(a, c, 30.0), 30.0), (edges(e, f, 20.0), 20.0)] {
            assert!(edges[0] >= -0.5001 && edges[1] <= size - 0.4999, "{edges:?}");
        }
        areas.push(a * e);
        aspects.push(a / e);
    }
    let range =
        |values: &[f32]| values.iter().fold([f32::MAX, 0.0], |[least, most], &v| [v.min(least), v.max(most)]);
    let [least, most] = range(&areas);
    // Where a side would be longer than the image's, it is cut, and the area with it.
    assert!(least > 0.35 && least < 0.52 && most > 0.97 && most <= 1.0, "{least} {most}");
    let [narrowest, widest] = range(&aspects);
    assert!(narrowest > 0.499 && narrowest < 0.55 && widest > 1.8 && widest < 2.001, "{narrowest} {widest}");
}

/// Displacements reach the strength, not more, and neighbours move nearly alike.
#[test]
fn elastic_displacements_are_bounded_and_smooth() {
    let elastic = |image| Elastic { pixels: 3.0, points: 1.0 / 8.0, key: 77, of: [2, image] };
    let mut most = 0.0f64;
    for image in 0..20 {
        let at = |x, y| elastic(image).reference(x, y).map(|moved| moved.value);
        for (x, y) in (0..40).flat_map(|x| (0..40).map(move |y| (x, y))) {
            let [here, right, below] = [at(x, y), at(x + 1, y), at(x, y + 1)];
            most = here.iter().fold(most, |most, moved| most.max(moved.abs()));
            // Slopes are at most 1.5 · 2 · 3 pixels in 8.
            let step = (0..2).flat_map(|axis| [right[axis] - here[axis], below[axis] - here[axis]]);
            assert!(step.into_iter().all(|step| step.abs() <= 9.0 / 8.0));
        }
    }
    assert!(most > 2.7 && most <= 3.0, "{most}");
}

#[test]
fn erased_rectangles_are_as_frequent_and_large_as_asked() {
    let picture = images(1, [20, 30], vec![0; 600]);
    let (replica, settings) = net(Augment::default().erase(0.25).erase_area(0.36));
    let batches = BatchSettings { image_count: 4000, ..batches(&picture, &[replica]) };
    let erased = (0..4000).map(|n| batches.sample(&settings, 0, n).change.unwrap().erased);
    let erased: Vec<Region> = erased.filter(|erased| erased.area() > 0).collect();
    assert!(erased.len().abs_diff(1000) < 110, "{}", erased.len());
    let sides = erased.iter().map(|r| [r.right - r.left, r.bottom - r.top]);
    // A quarter of 0.6 of the sides to all of it, rounded.
    let of = |axis: usize| sides.clone().map(move |side| side[axis]);
    assert_eq!([of(0).min(), of(0).max(), of(1).min(), of(1).max()].map(Option::unwrap), [5, 18, 3, 12]);
    assert!(erased.iter().all(|r| r.right <= 30 && r.bottom <= 20));
    assert!(erased.iter().any(|r| r.left == 0) && erased.iter().any(|r| r.right == 30));
}

/// Partners are any image, shares are at most half, and half of the images get each kind.
#[test]
fn mixtures() {
    let picture = images(1, [8, 8], (0..100u32).flat_map(|image| vec![image as u8; 64]).collect());
    let (replica, settings) = net(Augment::default().mixup(0.5).cutmix(1.0));
    let batches = batches(&picture, &[replica]);
    let ([mut blended, mut cut], mut partners) = ([0usize; 2], [false; 100]);
    for epoch in 0..20 {
        for n in 0..100 {
            let sample = batches.sample(&settings, epoch, n);
            let mixture = sample.mixture.unwrap();
            partners[mixture.index as usize] = true;
            assert!(mixture.weight <= 1 << 15);
            let target = sample.target(&picture.labels);
            let other = if mixture.weight > 0 { mixture.index as u8 } else { 0 };
            assert_eq!((target.class, target.other, target.weight), (n as u8, other, mixture.weight));
            assert_eq!(Target::from_word(target.word()), target);
            let made = batches.reference(&picture, sample);
            let mean = made.data.iter().sum::<f64>() / 64.0 + 128.0;
            // Plain pictures: the mean tells the shares.
            let share = f64::from(mixture.weight) / 65536.0;
            let want = n as f64 * (1.0 - share) + f64::from(mixture.index) * share;
            assert!((mean - want).abs() < 0.5, "{mixture:?}: {mean}, not {want}");
            match mixture.region {
                None => blended += 1,
                Some(region) => {
                    cut += 1;
                    assert!(region.right <= 8 && region.bottom <= 8);
                    assert_eq!(mixture.weight, region.area() * 256 / 64 * 256);
                }
            }
        }
    }
    assert!(partners.iter().filter(|&&seen| seen).count() > 95);
    assert!(cut + blended == 2000 && cut.abs_diff(1000) < 90, "{cut} {blended}");
}

#[test]
fn the_last_epochs_see_plain_images() {
    let changed = |plain_epochs, epochs| {
        let model = Model::parse(include_str!("../../data/models/seed.toml"), "seed.toml").unwrap();
        let augment = Augment { plain_epochs, ..model.train.augment.mixup(0.2).elastic(1.0).hue(0.1) };
        let net = Replica { augment, ..Replica::new(&model, 0) };
        let (settings, _) = net.settings(&model, epochs);
        // Three steps an epoch; the first and the last of each.
        let batches = BatchSettings {
            batch_size: 4,
            image_count: 10,
            image: model.input,
            epochs,
            shuffle: true,
            changes: Changes::of(&[net]),
            normalization: Normalization::uniform(1, 0.5, 0.5),
            class_weights: Vec::new(),
        };
        let of = |step| {
            let sample = batches.sample(&settings, step, 1);
            assert_eq!(sample.change.is_some(), sample.mixture.is_some());
            sample.change.is_some()
        };
        (0..epochs as u32).map(|epoch| [of(3 * epoch), of(3 * epoch + 2)]).collect::<Vec<_>>()
    };
    let (yes, no) = ([true; 2], [false; 2]);
    assert_eq!(changed(0, 4), [yes; 4]);
    assert_eq!(changed(1, 4), [yes, yes, yes, no]);
    assert_eq!(changed(3, 4), [yes, no, no, no]);
    assert_eq!(changed(9, 4), [no; 4]);
}
