//! The sliding window shared by convolution and pooling: sizes, and which input an output's tap reads.

use serde::Serialize;

use super::sides::Sides;
use crate::tensor::Shape;

/// A window that slides along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Extent of the input.
    pub input: usize,
    /// Taps of the window.
    pub kernel: usize,
    /// Distance between adjacent windows.
    pub stride: usize,
    /// Distance between adjacent taps.
    pub dilation: usize,
    /// Zeros before and after the input.
    pub padding: [usize; 2],
}

impl Axis {
    /// Extent of the window, from its first tap to its last.
    pub fn reach(&self) -> usize {
        (self.kernel - 1).saturating_mul(self.dilation).saturating_add(1)
    }

    /// How many windows fit into the padded input: PyTorch's floor mode.
    pub fn output(&self) -> Option<usize> {
        let padded = self.padding.iter().fold(self.input, |padded, &side| padded.saturating_add(side));
        Some(padded.checked_sub(self.reach())? / self.stride + 1)
    }

    /// The input coordinate under tap `tap` of output `out`, if it is not in the padding.
    #[inline]
    pub fn input_index(&self, out: usize, tap: usize) -> Option<usize> {
        let padded = out * self.stride + tap * self.dilation;
        padded.checked_sub(self.padding[0]).filter(|&index| index < self.input)
    }
}

/// Largest stride, dilation and window: keeps the shaders' 32-bit values far from overflow.
pub(super) const MAX_WINDOW: usize = 65_536;

/// Fails if a stride or window side is 0 or too large.
pub(super) fn check_extent(name: &str, value: usize) -> Result<(), String> {
    if (1..=MAX_WINDOW).contains(&value) {
        return Ok(());
    }
    Err(format!("{name} = {value} must be from 1 to {MAX_WINDOW}"))
}

/// Sizes of a convolution with its shapes resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Conv {
    /// Shape of the input.
    pub input: Shape,
    /// Shape of the output.
    pub output: Shape,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Distance between adjacent windows.
    pub stride: usize,
    /// Zeros above, below, left and right of the input.
    pub padding: [usize; 4],
    /// Distance between adjacent taps of the kernel, down and across.
    pub dilation: [usize; 2],
    /// Groups of channels independent of each other; they divide both channel counts.
    pub groups: usize,
}

impl Conv {
    /// The window along height and width.
    pub fn axes(&self) -> [Axis; 2] {
        let ([top, bottom, left, right], stride) = (self.padding, self.stride);
        let axis = |input, at: usize, padding| {
            let (kernel, dilation) = (self.kernel[at], self.dilation[at]);
            Axis { input, kernel, stride, dilation, padding }
        };
        [axis(self.input.height, 0, [top, bottom]), axis(self.input.width, 1, [left, right])]
    }

    /// Taps of the kernel per input channel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input channels that a filter sees.
    pub fn group_in(&self) -> usize {
        self.input.channels / self.groups
    }

    /// Filters per group.
    pub fn group_out(&self) -> usize {
        self.output.channels / self.groups
    }

    /// Weights per filter.
    pub fn filter(&self) -> usize {
        self.group_in() * self.taps()
    }

    /// Side of the kernel and padding on each side, if it is square, undilated and evenly padded.
    pub fn square(&self) -> Option<[usize; 2]> {
        let ([side, width], padding) = (self.kernel, self.padding[0]);
        (side == width && self.dilation == [1, 1] && self.padding == [padding; 4]).then_some([side, padding])
    }

    /// True if each output pixel depends only on the input pixel at its position.
    pub fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.padding) == ([1, 1], 1, [0; 4])
    }
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
    /// Distance between adjacent windows, down and across.
    pub stride: [usize; 2],
    /// Rows and columns of padding on each side.
    pub padding: usize,
}

impl Pool {
    /// The pooling of `input`, or why the window does not fit. Without a stride the windows are adjacent.
    pub(super) fn new(
        input: Shape,
        kernel: Sides,
        stride: Option<usize>,
        padding: usize,
    ) -> Result<Self, String> {
        let sides = kernel.0;
        let strides = stride.map_or(sides, |stride| [stride; 2]);
        for axis in 0..2 {
            check_extent("kernel", sides[axis])?;
            check_extent("stride", strides[axis])?;
            if padding > sides[axis] / 2 {
                return Err(format!("padding {padding} is more than half of kernel {kernel}"));
            }
        }
        let mut pool = Self { input, output: input, kernel: sides, stride: strides, padding };
        let [height, width] = pool.axes().map(|axis| {
            let misfit = || format!("kernel {kernel} does not fit input {input} with padding {padding}");
            axis.output().ok_or_else(misfit)
        });
        pool.output = Shape::new(input.channels, height?, width?);
        Ok(pool)
    }

    /// The pooling to `height` x `width` by adjacent windows; these divide the input's size.
    pub(super) fn adaptive(input: Shape, [height, width]: [usize; 2]) -> Self {
        let kernel = [input.height / height, input.width / width];
        let output = Shape::new(input.channels, height, width);
        // A single window never moves.
        let stride = |windows: usize, kernel: usize| if windows == 1 { 1 } else { kernel };
        Self {
            input,
            output,
            kernel,
            stride: [stride(height, kernel[0]), stride(width, kernel[1])],
            padding: 0,
        }
    }

    /// The pooling of each whole feature map to one value.
    pub fn global(input: Shape) -> Self {
        Self::adaptive(input, [1, 1])
    }

    /// The window along height and width.
    pub fn axes(&self) -> [Axis; 2] {
        let axis = |input, at: usize| {
            let (kernel, stride) = (self.kernel[at], self.stride[at]);
            Axis { input, kernel, stride, dilation: 1, padding: [self.padding; 2] }
        };
        [axis(self.input.height, 0), axis(self.input.width, 1)]
    }

    /// Input positions (index within the feature map) under the window of output (y, x), in row-major order.
    pub fn taps(&self, y: usize, x: usize) -> impl Iterator<Item = usize> + '_ {
        let [rows, columns] = self.axes();
        (0..rows.kernel).flat_map(move |i| {
            let row = rows.input_index(y, i);
            (0..columns.kernel)
                .filter_map(move |j| Some(row? * self.input.width + columns.input_index(x, j)?))
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
