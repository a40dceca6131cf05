// output[n,c,y,x] = 1/(KERNEL_HEIGHT·KERNEL_WIDTH) · Σ i,j  input[n,c, y·STRIDE+i−PADDING, x·STRIDE+j−PADDING]
// Padding counts as zeros. Global average pooling is a single window as large as the map.

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

override SHARE: f32 = 1.0 / f32(KERNEL_HEIGHT * KERNEL_WIDTH);

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= QUADS * CHANNELS * OUT_HEIGHT * OUT_WIDTH) {
        return;
    }
    let map = id.z * QUADS * CHANNELS + index / (OUT_HEIGHT * OUT_WIDTH);
    let y = index / OUT_WIDTH % OUT_HEIGHT;
    let x = index % OUT_WIDTH;
    var sum = vec4(0.0);
    for (var i = 0u; i < KERNEL_HEIGHT; i++) {
        let row = y * STRIDE_HEIGHT + i;
        for (var j = 0u; j < KERNEL_WIDTH; j++) {
            let column = x * STRIDE_WIDTH + j;
            if (row >= PADDING && row < IN_HEIGHT + PADDING && column >= PADDING && column < IN_WIDTH + PADDING) {
                sum += input[(map * IN_HEIGHT + row - PADDING) * IN_WIDTH + column - PADDING];
            }
        }
    }
    output[id.z * QUADS * CHANNELS * OUT_HEIGHT * OUT_WIDTH + index] = sum * SHARE;
}

// Each input sums its share of the windows that contain it.
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
            sum += grad_output[(map * OUT_HEIGHT + y) * OUT_WIDTH + x];
        }
    }
    grad_input[id.z * QUADS * CHANNELS * IN_HEIGHT * IN_WIDTH + index] = sum * SHARE;
}
