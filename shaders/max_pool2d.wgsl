// output[n,c,y,x] = max i,j  input[n,c, y·STRIDE+i−PADDING, x·STRIDE+j−PADDING]; padding never wins.
// The gradient goes to the first maximum of each window in row-major order. The backward pass recomputes it from the input.

override QUADS: u32;
override CHANNELS: u32;
override IN_HEIGHT: u32;
override IN_WIDTH: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override KERNEL_HEIGHT: u32;
override KERNEL_WIDTH: u32;
override STRIDE_HEIGHT: u32;
override STRIDE_WIDTH: u32;
override PADDING: u32;

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad_input: array<vec4<f32>>;

const LOWEST = -3.4028234e38;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

struct Window {
    value: vec4<f32>, // the maximum of each of four images
    place: vec4<u32>, // where it is: index within the feature map
}

// The window of output (y, x) of the feature map that starts at map.
fn window(map: u32, y: u32, x: u32) -> Window {
    var best = Window(vec4(LOWEST), vec4(0u));
    for (var i = 0u; i < KERNEL_HEIGHT; i++) {
        let row = y * STRIDE_HEIGHT + i;
        if (PADDING > 0u && (row < PADDING || row >= IN_HEIGHT + PADDING)) {
            continue;
        }
        for (var j = 0u; j < KERNEL_WIDTH; j++) {
            let column = x * STRIDE_WIDTH + j;
            if (PADDING > 0u && (column < PADDING || column >= IN_WIDTH + PADDING)) {
                continue;
            }
            let place = (row - PADDING) * IN_WIDTH + column - PADDING;
            let value = input[map + place];
            let wins = value > best.value;
            best.value = select(best.value, value, wins);
            best.place = select(best.place, vec4(place), wins);
        }
    }
    return best;
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= QUADS * CHANNELS * OUT_HEIGHT * OUT_WIDTH) {
        return;
    }
    let map = id.z * QUADS * CHANNELS + index / (OUT_HEIGHT * OUT_WIDTH);
    let y = index / OUT_WIDTH % OUT_HEIGHT;
    let best = window(map * IN_HEIGHT * IN_WIDTH, y, index % OUT_WIDTH);
    output[id.z * QUADS * CHANNELS * OUT_HEIGHT * OUT_WIDTH + index] = best.value;
}

// Each input sums the gradients of the windows in which it is the maximum.
@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= QUADS * CHANNELS * IN_HEIGHT * IN_WIDTH) {
        return;
    }
    let map = id.z * QUADS * CHANNELS + index / (IN_HEIGHT * IN_WIDTH);
    let place = index % (IN_HEIGHT * IN_WIDTH);
    let row = place / IN_WIDTH + PADDING;
    let column = place % IN_WIDTH + PADDING;
    var sum = vec4(0.0);
    // Windows (y, x) with y·STRIDE ≤ row < y·STRIDE + KERNEL.
    let first_y = (max(row + 1u, KERNEL_HEIGHT) - KERNEL_HEIGHT + STRIDE_HEIGHT - 1u) / STRIDE_HEIGHT;
    let first_x = (max(column + 1u, KERNEL_WIDTH) - KERNEL_WIDTH + STRIDE_WIDTH - 1u) / STRIDE_WIDTH;
    for (var y = first_y; y <= min(row / STRIDE_HEIGHT, OUT_HEIGHT - 1u); y++) {
        for (var x = first_x; x <= min(column / STRIDE_WIDTH, OUT_WIDTH - 1u); x++) {
            let best = window(map * IN_HEIGHT * IN_WIDTH, y, x);
            let upstream = grad_output[(map * OUT_HEIGHT + y) * OUT_WIDTH + x];
            sum += select(vec4(0.0), upstream, best.place == vec4(place));
        }
    }
    grad_input[id.z * QUADS * CHANNELS * IN_HEIGHT * IN_WIDTH + index] = sum;
}
