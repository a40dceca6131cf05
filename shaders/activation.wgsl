// Activations: output = f(input), elementwise, and grad_input = f' · grad_output.
//   leaky_relu, relu   max(x, 0) + NEGATIVE_SLOPE · min(x, 0); the derivative at 0 is NEGATIVE_SLOPE, as in PyTorch
//   prelu              the same with slope `weight`, one per channel or one for all
//   relu6              min(max(x, 0), 6)
//   sigmoid            σ(x) = 1 / (1 + exp(−x))
//   tanh               (exp(x) − exp(−x)) / (exp(x) + exp(−x))
//   silu               x · σ(x)
//   gelu               x · Φ(x), Φ being the standard normal CDF
//   hard_sigmoid       min(max(x + 3, 0), 6) / 6
//   hard_swish         x · hard_sigmoid(x)
// exp's argument is never above 0, so nothing overflows. WGSL's own tanh may be far less accurate than these formulas.

override FUNCTION: u32;
override NEGATIVE_SLOPE: f32; // of leaky_relu
override SLOPES: u32; // of prelu: CHANNELS or 1
override QUADS: u32;
override CHANNELS: u32;
override HEIGHT: u32;
override WIDTH: u32;

override ELEMENTS: u32 = QUADS * CHANNELS * HEIGHT * WIDTH; // vec4s per replica

// Values of FUNCTION.
const LEAKY_RELU = 0u;
const RELU6 = 1u;
const SIGMOID = 2u;
const TANH = 3u;
const SILU = 4u;
const GELU = 5u;
const HARD_SIGMOID = 6u;
const HARD_SWISH = 7u;

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad_input: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read_write> grad_weight: array<f32>;
@group(0) @binding(6) var<storage, read_write> sums: array<f32>; // [replica, channel, quad, row]

var<workgroup> tree: array<f32, 64>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    let power = exp(-abs(x));
    return select(power, vec4(1.0), x >= vec4(0.0)) / (1.0 + power);
}

// Near 0 the polynomial of Cephes' tanhf, since 1 - power would cancel.
fn hyperbolic_tangent(x: vec4<f32>) -> vec4<f32> {
    let size = min(abs(x), vec4(20.0));
    let square = size * size;
    var sum = -5.70498872745e-3 * square + 2.06390887954e-2;
    sum = sum * square - 5.37397155531e-2;
    sum = sum * square + 1.33314422036e-1;
    sum = sum * square - 3.33332819422e-1;
    let near = size + size * (square * sum);
    let power = exp(-2.0 * size);
    let result = select((1.0 - power) / (1.0 + power), near, size < vec4(0.625));
    return select(-result, result, x >= vec4(0.0));
}

// exp(-size²/2)
fn gauss(size: vec4<f32>) -> vec4<f32> {
    return exp(-0.5 * (size * size));
}

// Φ(-size) from bell = gauss(size), for size from 0 to 14, where it is 0. A polynomial fitted to their ratio:
// relative error 4e-8.
fn normal_tail(size: vec4<f32>, bell: vec4<f32>) -> vec4<f32> {
    let inverse = 1.0 / (1.0 + 0.27 * size);
    let place = 1.0 - 2.0 * inverse;
    var sum = 1.12950307e-4 * place + 8.27669428e-5;
    sum = sum * place - 1.09679846e-3;
    sum = sum * place + 6.61874365e-4;
    sum = sum * place + 9.05170664e-3;
    sum = sum * place - 3.91416959e-2;
    sum = sum * place + 9.34871584e-2;
    sum = sum * place - 1.57742858e-1;
    sum = sum * place + 2.02305079e-1;
    return bell * (inverse * sum);
}

fn value(x: vec4<f32>) -> vec4<f32> {
    switch FUNCTION {
        case RELU6: {
            return clamp(x, vec4(0.0), vec4(6.0));
        }
        case SIGMOID: {
            return sigmoid(x);
        }
        case TANH: {
            return hyperbolic_tangent(x);
        }
        case SILU: {
            return x * sigmoid(x);
        }
        case GELU: {
            let size = min(abs(x), vec4(14.0));
            return max(x, vec4(0.0)) - size * normal_tail(size, gauss(size));
        }
        case HARD_SIGMOID: {
            return clamp(x + 3.0, vec4(0.0), vec4(6.0)) * (1.0 / 6.0);
        }
        case HARD_SWISH: {
            return x * (clamp(x + 3.0, vec4(0.0), vec4(6.0)) * (1.0 / 6.0));
        }
        default: { // LEAKY_RELU
            return select(NEGATIVE_SLOPE * x, x, x > vec4(0.0));
        }
    }
}

// The gradient of the input where the output determines it.
fn gradient_by_output(y: vec4<f32>, upstream: vec4<f32>) -> vec4<f32> {
    switch FUNCTION {
        case RELU6: {
            return select(vec4(0.0), upstream, (y > vec4(0.0)) & (y < vec4(6.0)));
        }
        case SIGMOID: {
            return (1.0 - y) * y * upstream;
        }
        case TANH: {
            return (1.0 - y) * (1.0 + y) * upstream;
        }
        default: { // LEAKY_RELU
            return select(NEGATIVE_SLOPE * upstream, upstream, y > vec4(0.0));
        }
    }
}

// The gradient of the input where it depends on the input.
fn gradient_by_input(x: vec4<f32>, upstream: vec4<f32>) -> vec4<f32> {
    switch FUNCTION {
        case SILU: {
            // σ(x) + x · σ(x) · σ(-x)
            let power = exp(-abs(x));
            let inverse = 1.0 / (1.0 + power);
            let share = power * inverse;
            return (select(share, inverse, x >= vec4(0.0)) + x * (share * inverse)) * upstream;
        }
        case GELU: {
            // Φ(x) + x · exp(-x²/2) / √(2π)
            let inner = clamp(x, vec4(-14.0), vec4(14.0));
            let bell = gauss(inner);
            let tail = normal_tail(abs(inner), bell);
            return (select(tail, 1.0 - tail, x >= vec4(0.0)) + inner * (0.3989422804 * bell)) * upstream;
        }
        case HARD_SIGMOID: {
            return select(vec4(0.0), (1.0 / 6.0) * upstream, (x > vec4(-3.0)) & (x < vec4(3.0)));
        }
        default: { // HARD_SWISH
            let slope = select(x * (1.0 / 3.0) + 0.5, vec4(1.0), x >= vec4(3.0));
            return select(vec4(0.0), slope * upstream, x > vec4(-3.0));
        }
    }
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    output[id.z * ELEMENTS + index] = value(input[id.z * ELEMENTS + index]);
}

@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let at = id.z * ELEMENTS + index;
    grad_input[at] = gradient_by_output(output[at], grad_output[at]);
}

@compute @workgroup_size(64)
fn backward_input_by_input(@builtin(global_invocation_id) id: vec3<u32>,
                           @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let at = id.z * ELEMENTS + index;
    grad_input[at] = gradient_by_input(input[at], grad_output[at]);
}

// The negative slope that applies to an element.
fn slope(replica: u32, element: u32) -> f32 {
    return weight[replica * SLOPES + element / (HEIGHT * WIDTH) % SLOPES];
}

@compute @workgroup_size(64)
fn forward_prelu(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let x = input[id.z * ELEMENTS + index];
    output[id.z * ELEMENTS + index] = select(slope(id.z, index) * x, x, x > vec4(0.0));
}

@compute @workgroup_size(64)
fn backward_input_prelu(@builtin(global_invocation_id) id: vec3<u32>,
                        @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let at = id.z * ELEMENTS + index;
    let upstream = grad_output[at];
    grad_input[at] = select(slope(id.z, index) * upstream, upstream, input[at] > vec4(0.0));
}

// Σ grad_output · min(input, 0) of each row.
@compute @workgroup_size(64)
fn weight_row_sums(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= QUADS * CHANNELS * HEIGHT) {
        return;
    }
    let channel = index / (QUADS * HEIGHT);
    let quad = index / HEIGHT % QUADS;
    let start = (((id.z * QUADS + quad) * CHANNELS + channel) * HEIGHT + index % HEIGHT) * WIDTH;
    var sum = vec4(0.0);
    for (var x = 0u; x < WIDTH; x++) {
        sum += grad_output[start + x] * min(input[start + x], vec4(0.0));
    }
    sums[id.z * QUADS * CHANNELS * HEIGHT + index] = dot(sum, vec4(1.0));
}

// One workgroup adds up the rows of a slope: each invocation takes every 64th, then a tree reduction.
@compute @workgroup_size(64)
fn sum_weight_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let slope = group.x + group.y * groups.x;
    let rows = QUADS * CHANNELS * HEIGHT / SLOPES;
    var sum = 0.0;
    if (slope < SLOPES) {
        for (var row = local; row < rows; row += 64u) {
            sum += sums[(group.z * SLOPES + slope) * rows + row];
        }
    }
    tree[local] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            tree[local] += tree[local + half];
        }
    }
    if (local == 0u && slope < SLOPES) {
        grad_weight[group.z * SLOPES + slope] = tree[0];
    }
}
