//! What computes ONNX's cases: the reference alone, or kernels along with it.

use shadernet::config::Optimizer;
use shadernet::doctor::Table;
use shadernet::layers::{Context, LayerKind};
use shadernet::losses::cross_entropy::cross_entropy;
use shadernet::optimizers::Step;
use shadernet::tensor::{Array, Arrays, Shape, gamma};

use super::image;
use super::kernels::Kernels;

/// What computes the cases, and the comparisons made.
#[derive(Default)]
pub(crate) struct Bench {
    /// `None` is the reference itself.
    pub(crate) kernels: Option<Kernels>,
    pub(crate) table: Table,
}

impl Bench {
    /// Without kernels, the reference's results. Else the kernels' results, once each value is within its bound; they
    /// and ONNX may then differ by twice the bound, as each may be off by it.
    fn compared(&mut self, kind: &str, reference: Arrays, made: Option<Arrays>) -> Result<Arrays, String> {
        let Some(mut made) = made else { return Ok(reference) };
        for (name, array) in &mut made {
            let want = &reference[name];
            self.table.check(
                &format!("{kind}.{name} (kernel)"),
                &format!("{kind}, {name}"),
                &array.to_f32(),
                want,
            )?;
            array.bound = want.bound.iter().map(|bound| 2.0 * bound).collect();
        }
        assert_eq!(made.len(), reference.len());
        Ok(made)
    }

    /// Forward, and backward if there is a `grad_output`. `arrays` must contain everything that the layer reads.
    pub(crate) fn apply(
        &mut self,
        kind: &str,
        keys: &str,
        arrays: Arrays,
        training: bool,
    ) -> Result<Arrays, String> {
        let layer = LayerKind::find(kind).unwrap().parse(keys.parse().unwrap()).unwrap();
        let [n, c, h, w] = arrays["input"].nchw();
        let input = Shape::new(c, h, w);
        for param in layer.params(&[input]) {
            assert_eq!(arrays[param.name].shape, param.shape, "{}", param.name);
        }
        let Shape { channels, height, width } = layer.output_shape(&[input]).unwrap();
        let output = vec![n, channels, height, width];
        let context = Context { training, seed: 0, step: 0, layer: 0, first_image: 0 };
        let mut made = layer.forward(&arrays, &context);
        assert_eq!(made["output"].shape, output);
        if let Some(grad_output) = arrays.get("grad_output") {
            assert_eq!(grad_output.shape, output);
            let mut arrays = arrays.clone();
            arrays.extend(made.clone());
            made.extend(layer.backward(&arrays, &context));
        }
        let kernels = self.kernels.as_mut();
        let by_kernels = kernels.and_then(|kernels| kernels.layer(&*layer, &arrays, &made, &context));
        self.compared(kind, made, by_kernels)
    }

    /// The output of a layer without parameters, as in inference.
    pub(crate) fn output(&mut self, kind: &str, keys: &str, input: &Array) -> Result<Array, String> {
        let arrays = Arrays::from([("input", image(input))]);
        Ok(self.apply(kind, keys, arrays, false)?.remove("output").unwrap())
    }

    /// `loss`, `grad_logits` and the `sum` of the losses.
    pub(crate) fn cross_entropy(&mut self, logits: &Array, targets: &[u8]) -> Result<Arrays, String> {
        let mut made = cross_entropy(logits, targets, 0.0);
        let loss = &made["loss"];
        let mut sum = Array::exact(&[], vec![loss.data.iter().sum()]);
        sum.bound[0] = loss.bound.iter().sum::<f64>() + gamma(targets.len()) * sum.data[0];
        made.insert("sum", sum);
        let kernels = self.kernels.as_mut();
        let by_kernels = kernels.map(|kernels| kernels.cross_entropy(logits, targets, &made));
        self.compared("cross_entropy", made, by_kernels)
    }

    /// Logarithms of the probabilities: minus the loss for each class as the target.
    pub(crate) fn log_softmax(&mut self, logits: &Array) -> Result<Array, String> {
        let [rows, classes] = logits.shape[..] else { panic!("{:?} is no matrix", logits.shape) };
        // Every row once per class.
        let all = Array::exact(&[classes * rows, classes], logits.data.repeat(classes));
        let targets: Vec<u8> = (0..classes * rows).map(|at| (at / rows) as u8).collect();
        let loss = &self.cross_entropy(&all, &targets)?["loss"];
        let mut result = Array::zeros(&logits.shape);
        for at in 0..classes * rows {
            let to = at % rows * classes + at / rows;
            (result.data[to], result.bound[to]) = (-loss.data[at], loss.bound[at]);
        }
        Ok(result)
    }

    /// New parameters and memory.
    pub(crate) fn update(&mut self, rule: &Optimizer, arrays: &Arrays, step: Step) -> Result<Arrays, String> {
        let made = rule.update(arrays, step);
        let kernels = self.kernels.as_mut();
        let by_kernels = kernels.map(|kernels| kernels.optimizer(rule, arrays, &made, step));
        self.compared("optimizer", made, by_kernels)
    }
}
