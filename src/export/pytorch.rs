//! A trained network as a PyTorch module whose parameters have the names used in our weights files.

use std::fmt::Write;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, shown};
use crate::layers::window::{Conv, Pool};
use crate::layers::{Activation, Op};
use crate::model::{Model, NamedLayer, Source};

/// Python keywords, and attributes that every module has: not usable as layer names.
const TAKEN: &str = "\
     False None T_destination True add_module and apply as assert async await bfloat16 break buffers \
     call_super_init children class compile continue cpu cuda def del double dump_patches elif else eval except \
     extra_repr finally float for forward from get_buffer get_extra_state get_parameter get_submodule global half \
     if import in ipu is lambda load_state_dict modules mtia named_buffers named_children named_modules \
     named_parameters nonlocal not or parameters pass raise register_backward_hook register_buffer \
     register_forward_hook register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook \
     register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter \
     register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ return set_extra_state set_submodule \
     share_memory state_dict to to_empty train training try type while with xpu yield zero_grad \
";

/// The text of a Python file with the network as `Net`, and `load(path)`, which fills it from a weights file.
///
/// # Errors
/// A kind of layer that has no PyTorch equivalent here, and layers with names that a module cannot have.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::Checkpoint;
///
/// let module = shadernet::export::to_pytorch(&Checkpoint::seed()?)?;
/// assert!(module.contains("self.conv1 = nn.Conv2d(1, 8, 3"));
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn to_pytorch(checkpoint: &Checkpoint) -> Result<String> {
    let model = &checkpoint.model;
    let (mut modules, mut calls) = (String::new(), String::new());
    // Values read later than by the next layer get their own names.
    let kept = |source: Source| match source {
        Source::Image => "kept_input".to_owned(),
        Source::Layer(layer) => format!("kept_{}", model.layers[layer].name),
    };
    let is_kept = |source: Source, next: usize| {
        model.layers.iter().skip(next + 1).any(|layer| layer.sources.contains(&source))
    };
    if is_kept(Source::Image, 0) {
        line(&mut calls, &format!("        {} = x", kept(Source::Image)));
    }
    for (index, layer) in model.layers.iter().enumerate() {
        let name = &layer.name;
        // Names beginning with an underscore may be PyTorch's own.
        let fits = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !TAKEN.split_whitespace().any(|taken| taken == name);
        if !fits {
            let message =
                format!("layer `{}`: PyTorch does not allow this name; choose another", shown(name));
            return Err(Error::Usage(message));
        }
        let before = index.checked_sub(1).map_or(Source::Image, Source::Layer);
        let read = |&source: &Source| if source == before { "x".to_owned() } else { kept(source) };
        let inputs: Vec<String> = layer.sources.iter().map(read).collect();
        let (module, call) = layer_lines(model, layer, &inputs)?;
        if let Some(module) = module {
            line(&mut modules, &format!("        self.{name} = nn.{module}"));
        }
        if let Some(call) = call {
            line(&mut calls, &format!("        x = {call}"));
        }
        if is_kept(Source::Layer(index), index + 1) {
            line(&mut calls, &format!("        {} = x", kept(Source::Layer(index))));
        }
    }
    let input = model.input;
    Ok(format!(
        r#""""{name}: {parameters} parameters, trained and written by shadernet {version}.

    net = load("model.safetensors")     # needs torch and safetensors
    logits = net(pixels)                # pixels: [N, {channels}, {height}, {width}], from 0 to 1
"""

import torch
from torch import nn
from torch.nn import functional

CLASSES = {classes}
# One value per channel.
MEAN, STD = {mean:?}, {std:?}


class Net(nn.Module):
    """[N, {channels}, {height}, {width}] pixels from 0 to 1 -> [N, {count}] logits."""

    def __init__(self):
        super().__init__()
{modules}
    def forward(self, pixels):
        x = (pixels - pixels.new_tensor(MEAN).view(-1, 1, 1)) / pixels.new_tensor(STD).view(-1, 1, 1)
{calls}        return x.flatten(1)


def load(path):
    """The network with the weights of a shadernet file, ready to be used."""
    from safetensors.torch import load_file

    net = Net()
    keys = net.load_state_dict(load_file(path), strict=False)
    # PyTorch counts the batches that a batch norm has seen; shadernet's files do not.
    missing = [key for key in keys.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or keys.unexpected_keys:
        raise ValueError(f"{{path}} does not match the network: missing {{missing}}, unexpected \
                           {{keys.unexpected_keys}}")
    return net.eval()
"#,
        name = shown(&model.name.replace(['\\', '"'], "'")),
        parameters = model.parameter_count(),
        version = env!("CARGO_PKG_VERSION"),
        channels = input.channels,
        height = input.height,
        width = input.width,
        classes = shown(&serde_json::to_string(&checkpoint.classes).expect("names are JSON")),
        mean = checkpoint.normalization.mean,
        std = checkpoint.normalization.std,
        count = model.class_count(),
    ))
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all");
}

/// The module that a layer needs, and the expression that computes it from `inputs`.
fn layer_lines(
    model: &Model,
    layer: &NamedLayer,
    inputs: &[String],
) -> Result<(Option<String>, Option<String>)> {
    let x = &inputs[0];
    let name = &layer.name;
    let owner = layer.weights_of.map(|owner| &model.layers[owner].name);
    let with_bias = layer.params.iter().any(|param| param.name == "bias");
    let bias = if with_bias { "True" } else { "False" };
    let own = |module: String| (Some(module), Some(format!("self.{name}({x})")));
    Ok(match (layer.op, owner) {
        (Op::Conv2d(sizes), None) if layer.is_fully_connected() => {
            let Conv { input, output, .. } = sizes;
            let module = format!("Linear({}, {}, bias={bias})", input.channels, output.channels);
            (Some(module), Some(format!("self.{name}({x}.flatten(1))[:, :, None, None]")))
        }
        (Op::Conv2d(_), Some(owner)) if layer.is_fully_connected() => {
            let call = format!("self.{owner}({x}.flatten(1))[:, :, None, None]");
            (None, Some(call))
        }
        (Op::Conv2d(conv), owner) => {
            let Conv { input, output, kernel, stride, padding: [top, bottom, left, right], groups, .. } =
                conv;
            // A module pads both ends of an axis equally.
            let (x, padding) = match top == bottom && left == right {
                true => (x.to_owned(), pair([top, left])),
                false => (format!("functional.pad({x}, ({left}, {right}, {top}, {bottom}))"), "0".into()),
            };
            let dilation = match conv.dilation {
                [1, 1] => String::new(),
                dilation => format!("dilation={}, ", pair(dilation)),
            };
            match owner {
                None => {
                    let module = format!(
                        "Conv2d({}, {}, {}, stride={stride}, padding={padding}, {dilation}groups={groups}, bias={bias})",
                        input.channels,
                        output.channels,
                        pair(kernel)
                    );
                    (Some(module), Some(format!("self.{name}({x})")))
                }
                Some(owner) => {
                    let call = format!(
                        "functional.conv2d({x}, self.{owner}.weight, self.{owner}.bias, {stride}, {padding}, {dilation}groups={groups})"
                    );
                    (None, Some(call))
                }
            }
        }
        (Op::BatchNorm2d { eps, momentum }, None) => {
            own(format!("BatchNorm2d({}, eps={eps:?}, momentum={momentum:?})", layer.output.channels))
        }
        // Its statistics are its own.
        (Op::BatchNorm2d { eps, momentum }, Some(owner)) => {
            let channels = layer.output.channels;
            let module = format!("BatchNorm2d({channels}, eps={eps:?}, momentum={momentum:?}, affine=False)");
            let weights = format!("self.{owner}.weight[:, None, None] + self.{owner}.bias[:, None, None]");
            (Some(module), Some(format!("self.{name}({x}) * {weights}")))
        }
        (Op::GroupNorm { groups, eps }, None) => {
            own(format!("GroupNorm({groups}, {}, eps={eps:?})", layer.output.channels))
        }
        (Op::GroupNorm { groups, eps }, Some(owner)) => {
            let weights = format!("self.{owner}.weight, self.{owner}.bias");
            (None, Some(format!("functional.group_norm({x}, {groups}, {weights}, {eps:?})")))
        }
        (Op::Activation(Activation::Prelu), Some(owner)) => {
            (None, Some(format!("functional.prelu({x}, self.{owner}.weight)")))
        }
        (Op::Activation(function), _) => own(match function {
            Activation::LeakyRelu { slope: 0.0 } => "ReLU()".into(),
            Activation::LeakyRelu { slope } => format!("LeakyReLU({slope:?})"),
            Activation::Prelu => format!("PReLU({})", layer.params[0].size()),
            Activation::Relu6 => "ReLU6()".into(),
            Activation::Sigmoid => "Sigmoid()".into(),
            Activation::Tanh => "Tanh()".into(),
            Activation::Silu => "SiLU()".into(),
            Activation::Gelu => "GELU()".into(),
            Activation::HardSigmoid => "Hardsigmoid()".into(),
            Activation::HardSwish => "Hardswish()".into(),
        }),
        (Op::MaxPool2d(pool), _) => own(format!("MaxPool2d({})", window(&pool))),
        (Op::AvgPool2d(pool), _) if pool == Pool::global(layer.inputs[0]) => {
            own("AdaptiveAvgPool2d(1)".into())
        }
        (Op::AvgPool2d(pool), _) => own(format!("AvgPool2d({})", window(&pool))),
        (Op::Dropout { rate }, _) => own(format!("Dropout({rate:?})")),
        (Op::Add, _) => (None, Some(inputs.join(" + "))),
        (Op::Multiply, _) => (None, Some(inputs.join(" * "))),
        (Op::Concat, _) => (None, Some(format!("torch.cat([{}], 1)", inputs.join(", ")))),
        (Op::Reshape, _) => {
            let [c, h, w] = [layer.output.channels, layer.output.height, layer.output.width];
            (None, Some(format!("{x}.reshape(-1, {c}, {h}, {w})")))
        }
        (Op::Opaque, _) => {
            let message = format!("layer `{name}`: the PyTorch export does not support {}", layer.kind.name);
            return Err(Error::Usage(message));
        }
    })
}

/// One number for both, or two.
fn pair([height, width]: [usize; 2]) -> String {
    if height == width { height.to_string() } else { format!("({height}, {width})") }
}

fn window(pool: &Pool) -> String {
    let ([height, width], [down, across]) = (pool.kernel, pool.stride);
    format!("({height}, {width}), ({down}, {across}), {}", pool.padding)
}
