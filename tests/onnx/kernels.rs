//! Kernels alone on given arrays: a layer, the loss or an optimizer on a GPU, without a network around it.

use shadernet::config::Optimizer;
use shadernet::gpu::{Gpu, GpuOptions, PlanRunner};
use shadernet::layers::{Context, Grain, Launch, Layer, Op, Pass, PlanContext};
use shadernet::losses::cross_entropy;
use shadernet::normalization::Normalization;
use shadernet::optimizers::Step;
use shadernet::plan::{METRICS_RING, Plan};
use shadernet::rng::{self, Stream};
use shadernet::state::{self, LayerSettings, NetSettings, StepWords};
use shadernet::tensor::{Array, Arrays, Shape};

/// A NaN, to expose values that were never written.
const POISON: u32 = 0x7fc0_0bad;
/// Arrays with a value per image: vec4s of four images on the device.
const OF_IMAGES: &[&str] =
    &["input", "output", "grad_output", "grad_input", "logits", "targets", "loss", "grad_logits"];
/// Of these, the ones that must hold 0 past the last image of a batch.
const ZERO_BEHIND: &[&str] = &["grad_output", "grad_input", "loss", "grad_logits"];

/// A GPU and how its shaders are compiled.
pub(crate) struct Kernels {
    pub(crate) gpu: Gpu,
    pub(crate) options: GpuOptions,
    /// Launches so far.
    pub(crate) launches: usize,
}

/// [image, ...] as [quad, ..., 4 images]; `behind` fills the lanes past the last image.
fn pack<T: Copy>(values: &[T], images: usize, behind: T) -> Vec<T> {
    let size = values.len() / images;
    let quads = images.div_ceil(4);
    let value = |at: usize| {
        let (image, element) = (at / (4 * size) * 4 + at % 4, at / 4 % size);
        if image < images { values[image * size + element] } else { behind }
    };
    (0..4 * quads * size).map(value).collect()
}

/// [quad, ..., 4 images] as [image, ...]: those of the batch, and the lanes past it.
fn unpack(values: &[f32], images: usize) -> (Vec<f32>, Vec<f32>) {
    let size = values.len() / images.next_multiple_of(4);
    let image = |n: usize| (0..size).map(move |element| values[(n / 4 * size + element) * 4 + n % 4]);
    let behind = images..images.next_multiple_of(4);
    ((0..images).flat_map(image).collect(), behind.flat_map(image).collect())
}

/// The tensor `state` of a step with one net of one layer.
fn state(step: u32, images: usize, net: NetSettings, layer: LayerSettings) -> Vec<u32> {
    let step = StepWords { next_step: step + 1, this_step: step, step_images: images as u32 };
    state::words(step, &Normalization::uniform(0, 0.0, 1.0), &[], &[(net, vec![layer])])
}

fn floats(words: Vec<u32>) -> Vec<f32> {
    words.into_iter().map(f32::from_bits).collect()
}

impl Kernels {
    pub(crate) fn new(gpu: Gpu, options: GpuOptions) -> Self {
        Self { gpu, options, launches: 0 }
    }

    /// Runs launches on `given` and reads the arrays with the names of those in `wanted`. `words` are other tensors
    /// with their contents; `others` those without contents, with their lengths.
    fn run(
        &mut self,
        images: usize,
        launches: &[Launch],
        given: &Arrays,
        wanted: &Arrays,
        words: &[(&str, Vec<u32>)],
        others: &[(&str, usize)],
    ) -> Arrays {
        let of_images = |name: &str| OF_IMAGES.contains(&name);
        let len = |name: &str, array: &Array| {
            let len = array.data.len();
            if of_images(name) { len / images * images.next_multiple_of(4) } else { len }
        };
        let arrays = given.iter().chain(wanted).map(|(&name, array)| (name, len(name, array)));
        let words_len = words.iter().map(|(name, words)| (*name, words.len()));
        let tensors: Vec<_> = arrays.chain(words_len).chain(others.iter().copied()).collect();
        let plan = Plan::of_launches(images, "kernel", launches, &tensors);
        self.launches += plan.launches.len();
        let runner = PlanRunner::new(&self.gpu, plan, POISON, self.options).unwrap();
        let has = |name: &str| runner.plan().tensor(name).is_some();
        for (&name, array) in given.iter().filter(|(name, _)| has(name)) {
            let behind = if ZERO_BEHIND.contains(&name) { 0.0 } else { 3.0 };
            let values = array.to_f32();
            let values = if of_images(name) { pack(&values, images, behind) } else { values };
            runner.write(name, &values.into_iter().map(f32::to_bits).collect::<Vec<_>>()).unwrap();
        }
        for (name, words) in words.iter().filter(|(name, _)| has(name)) {
            runner.write(name, words).unwrap();
        }
        runner.run().unwrap();
        assert_eq!(runner.broken_guards().unwrap(), Vec::<String>::new());
        let read = |(&name, array): (&&'static str, &Array)| {
            let mut values = floats(runner.read(name).unwrap().unwrap());
            if of_images(name) {
                let behind;
                (values, behind) = unpack(&values, images);
                let zero = ZERO_BEHIND.contains(&name);
                let harmless = |value: &f32| value.is_finite() && (*value == 0.0 || !zero);
                assert!(behind.iter().all(harmless), "behind the batch, {name} is {behind:?}");
            }
            (name, Array::from_f32(&array.shape, &values))
        };
        wanted.iter().map(read).collect()
    }

    /// A layer's results for `given`, or `None` if it has no kernel. `wanted` is what it should make.
    pub(crate) fn layer(
        &mut self,
        layer: &dyn Layer,
        given: &Arrays,
        wanted: &Arrays,
        context: &Context,
    ) -> Option<Arrays> {
        let [images, channels, height, width] = given["input"].nchw();
        let input = Shape::new(channels, height, width);
        let output = layer.output_shape(&[input]).unwrap();
        let plan = PlanContext {
            frozen: false,
            inputs: vec![input],
            output,
            quads: images.div_ceil(4),
            layer: context.layer,
            grain: Grain::Coarse,
        };
        let mut launches = layer.launches(if context.training { Pass::Train } else { Pass::Eval }, &plan);
        if launches.is_empty() {
            return None;
        }
        if given.contains_key("grad_output") {
            launches.extend(layer.launches(Pass::Backward, &plan));
        }
        let mut settings = LayerSettings::default();
        if let Op::Dropout { rate } = layer.op(&[input]) {
            settings = LayerSettings {
                rate: 1.0,
                dropout_key: rng::key(context.seed, Stream::Dropout(context.layer)),
                dropout_threshold: rng::drop_threshold(rate),
                dropout_scale: 1.0 / (1.0 - rate),
            };
        }
        let words = [("state", state(context.step, images, NetSettings::default(), settings))];
        Some(self.run(images, &launches, given, wanted, &words, &layer.saved(&plan)))
    }

    /// `loss` and `grad_logits` of [N, C] logits, and the `sum` of the losses.
    pub(crate) fn cross_entropy(&mut self, logits: &Array, targets: &[u8], wanted: &Arrays) -> Arrays {
        let [images, classes] = logits.shape[..] else { panic!("{:?} is no matrix", logits.shape) };
        let launches = cross_entropy::launches(images.div_ceil(4), classes, images, true, false);
        let targets: Vec<u32> = targets.iter().map(|&target| target.into()).collect();
        let state = state(0, images, NetSettings::default(), LayerSettings::default());
        let words = [("targets", pack(&targets, images, 0)), ("state", state)];
        let given = Arrays::from([("logits", logits.clone())]);
        let mut wanted = wanted.clone();
        wanted.remove("sum");
        wanted.insert("metrics_ring", Array::zeros(&[2 * METRICS_RING]));
        let others = [("correct", images.next_multiple_of(4))];
        let mut made = self.run(images, &launches, &given, &wanted, &words, &others);
        let ring = made.remove("metrics_ring").unwrap();
        made.insert("sum", Array::exact(&[], vec![ring.data[0]]));
        made
    }

    /// New parameters and memory.
    pub(crate) fn optimizer(
        &mut self,
        rule: &Optimizer,
        given: &Arrays,
        wanted: &Arrays,
        step: Step,
    ) -> Arrays {
        let (len, steps) = (given["params"].data.len(), step.step as usize + 1);
        let launch = rule.launch(len, 1, steps, 0.0, false, false);
        let rates = vec![(step.learning_rate as f32).to_bits(); steps];
        let net = NetSettings { weight_decay: given["weight_decay"].data[0] as f32, ..Default::default() };
        let words = [
            ("learning_rates", rates),
            ("state", state(step.step, 1, net, LayerSettings::default())),
            // All of the first net, and all decay.
            ("owners", vec![1; len]),
        ];
        self.run(1, &[launch], given, wanted, &words, &[])
    }
}
