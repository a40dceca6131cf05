// Batch normalisation of each channel over images and pixels, with M values per channel:
//   mean = Σ x / M;  var = Σ (x − mean)² / M;  inv_std = 1/√(var + EPS);  x̂ = (x − mean) · inv_std
//   output = x̂ · weight + bias;  running = (1 − MOMENTUM) · running + MOMENTUM · batch, with var · M/(M−1)
//   grad_bias = Σ g;  grad_weight = Σ g·x̂;  grad_input = weight · inv_std · (g − grad_bias/M − x̂ · grad_weight/M)
// and of a frozen one, which computes with its running statistics, grad_input = weight / √(running_var + EPS) · g,
// where g is grad_output. Sums are taken relative to the channel's first value, so a large mean causes no cancellation.
// Only images of the batch count; the vec4 lanes past the last one have no gradient and get none.

override QUADS: u32;
override CHANNELS: u32;
override HEIGHT: u32;
override WIDTH: u32;
override EPS: f32;
override MOMENTUM: f32;
// Places in `state`.
override STEP_IMAGES: u32; // images of this step's batch

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(5) var<storage, read_write> running_var: array<f32>;
@group(0) @binding(6) var<storage, read_write> mean: array<f32>;
@group(0) @binding(7) var<storage, read_write> inv_std: array<f32>;
@group(0) @binding(8) var<storage, read_write> sums: array<vec2<f32>>; // [replica, channel, quad, row]
@group(0) @binding(9) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> grad_input: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> grad_weight: array<f32>;
@group(0) @binding(12) var<storage, read_write> grad_bias: array<f32>;
@group(0) @binding(13) var<storage, read_write> grad_sums: array<vec2<f32>>; // [replica, channel, quad, row]
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(14) var<storage, read> state: array<u32>;
@group(0) @binding(15) var<storage, read_write> grad_means: array<vec2<f32>>; // grad_bias/M and grad_weight/M
// running_mean and running_var for kernels that only read them: the parameters of a frozen layer lie in the same buffer
@group(0) @binding(16) var<storage, read> still_running_mean: array<f32>;
@group(0) @binding(17) var<storage, read> still_running_var: array<f32>;

override ROWS: u32 = QUADS * HEIGHT; // of one channel

var<workgroup> tree: array<vec2<f32>, 64>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

// 1 for the lanes of a quad that hold an image of the batch, 0 for the others.
fn lane_mask(quad: u32, images: u32) -> vec4<f32> {
    return select(vec4(0.0), vec4(1.0), vec4(0u, 1u, 2u, 3u) + quad * 4u < vec4(images));
}

// The first row of (channel, quad, row) number index of a replica.
fn row_start(replica: u32, index: u32) -> u32 {
    let channel = index / ROWS;
    let quad = index / HEIGHT % QUADS;
    return (((replica * QUADS + quad) * CHANNELS + channel) * HEIGHT + index % HEIGHT) * WIDTH;
}

fn first_value(replica: u32, channel: u32) -> f32 {
    return input[(replica * QUADS * CHANNELS + channel) * HEIGHT * WIDTH].x;
}

fn channel_of(replica: u32, element: u32) -> u32 {
    return replica * CHANNELS + element / (HEIGHT * WIDTH) % CHANNELS;
}

// Σ d and Σ d² of each row, d being the difference from the channel's first value.
@compute @workgroup_size(64)
fn row_sums(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= CHANNELS * ROWS) {
        return;
    }
    let start = row_start(id.z, index);
    let shift = first_value(id.z, index / ROWS);
    let mask = lane_mask(index / HEIGHT % QUADS, state[STEP_IMAGES]);
    var sum = vec4(0.0);
    var squares = vec4(0.0);
    for (var x = 0u; x < WIDTH; x++) {
        let distance = (input[start + x] - shift) * mask;
        sum += distance;
        squares += distance * distance;
    }
    sums[id.z * CHANNELS * ROWS + index] = vec2(dot(sum, vec4(1.0)), dot(squares, vec4(1.0)));
}

// One workgroup adds up the rows of a channel: each invocation takes every 64th, then a tree reduction.
@compute @workgroup_size(64)
fn statistics(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let channel = group.x + group.y * groups.x;
    var sum = vec2(0.0);
    if (channel < CHANNELS) {
        for (var row = local; row < ROWS; row += 64u) {
            sum += sums[(group.z * CHANNELS + channel) * ROWS + row];
        }
    }
    tree[local] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            tree[local] += tree[local + half];
        }
    }
    if (local == 0u && channel < CHANNELS) {
        let count = f32(state[STEP_IMAGES] * HEIGHT * WIDTH);
        let from_first = tree[0] / count;
        let batch_mean = first_value(group.z, channel) + from_first.x;
        let batch_var = max(from_first.y - from_first.x * from_first.x, 0.0);
        let at = group.z * CHANNELS + channel;
        mean[at] = batch_mean;
        inv_std[at] = inverseSqrt(batch_var + EPS);
        running_mean[at] = (1.0 - MOMENTUM) * running_mean[at] + MOMENTUM * batch_mean;
        let unbiased = batch_var * (count / max(count - 1.0, 1.0));
        running_var[at] = (1.0 - MOMENTUM) * running_var[at] + MOMENTUM * unbiased;
    }
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= CHANNELS * ROWS * WIDTH) {
        return;
    }
    let c = channel_of(id.z, index);
    let at = id.z * CHANNELS * ROWS * WIDTH + index;
    output[at] = (input[at] - mean[c]) * (inv_std[c] * weight[c]) + bias[c];
}

@compute @workgroup_size(64)
fn forward_eval(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= CHANNELS * ROWS * WIDTH) {
        return;
    }
    let c = channel_of(id.z, index);
    let at = id.z * CHANNELS * ROWS * WIDTH + index;
    let scale = inverseSqrt(still_running_var[c] + EPS) * weight[c];
    output[at] = (input[at] - still_running_mean[c]) * scale + bias[c];
}

// Σ g and Σ g·x̂ of each row.
@compute @workgroup_size(64)
fn grad_row_sums(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= CHANNELS * ROWS) {
        return;
    }
    let start = row_start(id.z, index);
    let c = id.z * CHANNELS + index / ROWS;
    var sum = vec4(0.0);
    var products = vec4(0.0);
    for (var x = 0u; x < WIDTH; x++) {
        let upstream = grad_output[start + x];
        sum += upstream;
        products += upstream * ((input[start + x] - mean[c]) * inv_std[c]);
    }
    grad_sums[id.z * CHANNELS * ROWS + index] = vec2(dot(sum, vec4(1.0)), dot(products, vec4(1.0)));
}

@compute @workgroup_size(64)
fn grad_params(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let channel = group.x + group.y * groups.x;
    var sum = vec2(0.0);
    if (channel < CHANNELS) {
        for (var row = local; row < ROWS; row += 64u) {
            sum += grad_sums[(group.z * CHANNELS + channel) * ROWS + row];
        }
    }
    tree[local] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            tree[local] += tree[local + half];
        }
    }
    if (local == 0u && channel < CHANNELS) {
        grad_bias[group.z * CHANNELS + channel] = tree[0].x;
        grad_weight[group.z * CHANNELS + channel] = tree[0].y;
        grad_means[group.z * CHANNELS + channel] = tree[0] / f32(state[STEP_IMAGES] * HEIGHT * WIDTH);
    }
}

@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= CHANNELS * ROWS * WIDTH) {
        return;
    }
    let c = channel_of(id.z, index);
    let at = id.z * CHANNELS * ROWS * WIDTH + index;
    let normalised = (input[at] - mean[c]) * inv_std[c];
    let centred = grad_output[at] - grad_means[c].x - normalised * grad_means[c].y;
    let mask = lane_mask(index / (CHANNELS * HEIGHT * WIDTH), state[STEP_IMAGES]);
    grad_input[at] = weight[c] * inv_std[c] * centred * mask;
}

@compute @workgroup_size(64)
fn backward_input_frozen(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= CHANNELS * ROWS * WIDTH) {
        return;
    }
    let c = channel_of(id.z, index);
    let at = id.z * CHANNELS * ROWS * WIDTH + index;
    grad_input[at] = inverseSqrt(still_running_var[c] + EPS) * weight[c] * grad_output[at];
}
