//! The sliding window that convolution and pooling share: sizes, and which input an output's tap reads.

use serde::Serialize;

use crate::tensor::Shape;

/// Output size along one axis: how often a window of `kernel` fits, moving by `stride`, into `size` plus `padding` on
/// both sides. PyTorch's floor mode.
pub fn output_size(size: usize, kernel: usize, stride: usize, padding: usize) -> Option<usize> {
    Some(size.saturating_add(padding.saturating_mul(2)).checked_sub(kernel)? / stride + 1)
}

/// Largest stride and window: what shaders hold in 32 bits is then far from overflowing.
const MAX_WINDOW: usize = 65_536;

/// Fails if a stride or the side of a window is 0 or too large.
pub(super) fn check_extent(name: &str, value: usize) -> Result<(), String> {
    if (1..=MAX_WINDOW).contains(&value) {
        return Ok(());
    }
    Err(format!("{name} = {value} must be from 1 to {MAX_WINDOW}"))
}

/// The input coordinate under tap `tap` of output `out`, if it is not in the padding.
#[inline]
pub fn input_index(out: usize, tap: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    (out * stride + tap).checked_sub(padding).filter(|&index| index < size)
}

/// Sizes of a convolution with its shapes resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Conv {
    /// Shape of the input.
    pub input: Shape,
    /// Shape of the output.
    pub output: Shape,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Distance of neighbouring windows.
    pub stride: usize,
    /// Zeros around the input, on each side.
    pub padding: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

/// Sizes of a pooling with its shapes resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Shape of the input.
    pub input: Shape,
    /// Shape of the output.
    pub output: Shape,
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Distance of neighbouring windows, down and across.
    pub stride: [usize; 2],
    /// Rows and columns of padding on each side.
    pub padding: usize,
}

impl Pool {
    /// The pooling of `input`, or why the window does not fit.
    pub fn new(input: Shape, kernel: usize, stride: usize, padding: usize) -> Result<Self, String> {
        check_extent("kernel", kernel)?;
        check_extent("stride", stride)?;
        if padding > kernel / 2 {
            return Err(format!("padding {padding} is more than half of kernel {kernel}"));
        }
        let size = |size| {
            output_size(size, kernel, stride, padding)
                .ok_or_else(|| format!("kernel {kernel} does not fit input {input} with padding {padding}"))
        };
        let output = Shape::new(input.channels, size(input.height)?, size(input.width)?);
        Ok(Self { input, output, kernel: [kernel; 2], stride: [stride; 2], padding })
    }

    /// The pooling of each whole feature map to one value.
    pub fn global(input: Shape) -> Self {
        let kernel = [input.height, input.width];
        Self { input, output: Shape::new(input.channels, 1, 1), kernel, stride: [1, 1], padding: 0 }
    }

    /// Input positions (index within the feature map) under the window of output (y, x), in row-major order.
    pub fn taps(&self, y: usize, x: usize) -> impl Iterator<Item = usize> + '_ {
        let ([kernel_h, kernel_w], [stride_h, stride_w]) = (self.kernel, self.stride);
        (0..kernel_h).flat_map(move |i| {
            let row = input_index(y, i, stride_h, self.padding, self.input.height);
            (0..kernel_w).filter_map(move |j| {
                let column = input_index(x, j, stride_w, self.padding, self.input.width)?;
                Some(row? * self.input.width + column)
            })
        })
    }

    /// The shader overrides of a pooling.
    pub fn constants(&self) -> impl IntoIterator<Item = (&'static str, f64)> {
        [
            ("CHANNELS", self.input.channels),
            ("IN_HEIGHT", self.input.height),
            ("IN_WIDTH", self.input.width),
            ("OUT_HEIGHT", self.output.height),
            ("OUT_WIDTH", self.output.width),
            ("KERNEL_HEIGHT", self.kernel[0]),
            ("KERNEL_WIDTH", self.kernel[1]),
            ("STRIDE_HEIGHT", self.stride[0]),
            ("STRIDE_WIDTH", self.stride[1]),
            ("PADDING", self.padding),
        ]
        .map(|(name, value)| (name, value as f64))
    }
}
