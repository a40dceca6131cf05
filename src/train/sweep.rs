//! Sweeps: nets side by side, one for each combination of values of some settings, and each seed.

use crate::config::{Augment, LearningRate};
use crate::error::{Error, Result, shown};
use crate::model::Model;
use crate::replica::Replica;

/// Most nets side by side.
pub const MOST_NETS: usize = 256;

/// Some settings, and the values that each is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    axes: Vec<Axis>,
}

/// A setting and its values.
#[derive(Debug, Clone, PartialEq)]
struct Axis {
    setting: Setting,
    values: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    LearningRate,
    Warmup,
    WeightDecay,
    Dropout,
    LabelSmoothing,
    ClipNorm,
    Augment,
    /// With its number in [`Augment::STRENGTHS`].
    Strength(usize),
}

/// Keys of the settings that are no strength of `augment`, as a model file has them; `augment` is a factor on all strengths.
const SETTINGS: [(&str, Setting); 7] = [
    ("learning_rate", Setting::LearningRate),
    ("warmup", Setting::Warmup),
    ("weight_decay", Setting::WeightDecay),
    ("dropout", Setting::Dropout),
    ("label_smoothing", Setting::LabelSmoothing),
    ("clip_norm", Setting::ClipNorm),
    ("augment", Setting::Augment),
];

impl Setting {
    fn all() -> impl Iterator<Item = Self> {
        let strengths = (0..Augment::STRENGTHS.len()).map(Self::Strength);
        SETTINGS.iter().map(|(_, setting)| *setting).chain(strengths)
    }

    fn key(self) -> String {
        match self {
            Self::Strength(number) => format!("augment.{}", Augment::STRENGTHS[number]),
            other => SETTINGS
                .iter()
                .find(|(_, setting)| *setting == other)
                .expect("every setting has a key")
                .0
                .into(),
        }
    }

    /// Gives a net a value.
    fn set(self, net: &mut Replica, value: f32) -> Result<(), &'static str> {
        let augment = &mut net.augment;
        match self {
            Self::LearningRate => match &mut net.learning_rate {
                LearningRate::Constant { rate } | LearningRate::Step { rate, .. } => *rate = value,
                LearningRate::Cosine { peak, .. } | LearningRate::OneCycle { peak, .. } => *peak = value,
                LearningRate::Exponential { start, end } => (*start, *end) = (value, value * (*end / *start)),
            },
            Self::Warmup => match &mut net.learning_rate {
                LearningRate::OneCycle { warmup, .. } => *warmup = value,
                _ => net.warmup = value,
            },
            Self::WeightDecay => net.weight_decay = value,
            Self::Dropout if net.dropout.is_empty() => return Err("the model has no dropout layer"),
            Self::Dropout => net.dropout.fill(value),
            Self::LabelSmoothing => net.label_smoothing = value,
            Self::ClipNorm => net.clip_norm = value,
            Self::Augment if augment.is_none() => {
                return Err("the model does not augment its images, so there is nothing to multiply; sweep \
                            augment.scale or another strength instead");
            }
            Self::Augment => augment.strengths_mut().into_iter().for_each(|strength| *strength *= value),
            Self::Strength(number) => *augment.strengths_mut()[number] = value,
        }
        Ok(())
    }
}

impl Axis {
    /// Reads `KEY=V1,V2,...`.
    fn parse(text: &str) -> Result<Self, String> {
        let (key, values) = text
            .split_once('=')
            .ok_or_else(|| format!("expected KEY=V1,V2,... with one of {}", Sweep::keys()))?;
        let setting = Setting::all().find(|setting| setting.key() == key.trim());
        let setting = setting.ok_or_else(|| {
            format!("there is no setting {:?} to sweep; there are {}", key.trim(), Sweep::keys())
        })?;
        let mut axis = Self { setting, values: Vec::new() };
        for value in values.split(',').map(str::trim) {
            let number: f32 = value.parse().map_err(|_| format!("{value:?} is not a number"))?;
            // Not -0, which would be another name for the same net.
            let number = number + 0.0;
            if axis.values.contains(&number) {
                return Err(format!("{number} appears twice"));
            }
            axis.values.push(number);
        }
        Ok(axis)
    }
}

impl Sweep {
    /// Keys of all settings that can be swept; `augment` is a factor on those that follow it.
    pub fn keys() -> String {
        Setting::all().map(Setting::key).collect::<Vec<_>>().join(", ")
    }

    /// Reads axes such as `learning_rate=0.1,0.2`; with none there is one point, the model's own recipe.
    ///
    /// # Errors
    /// What is no such text, with the keys that there are; a key that is there twice, or `augment` beside one of its parts.
    ///
    /// # Examples
    /// ```
    /// # let text = "name = \"tiny\"\ninput = [1, 28, 28]\nlayers = [{ type = \"conv2d\", out_channels = 10, kernel = 5, stride = 4 }, { type = \"global_avg_pool2d\" }]";
    /// use shadernet::model::Model;
    /// use shadernet::train::Sweep;
    ///
    /// let model = Model::parse(text, "tiny.toml")?;
    /// let sweep = Sweep::parse(&["learning_rate=0.1,0.2", "label_smoothing=0,0.1"])?;
    /// assert_eq!(sweep.replicas(&model, &[0, 1])?.len(), 2 * 2 * 2);
    /// assert!(Sweep::parse(&["height=3"]).is_err());
    /// # Ok::<(), shadernet::error::Error>(())
    /// ```
    pub fn parse(texts: &[impl AsRef<str>]) -> Result<Self> {
        let mut axes: Vec<Axis> = Vec::new();
        for text in texts {
            let fail = |message: String| Error::Usage(format!("{}: {message}", shown(text.as_ref())));
            let axis = Axis::parse(text.as_ref()).map_err(fail)?;
            for other in axes.iter().map(|axis| axis.setting.key()) {
                let key = axis.setting.key();
                if other == key {
                    return Err(fail(format!("{key} is swept already; list all its values at once")));
                }
                let both = [&other, &key];
                if both.iter().any(|key| *key == "augment")
                    && both.iter().all(|key| key.starts_with("augment"))
                {
                    return Err(fail(
                        "augment multiplies all strengths; sweep it or its parts, not both".into(),
                    ));
                }
            }
            axes.push(axis);
        }
        Ok(Self { axes })
    }

    /// The nets: for each point of the product of all values, in order, one for each seed.
    ///
    /// # Errors
    /// Settings that the model does not have, values outside their range, and more than [`MOST_NETS`] nets.
    pub fn replicas(&self, model: &Model, seeds: &[u32]) -> Result<Vec<Replica>> {
        let points = self.axes.iter().fold(1usize, |points, axis| points.saturating_mul(axis.values.len()));
        if points.saturating_mul(seeds.len()) > MOST_NETS {
            return Err(Error::Usage(format!(
                "{points} points with {} seeds each; at most {MOST_NETS} nets can be trained side by side",
                seeds.len()
            )));
        }
        let mut points = vec![Replica::new(model, 0)];
        for Axis { setting, values } in &self.axes {
            let mut more = Vec::new();
            for point in &points {
                for &value in values {
                    let mut net = point.clone();
                    let fail =
                        |message: String| Error::Usage(format!("{}={value}: {message}", setting.key()));
                    setting.set(&mut net, value).map_err(|message| fail(message.into()))?;
                    net.model(model).map_err(|error| fail(error.to_string()))?;
                    net.point.0.insert(setting.key(), value);
                    more.push(net);
                }
            }
            points = more;
        }
        let of_point = |point: Replica| {
            seeds.iter().map(move |&seed| Replica { seed, ..point.clone() }).collect::<Vec<_>>()
        };
        Ok(points.into_iter().flat_map(of_point).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sweep(texts: &[&str]) -> Result<Sweep> {
        Sweep::parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    fn model() -> Model {
        Model::parse(include_str!("../../data/models/seed.toml"), "seed.toml").unwrap()
    }

    #[test]
    fn points_are_the_product_of_all_values_in_order() {
        let nets = sweep(&["learning_rate=0.1,0.2", "dropout=0,0.25,0.5"]).unwrap();
        let nets = nets.replicas(&model(), &[7, 8]).unwrap();
        let got: Vec<_> = nets.iter().map(|net| (net.point.to_string(), net.seed)).collect();
        let mut want = Vec::new();
        for rate in ["0.1", "0.2"] {
            for dropout in ["0", "0.25", "0.5"] {
                for seed in [7, 8] {
                    want.push((format!("dropout={dropout} learning_rate={rate}"), seed));
                }
            }
        }
        assert_eq!(got, want);
        assert_eq!(nets[11].dropout, [0.5, 0.5]);
        let own = Replica::new(&model(), 8);
        let LearningRate::OneCycle { peak, warmup, start, end } = nets[11].learning_rate else { panic!() };
        assert_eq!(peak, 0.2);
        let LearningRate::OneCycle { peak, .. } = own.learning_rate else { panic!() };
        assert_eq!(own.learning_rate, LearningRate::OneCycle { peak, warmup, start, end });
        assert_eq!((nets[11].augment, nets[11].weight_decay), (own.augment, own.weight_decay));
    }

    /// Every number of a net's settings, by its place.
    fn places(net: &Replica) -> BTreeMap<String, f64> {
        fn walk(place: String, value: &serde_json::Value, found: &mut BTreeMap<String, f64>) {
            match value {
                serde_json::Value::Object(parts) => {
                    parts.iter().for_each(|(name, part)| walk(format!("{place}/{name}"), part, found));
                }
                serde_json::Value::Array(parts) => {
                    parts
                        .iter()
                        .enumerate()
                        .for_each(|(at, part)| walk(format!("{place}/{at}"), part, found));
                }
                other => found.extend(other.as_f64().map(|number| (place, number))),
            }
        }
        let mut found = BTreeMap::new();
        walk(String::new(), &serde_json::to_value(net).unwrap(), &mut found);
        found
    }

    #[test]
    fn every_setting_changes_itself_alone() {
        // The recipe of the seed network has no shear.
        let all =
            [("/augment/rotate_degrees", 5.0), ("/augment/scale", 0.05), ("/augment/shift_pixels", 1.0)];
        for (key, want) in [
            ("learning_rate", &[("/learning_rate/peak", 0.5)][..]),
            ("warmup", &[("/learning_rate/warmup", 0.5)]),
            ("weight_decay", &[("/weight_decay", 0.5)]),
            ("dropout", &[("/dropout/0", 0.5), ("/dropout/1", 0.5)]),
            ("label_smoothing", &[("/label_smoothing", 0.5)]),
            ("clip_norm", &[("/clip_norm", 0.5)]),
            ("augment", &all),
            ("augment.rotate_degrees", &[("/augment/rotate_degrees", 0.5)]),
            ("augment.shift_pixels", &[("/augment/shift_pixels", 0.5)]),
            ("augment.scale", &[("/augment/scale", 0.5)]),
            ("augment.pad_crop", &[("/augment/pad_crop", 3.0)]),
            ("augment.mixup", &[("/augment/mixup", 0.5)]),
            ("augment.shear", &[("/augment/shear", 0.5)]),
        ] {
            let own = places(&Replica::new(&model(), 0));
            let value = if key == "augment.pad_crop" { 3.0 } else { 0.5 };
            let nets = sweep(&[&format!("{key}={value}")]).unwrap().replicas(&model(), &[0]).unwrap();
            let mut swept = places(&nets[0]);
            assert_eq!(swept.remove(&format!("/point/{key}")), Some(value), "{nets:?}");
            assert!(own.keys().all(|place| swept.contains_key(place)));
            // A strength of 0 is not written.
            let before = |place: &String| own.get(place).copied().unwrap_or(0.0);
            let changed: Vec<_> = swept.iter().filter(|(place, value)| before(place) != **value).collect();
            let near = |((place, value), (other, want)): (&(&String, &f64), &(&str, f64))| {
                place == other && (*value - want).abs() < 1e-6
            };
            assert!(changed.len() == want.len() && changed.iter().zip(want).all(near), "{key}: {changed:?}");
        }
        assert_eq!(SETTINGS.len(), 7, "a new setting belongs in the table above");
    }

    #[test]
    fn every_strength_of_augmentation_has_a_key() {
        for (number, strength) in Augment::STRENGTHS.iter().enumerate() {
            let text = format!("augment.{strength}=1");
            let axis = Axis::parse(&text).unwrap();
            let mut net = Replica::new(&model(), 0);
            axis.setting.set(&mut net, 7.0).unwrap();
            assert_eq!(net.augment.strengths()[number], 7.0, "{text}");
            assert!(Sweep::keys().contains(&format!("augment.{strength}")), "{text}");
        }
    }

    #[test]
    fn without_axes_there_is_the_models_own_recipe() {
        let nets = sweep(&[]).unwrap().replicas(&model(), &[3, 4]).unwrap();
        assert_eq!(nets, Replica::of_seeds(&model(), [3, 4]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let plain = "name = \"plain\"\ninput = [1, 2, 2]\nlayers = [{ type = \"global_avg_pool2d\" }, \
                     { type = \"linear\", out_features = 2 }]";
        let plain = Model::parse(plain, "plain").unwrap();
        let many =
            format!("learning_rate={}", (1..=257).map(|i| i.to_string()).collect::<Vec<_>>().join(","));
        for (texts, model, parts) in [
            (&["momentum=0.9"][..], &model(), &["momentum=0.9", "\"momentum\"", "weight_decay, dropout"][..]),
            (&["learning_rate"], &model(), &["KEY=V1,V2", "augment.shear"]),
            (&["learning_rate=0.1,,0.2"], &model(), &["\"\" is not a number"]),
            (&["learning_rate=0.1,0.10"], &model(), &["0.1 appears twice"]),
            (&["dropout=0,-0"], &model(), &["0 appears twice"]),
            (&["dropout=0", "dropout=0.1"], &model(), &["swept already"]),
            (&["augment=0,1", "augment.scale=0.1"], &model(), &["not both"]),
            (&["label_smoothing=2"], &model(), &["label_smoothing=2", "from 0 to 0.9"]),
            (&["learning_rate=nan"], &model(), &["learning_rate=NaN", "must be from"]),
            (&["augment=100"], &model(), &["augment=100", "augment.", "must be from"]),
            (&["dropout=1"], &model(), &["dropout=1", "below 1"]),
            (&["dropout=0.1"], &plain, &["no dropout layer"]),
            (&["augment=0.5"], &plain, &["nothing to multiply"]),
            (&[&many], &model(), &["257 points", "at most 256"]),
        ] {
            let message = sweep(texts).and_then(|sweep| sweep.replicas(model, &[0])).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{texts:?}: {message}");
        }
    }
}
