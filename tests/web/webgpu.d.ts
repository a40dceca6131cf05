// WebGPU's flags, which the checker's own description of the browser lacks.
declare const GPUBufferUsage: Record<'COPY_SRC' | 'COPY_DST' | 'MAP_READ' | 'STORAGE', number>;
declare const GPUShaderStage: Record<'COMPUTE', number>;
declare const GPUMapMode: Record<'READ', number>;
