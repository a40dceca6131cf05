//! Weights alone, from files of other programs or of networks with other classes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::file::{MAX_FILE, MAX_HEADER, TensorFile, Wanted, cut, is_half, listed, some};
use super::{RUN_FORMAT, check, state_of_a_run, wanted};
use crate::error::{Error, Result, shown};
use crate::layers::Op;
use crate::model::Model;
use crate::tensor::Tensor;

/// What a training starts from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct InitialWeights {
    /// Every tensor of the model, in the order of [`Model::params`].
    pub tensors: Vec<Tensor>,
    /// Names of those that are drawn at random for each net instead.
    pub fresh: Vec<String>,
    /// What was done to make the file fit, a line each.
    pub notes: Vec<String>,
}

/// Takes all tensors as they are.
impl From<Vec<Tensor>> for InitialWeights {
    fn from(tensors: Vec<Tensor>) -> Self {
        Self { tensors, fresh: Vec::new(), notes: Vec::new() }
    }
}

impl InitialWeights {
    /// Those of the net with this seed.
    pub(crate) fn of_seed(&self, model: &Model, seed: u32) -> Vec<Tensor> {
        if self.fresh.is_empty() {
            return self.tensors.clone();
        }
        let draw = |(given, drawn): (&Tensor, Tensor)| {
            if self.fresh.contains(&given.name) { drawn } else { given.clone() }
        };
        self.tensors.iter().zip(model.init(seed)).map(draw).collect()
    }
}

/// Reads the weights of `model` from any safetensors file that has its tensors, such as a saved PyTorch `state_dict`, or from
/// the folder of a run, with a line for each thing that was done to make them fit: the prefixes of wrapped networks are left
/// out (`module.`, `_orig_mod.`), half precision becomes `f32`, and tensors that the model does not have are not used.
///
/// # Errors
/// Tensors that are missing or have other shapes, all of them, and the first of another type or that is not finite.
///
/// # Examples
/// ```
/// use shadernet::checkpoint::{Checkpoint, read_weights};
///
/// let model = Checkpoint::seed()?.model;
/// let (weights, notes) = read_weights("data/models/seed.safetensors".as_ref(), &model)?;
/// assert_eq!((weights[0].name.as_str(), &weights[0].shape[..]), ("conv1.weight", &[8, 1, 3, 3][..]));
/// assert!(notes.is_empty());
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn read_weights(path: &Path, model: &Model) -> Result<(Vec<Tensor>, Vec<String>)> {
    let InitialWeights { tensors, notes, .. } = read(path, model, &Head::default())?;
    Ok((tensors, notes))
}

/// As [`read_weights`], but of a network with another number of classes, or with no last layer at all, everything before its
/// last layer is taken, and the last layer is drawn anew.
///
/// # Errors
/// Those of [`read_weights`].
///
/// # Examples
/// ```
/// use shadernet::checkpoint::{Checkpoint, read_initial_weights};
/// use shadernet::model::Model;
///
/// let text = Checkpoint::seed()?.model.to_toml();
/// let six = Model::parse(&text.replace("out_channels = 10", "out_channels = 6"), "six")?;
/// let found = read_initial_weights("data/models/seed.safetensors".as_ref(), &six)?;
/// assert_eq!(found.fresh, ["conv7.weight", "conv7.bias"]);
/// # Ok::<(), shadernet::error::Error>(())
/// ```
pub fn read_initial_weights(path: &Path, model: &Model) -> Result<InitialWeights> {
    read(path, model, &Head::of(model))
}

/// The layer that gives a network its classes: the last with a filter for each, and what follows it.
#[derive(Default)]
struct Head {
    layer: String,
    /// Names of its tensors, whose first extent is the number of classes.
    tensors: BTreeSet<String>,
}

impl Head {
    fn of(model: &Model) -> Self {
        let Some(at) = model.layers.iter().rposition(|layer| matches!(layer.op, Op::Conv2d(_))) else {
            return Self::default();
        };
        let classes = model.class_count();
        let own = model.params().into_iter().filter(|param| param.layer >= at);
        let own: Vec<_> = own.map(|param| (param.name, param.param.shape)).collect();
        // Behind a layer of another width, or one that borrows its weights, there is no such layer.
        if own.is_empty() || own.iter().any(|(_, shape)| shape.first() != Some(&classes)) {
            return Self::default();
        }
        Self {
            layer: model.layers[at].name.clone(),
            tensors: own.into_iter().map(|(name, _)| name).collect(),
        }
    }
}

fn read(path: &Path, model: &Model, head: &Head) -> Result<InitialWeights> {
    let file = TensorFile::read(path, MAX_HEADER, MAX_FILE)?;
    if file.metadata.get("format").map(String::as_str) == Some(RUN_FORMAT) {
        return Err(state_of_a_run(&file.path));
    }
    let found = matched(&file, &wanted(model), head)?;
    check::range(&found.tensors, model).map_err(|message| Error::checkpoint(&file.path, message))?;
    Ok(found)
}

/// The tensors of a file by the names that a model may have for them.
struct Named<'a> {
    views: BTreeMap<String, TensorView<'a>>,
    /// Those that cannot be the model's: the names of all others begin alike.
    strangers: Vec<(String, Dtype)>,
}

/// PyTorch's compiled modules stand in a module of this name, anywhere in a network.
const COMPILED: &str = "_orig_mod.";

impl<'a> Named<'a> {
    /// Also says what is left out of the names, a line each.
    fn new(file: &SafeTensors<'a>, wanted: &[Wanted]) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let compiled = file.names().iter().any(|name| name.contains(COMPILED))
            && !wanted.iter().any(|(name, _)| name.contains(COMPILED));
        let plain = |name: String| if compiled { name.replace(COMPILED, "") } else { name };
        let all: BTreeMap<_, _> =
            file.tensors().into_iter().map(|(name, view)| (plain(name), view)).collect();
        if compiled {
            notes.push(format!("`{COMPILED}` in tensor names is ignored"));
        }
        let prefix = prefix(&all, wanted);
        if !prefix.is_empty() {
            notes.push(format!("tensor names start with `{}`, which is ignored", shown(&prefix)));
        }
        let (mut views, mut strangers) = (BTreeMap::new(), Vec::new());
        for (name, view) in all {
            match name.strip_prefix(&prefix) {
                Some(rest) => drop(views.insert(rest.to_owned(), view)),
                None => strangers.push((name, view.dtype())),
            }
        }
        (Self { views, strangers }, notes)
    }

    /// Names of the tensors that a model does not use.
    fn unused(&self, wanted: &[Wanted]) -> Vec<&str> {
        let known: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let named = self.views.iter().map(|(name, view)| (name, view.dtype()));
        let all = named.chain(self.strangers.iter().map(|(name, dtype)| (name, *dtype)));
        // PyTorch counts batches in its batch norm layers; we do not need the number.
        let is_counter = |name: &str, dtype| dtype == Dtype::I64 && name.ends_with("num_batches_tracked");
        all.filter(|(name, dtype)| !known.contains(name.as_str()) && !is_counter(name, *dtype))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// What stands before the names of the model's tensors, where most of them are found.
fn prefix(views: &BTreeMap<String, TensorView<'_>>, wanted: &[Wanted]) -> String {
    let is_there = |prefix: &str| {
        wanted.iter().filter(|(name, _)| views.contains_key(&format!("{prefix}{name}"))).count()
    };
    let prefixes: BTreeSet<&str> = wanted
        .iter()
        .flat_map(|(wanted, _)| views.keys().filter_map(|name| name.strip_suffix(wanted.as_str())))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .collect();
    // Of equally good ones the first, which is the shortest of those that begin alike.
    let best = prefixes.into_iter().map(|prefix| (is_there(prefix), prefix));
    let best = best.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map_or_else(String::new, |(_, prefix)| prefix.to_owned())
}

/// Takes what is wanted from a file of any program.
fn matched(file: &TensorFile, wanted: &[Wanted], head: &Head) -> Result<InitialWeights> {
    let bad = |message: String| Error::checkpoint(&file.path, message);
    let views = file.views()?;
    check_digest(file, &views)?;
    let (named, mut notes) = Named::new(&views, wanted);
    let unused = named.unused(wanted);
    let fresh = fresh(&named.views, wanted, head, unused.is_empty());
    let needed = || wanted.iter().filter(|(name, _)| !fresh.contains(name));

    let missing: Vec<_> = needed().filter(|(name, _)| !named.views.contains_key(name)).collect();
    if !missing.is_empty() {
        let mut names = views.names();
        names.sort_unstable();
        let fits = names.len() - unused.len();
        // What fits is no news, where there is something else.
        let (names, beside) =
            if unused.is_empty() || fits == 0 { (names, "") } else { (unused, ", beside what fits") };
        let missing = some(missing.iter().map(|(name, shape)| format!("{name} {shape:?}")));
        return Err(bad(format!("missing: {missing}; {}{beside}", listed(&names))));
    }
    let other: Vec<_> = needed().filter(|(name, shape)| named.views[name].shape() != shape).collect();
    if !other.is_empty() {
        let each = other.iter().map(|(name, shape)| {
            format!("{name}: the file has {:?}, but the model needs {shape:?}", named.views[name].shape())
        });
        return Err(bad(some(each)));
    }

    if let Some((name, shape)) = wanted.iter().find(|(name, _)| fresh.contains(name)) {
        let layer = &head.layer;
        notes.push(match named.views.get(name) {
            Some(view) => format!(
                "the file has {} classes and the model {}, so the last layer, `{layer}`, starts from random weights",
                view.shape()[0],
                shape[0]
            ),
            None => {
                format!("the file ends before the last layer, `{layer}`, which starts from random weights")
            }
        });
    }
    let dtypes: BTreeSet<String> = needed()
        .map(|(name, _)| named.views[name].dtype())
        .filter(|&dtype| is_half(dtype))
        .map(|dtype| dtype.to_string())
        .collect();
    notes.extend(dtypes.iter().map(|dtype| format!("{dtype} values are converted to F32, without loss")));
    if !unused.is_empty() {
        let names = some(unused.iter().map(|name| cut(name)));
        notes.push(format!("tensors that the model does not have are not used: {names}"));
    }
    let tensor = |(name, shape): &Wanted| match fresh.contains(name) {
        true => {
            let data = vec![0.0; shape.iter().product()];
            Ok(Tensor { name: name.clone(), shape: shape.clone(), data })
        }
        false => file.tensor(name, &named.views[name], |dtype| dtype == Dtype::F32 || is_half(dtype)),
    };
    let tensors = wanted.iter().map(tensor).collect::<Result<_>>()?;
    Ok(InitialWeights { tensors, fresh, notes })
}

/// The tensors of the last layer, if the file's differ from them only in the number of classes, or if the file has nothing
/// but what is before them.
fn fresh(
    views: &BTreeMap<String, TensorView<'_>>,
    wanted: &[Wanted],
    head: &Head,
    has_no_other: bool,
) -> Vec<String> {
    let of_head: Vec<_> = wanted.iter().filter(|(name, _)| head.tensors.contains(name)).collect();
    let other_classes = |(name, shape): &&Wanted| {
        views.get(name).is_some_and(|view| {
            view.shape().len() == shape.len()
                && view.shape().first() != shape.first()
                && view.shape().get(1..) == shape.get(1..)
        })
    };
    let is_fresh = of_head.iter().copied().all(|wanted| other_classes(&wanted))
        || has_no_other && of_head.iter().all(|(name, _)| !views.contains_key(name));
    if is_fresh { of_head.into_iter().map(|(name, _)| name.clone()).collect() } else { Vec::new() }
}

/// Compares the tensors with the digest that files of ours have of them; those with a digest of everything need none.
fn check_digest(file: &TensorFile, views: &SafeTensors<'_>) -> Result<()> {
    if file.is_sealed() || !file.metadata.contains_key("weights_sha256") {
        return Ok(());
    }
    let mut all = views.tensors();
    all.sort_by_key(|(_, view)| view.data().as_ptr());
    let tensors = all.iter().map(|(name, view)| file.tensor(name, view, |dtype| dtype == Dtype::F32));
    file.check_sha256(&tensors.collect::<Result<Vec<_>>>()?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use super::super::{Checkpoint, save_tensors};
    use super::*;

    fn renamed(weights: &[Tensor], name: impl Fn(&str) -> String) -> Vec<Tensor> {
        weights.iter().map(|tensor| Tensor { name: name(&tensor.name), ..tensor.clone() }).collect()
    }

    /// The result of a file with these tensors.
    fn read_of(tensors: &[Tensor], model: &Model) -> Result<InitialWeights, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        save_tensors(&path, tensors).unwrap();
        read_initial_weights(&path, model).map_err(|error| error.to_string())
    }

    #[test]
    fn names_of_wrapped_networks_are_read() {
        let small = small();
        for (prefix, notes) in [
            ("module.", &["tensor names start with `module.`, which is ignored"][..]),
            ("model.net.", &["tensor names start with `model.net.`, which is ignored"]),
            ("_orig_mod.", &["`_orig_mod.` in tensor names is ignored"]),
            (
                "module._orig_mod.",
                &[
                    "`_orig_mod.` in tensor names is ignored",
                    "tensor names start with `module.`, which is ignored",
                ],
            ),
        ] {
            let found =
                read_of(&renamed(&small.weights, |name| format!("{prefix}{name}")), &small.model).unwrap();
            assert_eq!((found.tensors, found.fresh), (small.weights.clone(), vec![]));
            assert_eq!(found.notes, notes);
        }
        // A part of a network was compiled; an average beside the network counts its steps.
        let mut tensors =
            renamed(&small.weights, |name| format!("module.{}", name.replace('.', "._orig_mod.")));
        tensors.push(Tensor { name: "n_averaged".into(), shape: vec![], data: vec![3.0] });
        let found = read_of(&tensors, &small.model).unwrap();
        assert_eq!(found.tensors, small.weights);
        assert_eq!(found.notes[2], "tensors that the model does not have are not used: n_averaged");
    }

    #[test]
    fn what_is_missing_or_has_another_shape_is_listed_together() {
        let small = small();
        let message =
            read_of(&renamed(&small.weights, |name| name.replace("conv1", "stem\u{1b}[2J")), &small.model);
        let message = message.unwrap_err();
        let words = r"missing: conv1.weight [4, 1, 3, 3], conv1.bias [4]; the file has stem\u001b[2J.bias, stem\u001b[2J.weight, beside what fits";
        assert!(message.ends_with(words), "{message}");
        let message = read_of(&renamed(&small.weights, |name| format!("{name}x")), &small.model).unwrap_err();
        let words = "missing: conv1.weight [4, 1, 3, 3], conv1.bias [4], conv2.weight [2, 4, 3, 3], conv2.bias [2]; the \
                     file has conv1.biasx, conv1.weightx, conv2.biasx, conv2.weightx";
        assert!(message.ends_with(words), "{message}");
        let mut tensors = small.weights.clone();
        tensors[0].shape = vec![4, 9];
        tensors[2].shape = vec![2, 36];
        let message = read_of(&tensors, &small.model).unwrap_err();
        let words = "conv1.weight: the file has [4, 9], but the model needs [4, 1, 3, 3], conv2.weight: the file has \
                     [2, 36], but the model needs [2, 4, 3, 3]";
        assert!(message.ends_with(words), "{message}");
        // Without the first tensor there is still a prefix.
        let tensors = &renamed(&small.weights, |name| format!("module.{name}"))[1..];
        let message = read_of(tensors, &small.model).unwrap_err();
        assert!(message.contains("missing: conv1.weight [4, 1, 3, 3]; the file has "), "{message}");
    }

    #[test]
    fn a_last_layer_for_other_classes_is_drawn_anew() {
        let small = small();
        let text = small.model.to_toml().replace("out_channels = 2", "out_channels = 5");
        let five = Model::parse(&text, "five").unwrap();
        let found = read_of(&small.weights, &five).unwrap();
        assert_eq!(found.fresh, ["conv2.weight", "conv2.bias"]);
        assert_eq!(
            found.notes,
            [
                "the file has 2 classes and the model 5, so the last layer, `conv2`, starts from random weights"
            ]
        );
        for seed in [3, 4] {
            let weights = found.of_seed(&five, seed);
            assert_eq!(weights[..2], small.weights[..2]);
            assert_eq!(weights[2..], five.init(seed)[2..]);
        }
        // A network without its last layer, and one whose last layer has another name: that may be a mistake.
        let found = read_of(&small.weights[..2], &five).unwrap();
        assert_eq!(found.fresh, ["conv2.weight", "conv2.bias"]);
        assert!(
            found.notes[0].starts_with("the file ends before the last layer, `conv2`"),
            "{:?}",
            found.notes
        );
        let message =
            read_of(&renamed(&small.weights, |name| name.replace("conv2", "fc")), &five).unwrap_err();
        assert!(
            message.contains("missing: conv2.weight [5, 4, 3, 3], conv2.bias [5]; the file has fc.bias"),
            "{message}"
        );
        // Another size of the filters is no matter of classes.
        let mut tensors = small.weights.clone();
        tensors[2] = Tensor { name: "conv2.weight".into(), shape: vec![2, 4, 1, 1], data: vec![0.0; 8] };
        let message = read_of(&tensors, &five).unwrap_err();
        assert!(message.contains("conv2.weight: the file has [2, 4, 1, 1]"), "{message}");
        // To use a network as it is, all of it must be there.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        save_tensors(&path, &small.weights).unwrap();
        let message = read_weights(&path, &five).unwrap_err().to_string();
        assert!(
            message.contains("conv2.weight: the file has [2, 4, 3, 3], but the model needs [5"),
            "{message}"
        );
    }

    /// What normalises the classes belongs to their layer.
    #[test]
    fn all_that_has_a_value_for_each_class_is_drawn_anew() {
        let text = |classes| {
            format!(
                "name = \"x\"\ninput = [1, 6, 6]\nlayers = [{{ type = \"conv2d\", out_channels = 4, kernel = 3 }}, \
                 {{ type = \"conv2d\", out_channels = {classes}, kernel = 3 }}, {{ type = \"batch_norm2d\" }}, {{ type = \
                 \"global_avg_pool2d\" }}]"
            )
        };
        let [old, new] = [3, 4].map(|classes| Model::parse(&text(classes), "x").unwrap());
        let found = read_of(&old.init(1), &new).unwrap();
        assert_eq!(found.fresh.len(), 6, "{:?}", found.fresh);
        assert_eq!(found.of_seed(&new, 7)[2..], new.init(7)[2..]);
    }

    #[test]
    fn half_precision_is_read_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        // 1.5 and −2 are the same in every precision.
        for (dtype, bytes, fits) in [
            (Dtype::F16, vec![0x00, 0x3e, 0x00, 0xc0], true),
            (Dtype::BF16, vec![0xc0, 0x3f, 0x00, 0xc0], true),
            (Dtype::F64, [1.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat(), false),
        ] {
            let view = TensorView::new(dtype, vec![2], &bytes).unwrap();
            std::fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
            let file = TensorFile::read(&path, MAX_HEADER, MAX_FILE).unwrap();
            match matched(&file, &[("w".into(), vec![2])], &Head::default()) {
                Ok(found) => {
                    assert!(
                        fits && found.notes == [format!("{dtype} values are converted to F32, without loss")]
                    );
                    assert_eq!(found.tensors[0].data, [1.5, -2.0]);
                }
                Err(error) => assert!(!fits && error.to_string().contains("`tensor.float()`"), "{error}"),
            }
            assert!(file.tensors(&[("w".into(), vec![2])]).is_err(), "files of ours have F32 alone");
        }
    }

    #[test]
    fn damage_to_an_old_file_is_noticed_whatever_is_taken_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let seed = Checkpoint::seed().unwrap();
        seed.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        header["__metadata__"].as_object_mut().unwrap().remove("file_sha256").unwrap();
        header["__metadata__"]["version"] = "1".into();
        let header = header.to_string();
        let mut bytes =
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat();
        let six = Model::parse(&seed.model.to_toml().replace("out_channels = 10", "out_channels = 6"), "x")
            .unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_initial_weights(&path, &six).unwrap().tensors[..4], seed.weights[..4]);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let message = read_initial_weights(&path, &six).unwrap_err().to_string();
        assert!(message.contains("damaged: the tensors' SHA-256 is"), "{message}");
    }
}
