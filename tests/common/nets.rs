//! Random small networks. The generator draws descriptions in which any part can be left out or made smaller, so that
//! a failure shrinks to the smallest network that still has it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use shadernet::config::{Augment, ClassWeights, Fill, LearningRate, Optimizer, TrainConfig};
use shadernet::layers::LAYERS;
use shadernet::model::{Model, NamedLayer};
use shadernet::tensor::{Shape, Tensor};

use super::{Draw, parse_layer};
use coverage::EVERY_PART;

mod coverage;

/// A random network, its training, and the step and seed to test.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    body: Vec<Body>,
    head: Head,
    /// How often the body is repeated. If more than once, layers whose parameters have the same shapes share them.
    laps: usize,
    input: [usize; 3],
    classes: usize,
    pub(crate) train: TrainConfig,
    pub(crate) replicas: usize,
    pub(crate) seed: u32,
    pub(crate) step: u32,
    pub(crate) shuffle: bool,
    /// Freezes a layer, or those before one.
    freeze: Option<(usize, bool)>,
    /// Gives a layer a learning rate of its own.
    rate: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// Window options that only convolutions have.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    sides: [usize; 2],
    dilation: [usize; 2],
    /// Zeros on each side, or "same".
    padding: Option<[usize; 4]>,
}

#[derive(Debug, Clone, Copy)]
enum Groups {
    One,
    Two,
    All,
}

/// A layer of the body; left out where it does not fit.
#[derive(Debug, Clone, Copy)]
enum Body {
    /// A layer whose keys do not depend on its input.
    Plain(&'static str),
    Pool(&'static str, Window),
    /// A side branch from the previous value, joined with it.
    Branch(&'static str),
    Conv {
        kernel: Kernel,
        stride: usize,
        out_channels: usize,
        groups: Groups,
        bias: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Head {
    PoolLinear,
    FlattenLinear,
    ConvPool,
    TwoLinear,
}

/// Largest input of a linear layer and largest weight of a convolution in the body: `gradients.rs` shifts every element.
const LARGEST: usize = 400;

impl Body {
    /// Its line in a model file; with `keep` it outputs as many channels as it reads.
    fn line(self, channels: usize, keep: bool) -> String {
        match self {
            Self::Plain(line) => line.to_owned(),
            Self::Branch(_) => unreachable!("several lines"),
            Self::Pool(kind, Window { kernel, stride, padding }) => {
                let padding = padding % (kernel / 2 + 1);
                format!("{{ type = {kind:?}, kernel = {kernel}, stride = {stride}, padding = {padding} }}")
            }
            Self::Conv {
                kernel: Kernel { sides, dilation, padding },
                stride,
                out_channels,
                groups,
                bias,
            } => {
                let reach = [0, 1].map(|axis| (sides[axis] - 1) * dilation[axis] + 1);
                let padding = padding.map_or("\"same\"".to_owned(), |padding| {
                    let [top, bottom, left, right] = padding;
                    format!("{:?}", [top % reach[0], bottom % reach[0], left % reach[1], right % reach[1]])
                });
                let groups = match groups {
                    Groups::Two if channels.is_multiple_of(2) => 2,
                    Groups::All => channels,
                    _ => 1,
                };
                let out_channels = if keep { channels } else { out_channels.next_multiple_of(groups) };
                let keys = format!(
                    "kernel = {sides:?}, stride = {stride}, padding = {padding}, dilation = {dilation:?}"
                );
                format!(
                    "{{ type = \"conv2d\", out_channels = {out_channels}, {keys}, groups = {groups}, bias = {bias} }}"
                )
            }
        }
    }
}

impl Case {
    /// The network as described by its model file.
    pub(crate) fn model(&self) -> Model {
        let mut shape = Shape::from(self.input);
        let mut lines = Vec::new();
        let mut last = "input".to_owned();
        for layer in std::iter::repeat_n(&self.body, self.laps).flatten() {
            if let Body::Branch(join) = layer {
                let name = format!("join{}", lines.len());
                lines.extend(branch(join, &last, shape, &name));
                shape.channels *= if *join == "concat" { 2 } else { 1 };
                last = name;
                continue;
            }
            let line = layer.line(shape.channels, self.laps > 1);
            if let Some(output) = output_shape(&line, shape) {
                shape = output;
                last = format!("layer{}", lines.len());
                lines.push(line.replacen("{ ", &format!("{{ name = {last:?}, "), 1));
            }
        }
        let linear = format!("{{ type = \"linear\", out_features = {} }}", self.classes);
        let conv = format!("{{ type = \"conv2d\", out_channels = {}, kernel = 1 }}", self.classes);
        let [flatten, pool] =
            [r#"{ type = "flatten" }"#, r#"{ type = "global_avg_pool2d" }"#].map(String::from);
        let hidden = r#"{ type = "linear", out_features = 9, bias = false }"#.to_owned();
        let small = shape.len() <= LARGEST;
        lines.extend(match self.head {
            Head::FlattenLinear if small => vec![flatten, linear],
            Head::TwoLinear if small => vec![flatten, hidden, r#"{ type = "relu" }"#.to_owned(), linear],
            Head::ConvPool => vec![conv, pool],
            _ => vec![pool, linear],
        });
        let mut model = self.parse(&lines);
        if self.laps > 1 {
            share(&model, &mut lines);
            model = self.parse(&lines);
        }
        self.of_layers(model)
    }

    /// The model with its recipe, in which layers but the last may be frozen and have rates.
    fn of_layers(&self, model: Model) -> Model {
        let owns = |layer: &NamedLayer| layer.parameter_count() > 0;
        let last =
            model.layers.iter().rposition(|layer| layer.params.iter().any(|param| param.trained)).unwrap();
        let last = model.layers[last].weights_of.unwrap_or(last);
        let own: Vec<usize> = (0..last).filter(|&at| owns(&model.layers[at])).collect();
        let mut config = model.config();
        config.train = self.train.clone();
        let mut frozen = Vec::new();
        if let (Some((number, before)), false) = (self.freeze, own.is_empty()) {
            let at = own[number % own.len()];
            let name = |at: usize| model.layers[at].name.clone();
            let following = model.layers[at + 1..].iter().position(owns).map_or(last, |more| at + 1 + more);
            config.train.freeze = vec![if before { format!("before {}", name(following)) } else { name(at) }];
            frozen = if before { (0..following).collect() } else { vec![at] };
        }
        let free: Vec<usize> = own.into_iter().chain([last]).filter(|at| !frozen.contains(at)).collect();
        if let Some(number) = self.rate {
            config.layers[free[number % free.len()]].keys.insert("rate".into(), 0.3.into());
        }
        Model::new(config).unwrap()
    }

    fn parse(&self, lines: &[String]) -> Model {
        let text = format!("name = \"net\"\ninput = {:?}\nlayers = [\n{},\n]", self.input, lines.join(",\n"));
        Model::parse(&text, "net").unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// A failure's message: a model file, with the rest in comments.
    fn report(&self, reason: &str) -> String {
        let Self { replicas, seed, step, shuffle, .. } = self;
        let text = format!("{reason}\nseed {seed}, step {step}, replicas {replicas}, shuffle {shuffle}");
        format!("# {}\n{}", text.replace('\n', "\n# "), self.model().to_toml())
    }
}

/// A branch that reads `from`, and the layer called `name` that joins both: a sum of three, concatenated channels, a gate.
fn branch(join: &str, from: &str, shape: Shape, name: &str) -> Vec<String> {
    let side = format!("{name}_side");
    let same = format!("out_channels = {}, groups = {}", shape.channels, shape.channels);
    let layer =
        |keys: &str, from: &str, name: &str| format!("{{ name = {name:?}, from = {from:?}, {keys} }}");
    let both = |names: &str| format!("{{ name = {name:?}, type = {join:?}, from = [{names}] }}");
    match join {
        "multiply" => {
            vec![layer("type = \"global_avg_pool2d\"", from, &side), both(&format!("{side:?}, {from:?}"))]
        }
        "concat" => {
            vec![layer("type = \"relu\"", from, &side), both(&format!("{side:?}, {from:?}"))]
        }
        _ => {
            let other = format!("{name}_other");
            vec![
                layer(&format!("type = \"conv2d\", kernel = 3, padding = 1, {same}"), from, &side),
                layer("type = \"avg_pool2d\", kernel = 3, stride = 1, padding = 1", &side, &other),
                both(&format!("{from:?}, {side:?}, {other:?}")),
            ]
        }
    }
}

/// Makes each layer use the trained parameters of the first layer of its kind with the same parameter shapes.
fn share(model: &Model, lines: &mut [String]) {
    let shapes = |layer: &NamedLayer| -> Vec<Vec<usize>> {
        layer.params.iter().filter(|param| param.trained).map(|param| param.shape.clone()).collect()
    };
    for (layer, line) in model.layers.iter().zip(lines) {
        let fits = |owner: &&NamedLayer| owner.kind.name == layer.kind.name && shapes(owner) == shapes(layer);
        let owner = model.layers.iter().find(fits).expect("at least the layer itself");
        if owner.name != layer.name && !shapes(layer).is_empty() {
            *line = line.replacen("{ ", &format!("{{ weights_of = {:?}, ", owner.name), 1);
        }
    }
}

/// Shape after a layer, or `None` if it does not fit there.
fn output_shape(line: &str, input: Shape) -> Option<Shape> {
    // Statistics of fewer values test cancellation rather than the kernels.
    if line.contains("_norm") && input.height * input.width < 4 {
        return None;
    }
    let layer = parse_layer(line);
    let output = layer.output_shape(&[input]).ok()?;
    let largest = layer.params(&[input]).iter().map(|param| param.shape.iter().product()).max();
    (largest.unwrap_or(0) <= LARGEST).then_some(output)
}

fn window() -> impl Strategy<Value = Window> {
    let kernel = prop_oneof![1 => 1..=3usize, 1 => 4..=7usize];
    (kernel, stride(), 0..=6usize).prop_map(|(kernel, stride, padding)| Window { kernel, stride, padding })
}

fn kernel() -> impl Strategy<Value = Kernel> {
    let side = || prop_oneof![1 => 1..=3usize, 1 => 4..=7usize];
    let sides = prop_oneof![3 => side().prop_map(|side| [side; 2]), 1 => [side(), side()]];
    let dilation = prop_oneof![4 => Just([1, 1]), 1 => [1..=3usize, 1..=7usize], 1 => Just([1, 7])];
    let padding = prop_oneof![
        4 => (0..=6usize).prop_map(|side| Some([side; 4])),
        1 => [0..=4usize, 0..=4usize, 0..=4usize, 0..=4usize].prop_map(Some),
        1 => Just(None),
    ];
    (sides, dilation, padding).prop_map(|(sides, dilation, padding)| Kernel { sides, dilation, padding })
}

fn stride() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(1), 1 => 2..=4usize]
}

fn body() -> impl Strategy<Value = Body> {
    let plain = [
        r#"{ type = "relu" }"#,
        r#"{ type = "leaky_relu", negative_slope = 0.2 }"#,
        r#"{ type = "batch_norm2d" }"#,
        r#"{ type = "batch_norm2d", eps = 1e-3, momentum = 0.3 }"#,
        // With the usual eps, finite differences are too coarse for the gradient of an all-zero group.
        r#"{ type = "group_norm", groups = 1, eps = 0.01 }"#,
        r#"{ type = "group_norm", groups = 2, eps = 0.1 }"#,
        r#"{ type = "group_norm", groups = 3, eps = 0.05 }"#,
        r#"{ type = "adaptive_avg_pool2d", output = [1, 2] }"#,
        r#"{ type = "adaptive_avg_pool2d", output = [3, 1] }"#,
        r#"{ type = "avg_pool2d", kernel = [3, 2] }"#,
        r#"{ type = "max_pool2d", kernel = [1, 2], stride = 2 }"#,
        r#"{ type = "dropout", rate = 0.3 }"#,
    ];
    let joins = ["add", "concat", "multiply"];
    // Those that no convolution kernel can fuse.
    let activations = [
        r#"{ type = "relu6" }"#,
        r#"{ type = "sigmoid" }"#,
        r#"{ type = "tanh" }"#,
        r#"{ type = "silu" }"#,
        r#"{ type = "gelu" }"#,
        r#"{ type = "hard_sigmoid" }"#,
        r#"{ type = "hard_swish" }"#,
        r#"{ type = "prelu" }"#,
        r#"{ type = "prelu", num_parameters = 1, init = 0.1 }"#,
    ];
    let groups = prop_oneof![3 => Just(Groups::One), 1 => Just(Groups::Two), 1 => Just(Groups::All)];
    let conv = (kernel(), stride(), 1..=12usize, groups, any::<bool>()).prop_map(
        |(kernel, stride, out_channels, groups, bias)| Body::Conv {
            kernel,
            stride,
            out_channels,
            groups,
            bias,
        },
    );
    prop_oneof![
        8 => (0..plain.len()).prop_map(move |index| Body::Plain(plain[index])),
        4 => (0..activations.len()).prop_map(move |index| Body::Plain(activations[index])),
        2 => window().prop_map(|window| Body::Pool("max_pool2d", window)),
        2 => window().prop_map(|window| Body::Pool("avg_pool2d", window)),
        8 => conv,
        3 => (0..joins.len()).prop_map(move |index| Body::Branch(joins[index])),
    ]
}

fn optimizer() -> impl Strategy<Value = Optimizer> {
    let sgd = |momentum, nesterov, weight_decay| Just(Optimizer::Sgd { momentum, nesterov, weight_decay });
    let (beta1, beta2, eps, weight_decay) = (0.9, 0.999, 1e-8, 0.03);
    prop_oneof![
        sgd(0.0, false, 0.0),
        sgd(0.8, false, 0.02),
        sgd(0.9, true, 0.01),
        Just(Optimizer::Adam { beta1, beta2, eps, weight_decay }),
        Just(Optimizer::Adamw { beta1, beta2, eps, weight_decay }),
    ]
}

/// Every change of images that any image has room for.
pub(crate) fn everything() -> Augment {
    Augment::default()
        .rotate_degrees(20.0)
        .shift_pixels(2.0)
        .scale(0.2)
        .shear(0.1)
        .flip_horizontal(0.5)
        .flip_vertical(0.4)
        .pad_crop(1.0)
        .crop(0.4)
        .crop_aspect(0.3)
        .elastic(1.0)
        .elastic_smoothness(3.0)
        .brightness(0.3)
        .contrast(0.3)
        .erase(0.5)
        .mixup(0.5)
        .cutmix(1.0)
}

fn train() -> impl Strategy<Value = TrainConfig> {
    let augmented = Augment::default().rotate_degrees(20.0).shift_pixels(2.0).scale(0.2).shear(0.1);
    // Of 200 epochs; steps 0, 5 and 301 are in the first, the second and the 101st.
    let partly = everything().plain_epochs(199);
    let fills = [Fill::Value(0.0), Fill::Value(200.0), Fill::Mean, Fill::Edge, Fill::Reflect];
    let filled = (0..fills.len()).prop_map(move |at| everything().fill(fills[at]));
    // Kinds of changes alone: without the others' kernels.
    let alone = [
        Augment::default().flip_horizontal(0.5).pad_crop(2.0).crop(0.5).crop_aspect(0.4),
        Augment::default().elastic(1.5).elastic_smoothness(3.0),
        Augment::default().brightness(0.4).contrast(0.6),
        Augment::default().erase(0.5).erase_area(0.4),
        Augment::default().mixup(0.5),
        Augment::default().cutmix(1.0),
    ];
    let alone = (0..alone.len()).prop_map(move |at| alone[at]);
    let augment = prop_oneof![2 => Just(Augment::default()), 1 => Just(augmented), 1 => Just(partly), 2 => filled, 2 => alone];
    let smoothing = prop_oneof![Just(0.0f32), Just(0.1)];
    let average = prop_oneof![Just(0.0f32), Just(0.99)];
    let weights = prop_oneof![2 => Just(None), 1 => Just(Some(ClassWeights::Balanced))];
    // Of gradients whose norms are from 0.01 to 10.
    let clip_norm = prop_oneof![2 => Just(0.0f32), 1 => Just(0.05), 1 => Just(2.0)];
    (1..=9usize, optimizer(), smoothing, average, augment, weights, clip_norm).prop_map(
        |(batch_size, optimizer, label_smoothing, average_decay, augment, class_weights, clip_norm)| {
            TrainConfig::default()
                .epochs(200)
                .batch_size(batch_size)
                .optimizer(optimizer)
                .learning_rate(LearningRate::Constant { rate: 0.03 })
                .label_smoothing(label_smoothing)
                .average_decay(average_decay)
                .class_weights(class_weights)
                .clip_norm(clip_norm)
                .augment(augment)
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let heads = [Head::PoolLinear, Head::FlattenLinear, Head::ConvPool, Head::TwoLinear];
    let laps = prop_oneof![2 => Just(1), 1 => 2..=3usize];
    let network = (vec(body(), 0..=4), 0..heads.len(), laps, [1..=4usize, 1..=11, 1..=11], 2..=11usize);
    // Epochs of 2½ batches: the third step of each is short.
    let step = prop_oneof![Just(0), Just(5), Just(301)];
    let run = (prop_oneof![2 => Just(1), 1 => Just(3usize)], 0..1000u32, step, any::<bool>());
    let freeze = prop_oneof![1 => Just(None), 2 => (0..20usize, any::<bool>()).prop_map(Some)];
    let rate = prop_oneof![2 => Just(None), 1 => (0..20usize).prop_map(Some)];
    (network, train(), run, (freeze, rate)).prop_map(
        move |(
            (body, head, laps, input, classes),
            mut train,
            (replicas, seed, step, shuffle),
            (freeze, rate),
        )| {
            if input[0] == 3 && train.augment.brightness > 0.0 {
                train.augment = train.augment.saturation(0.5).hue(0.3);
            }
            Case {
                body,
                head: heads[head],
                laps,
                input,
                classes,
                train,
                replicas,
                seed,
                step,
                shuffle,
                freeze,
                rate,
            }
        },
    )
}

/// Runs of the random generator, one thread each.
const SHARES: u8 = 2;

/// The same numbers in every run.
fn runner(share: u8, cases: u32) -> TestRunner {
    let config = ProptestConfig { cases, max_shrink_iters: 400, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[share; 32]))
}

/// The first `count` cases.
pub(crate) fn some_cases(count: usize) -> Vec<Case> {
    let mut runner = runner(0, 1);
    (0..count).map(|_| cases().new_tree(&mut runner).unwrap().current()).collect()
}

/// Checks 200 random networks, or the number in `SHADERNET_RANDOM_NETS`. The same networks in every run; panics if
/// 200 or more lack any kind of layer or option.
///
/// # Errors
/// The smallest failing network, as a model file, with the reason and the rest of the case in comments.
pub(crate) fn check_random_networks(
    check: impl Fn(&Case, &Model) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let count = std::env::var("SHADERNET_RANDOM_NETS").map_or(200, |count| count.parse().unwrap());
    let parts = Mutex::new(BTreeSet::new());
    let run = |share: u8| {
        let test = |case: Case| {
            parts.lock().unwrap().append(&mut case.parts());
            let checked = catch_unwind(AssertUnwindSafe(|| check(&case, &case.model())));
            checked.unwrap_or_else(|_| Err("a panic, see above".to_owned())).map_err(TestCaseError::fail)
        };
        runner(share, u32::div_ceil(count, SHARES.into())).run(&cases(), test).map_err(|error| match error {
            TestError::Fail(reason, case) => case.report(reason.message()),
            TestError::Abort(reason) => panic!("{reason}"),
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SHARES).map(|share| scope.spawn(move || run(share))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    let parts = parts.into_inner().unwrap();
    let wanted = LAYERS.iter().map(|kind| kind.name).chain(EVERY_PART.iter().copied());
    let missing: Vec<_> = wanted.filter(|&part| count >= 200 && !parts.contains(part)).collect();
    assert!(missing.is_empty(), "no network has {missing:?}, only {parts:?}");
    Ok(())
}

/// Parameters and running statistics that all differ from their defaults.
pub(crate) fn random_weights(model: &Model, seed: u32) -> Vec<Tensor> {
    let mut draw = Draw::new(7000 + seed);
    let mut tensors = model.init(seed);
    for (tensor, param) in tensors.iter_mut().zip(model.params()) {
        for value in &mut tensor.data {
            *value += match param.param.name {
                "running_var" => 0.2 * draw.normal().abs(),
                _ => 0.2 * draw.normal(),
            };
        }
    }
    tensors
}
