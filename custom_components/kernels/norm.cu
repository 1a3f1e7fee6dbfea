// Instance norm followed by LeakyReLU on a GPU, forward and backward: what norm_numba.py computes on the CPU.
//
// A volume is cut into chunks, one per block, which its threads hold in registers: it is read once for the statistics and
// once to normalise it, and a volume of one chunk is read once in all. Chunks do not depend on the GPU, so its sums do not.
// Names: n voxels of a volume, m = sample x channels + channel. common.cu stands before this file.

constexpr int ITEMS = 16;  // of a thread
constexpr int CHUNK = THREADS * ITEMS;

// Where this block works.
struct Place {
    long long row;          // first voxel of the volume
    int m, channel, first;  // volume, and first voxel of the chunk within it
};

__device__ __forceinline__ Place place(int n, int chunks, int channels) {
    const int m = blockIdx.x / chunks;
    return {(long long)m * n, m, m % channels, (int)(blockIdx.x % chunks) * CHUNK};
}

// Index within the volume of the k-th pack of this thread.
template <int W>
__device__ __forceinline__ int position(int first, int k) {
    return first + (k * THREADS + (int)threadIdx.x) * W;
}

// This thread's numbers; what lies beyond the volume is 0. W divides n.
template <typename T, int W>
__device__ __forceinline__ void read(const T* __restrict__ row, int first, int n, float values[ITEMS]) {
#pragma unroll
    for (int k = 0; k < ITEMS / W; ++k) {
        const int at = position<W>(first, k);
        if (at < n) {
            const Pack<T, W> pack = *(const Pack<T, W>*)(row + at);
#pragma unroll
            for (int j = 0; j < W; ++j) values[k * W + j] = widen(pack.item[j]);
        } else {
#pragma unroll
            for (int j = 0; j < W; ++j) values[k * W + j] = 0.0f;
        }
    }
}

template <typename T, int W>
__device__ __forceinline__ void write(T* __restrict__ row, int first, int n, const float values[ITEMS]) {
#pragma unroll
    for (int k = 0; k < ITEMS / W; ++k) {
        const int at = position<W>(first, k);
        Pack<T, W> pack;
#pragma unroll
        for (int j = 0; j < W; ++j) narrow(values[k * W + j], pack.item[j]);
        if (at < n) *(Pack<T, W>*)(row + at) = pack;
    }
}

// Normalised, scaled and shifted: forward and backward must agree on its sign to the last bit.
__device__ __forceinline__ float affine(float x, float mean, float scale, float bias) { return fmaf(x - mean, scale, bias); }

__device__ __forceinline__ void activate(float values[ITEMS], float mean, float scale, float bias, float slope) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const float v = affine(values[i], mean, scale, bias);
        values[i] = v > 0.0f ? v : v * slope;
    }
}

// Statistics of one chunk, and with a single chunk all the rest too.
//
// x, out: (M, n). weight, bias: (channels). Of several chunks, partial (M, chunks, 2): mean, and sum of squared deviations
// from it; of a single one, mean and rstd (M), and out. Dynamic shared memory: scratch(1) + scratch(2) floats.
template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)  // without the 4, nvcc spills some instances to memory
norm_chunk(int n, int chunks, int channels, float eps, float slope, const T* __restrict__ x, const float* __restrict__ weight,
           const float* __restrict__ bias, float* __restrict__ partial, float* __restrict__ mean, float* __restrict__ rstd,
           T* __restrict__ out) {
    const Place p = place(n, chunks, channels);
    const float count = (float)(n - p.first < CHUNK ? n - p.first : CHUNK);
    float values[ITEMS], sum[1] = {0.0f};
    read<T, W>(x + p.row, p.first, n, values);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) sum[0] += values[i];
    // Deviations from the mean as it was rounded, whose sum then mends it: no cancellation in images far from zero.
    const float centre = block_sums(sum, sums_in_block)[0] / count;
    float sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
        const float d = position<W>(p.first, k / W) < n ? values[k] - centre : 0.0f;
        sums[0] += d;
        sums[1] += d * d;
    }
    const float* totals = block_sums(sums, sums_in_block + scratch(1));
    const float mu = centre + totals[0] / count, squares = totals[1] - totals[0] / count * totals[0];
    if (chunks > 1) {
        if (threadIdx.x == 0) {
            partial[2LL * blockIdx.x] = mu;
            partial[2LL * blockIdx.x + 1] = squares;
        }
        return;
    }
    const float r = 1.0f / sqrtf(squares / count + eps);
    if (threadIdx.x == 0) {
        mean[p.m] = mu;
        rstd[p.m] = r;
    }
    activate(values, mu, weight[p.channel] * r, bias[p.channel], slope);
    write<T, W>(out + p.row, p.first, n, values);
}

// Mean and rstd of a volume from those of its chunks; one block per volume, shared memory as above.
extern "C" __global__ void __launch_bounds__(THREADS)
norm_finish(int n, int chunks, float eps, const float* __restrict__ partial, float* __restrict__ mean, float* __restrict__ rstd) {
    const float* __restrict__ own = partial + 2LL * chunks * blockIdx.x;
    const float pivot = own[0], last = (float)(n - (chunks - 1) * CHUNK);
    float sum[1] = {0.0f};
    for (int i = threadIdx.x; i < chunks; i += THREADS) sum[0] += (i < chunks - 1 ? (float)CHUNK : last) * (own[2 * i] - pivot);
    const float centre = pivot + block_sums(sum, sums_in_block)[0] / n;
    float sums[2] = {0.0f, 0.0f};
    for (int i = threadIdx.x; i < chunks; i += THREADS) {
        const float d = own[2 * i] - centre, moment = (i < chunks - 1 ? (float)CHUNK : last) * d;
        sums[0] += moment;
        sums[1] += own[2 * i + 1] + moment * d;
    }
    const float* totals = block_sums(sums, sums_in_block + scratch(1));
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = centre + totals[0] / n;
        rstd[blockIdx.x] = 1.0f / sqrtf((totals[1] - totals[0] / n * totals[0]) / n + eps);
    }
}

// out = leaky_relu(weight (x - mean) rstd + bias), one block per chunk.
template <typename T, int W>
__global__ void __launch_bounds__(THREADS)
norm_apply(int n, int chunks, int channels, float slope, const T* __restrict__ x, const float* __restrict__ weight,
           const float* __restrict__ bias, const float* __restrict__ mean, const float* __restrict__ rstd, T* __restrict__ out) {
    const Place p = place(n, chunks, channels);
    float values[ITEMS];
    read<T, W>(x + p.row, p.first, n, values);
    activate(values, mean[p.m], weight[p.channel] * rstd[p.m], bias[p.channel], slope);
    write<T, W>(out + p.row, p.first, n, values);
}

// Gradient at the norm's output in place of that at the activation's, and normalised x in place of x.
__device__ __forceinline__ void undo(float gradient[ITEMS], float values[ITEMS], float mean, float rstd, float weight,
                                     float bias, float slope) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        gradient[i] *= affine(values[i], mean, weight * rstd, bias) > 0.0f ? 1.0f : slope;
        values[i] = (values[i] - mean) * rstd;
    }
}

// Gradient of x in place of that of the norm's output; its mean, and that of its product with normalised x.
__device__ __forceinline__ void propagate(float gradient[ITEMS], const float values[ITEMS], float scale, float mean,
                                          float mean_product) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) gradient[i] = scale * (gradient[i] - mean - values[i] * mean_product);
}

// Sums for the backward over one chunk, and with a single chunk the gradient of x too.
//
// gradient: (M, n), of the activation's output. sums: (2, M, chunks), written: of the gradient at the norm's output, and of
// its product with normalised x. out: (M, n). Dynamic shared memory: scratch(2) floats.
template <typename T, int W>
__global__ void __launch_bounds__(THREADS)
norm_backward_chunk(int n, int chunks, int channels, float slope, const T* __restrict__ gradient, const T* __restrict__ x,
                    const float* __restrict__ weight, const float* __restrict__ bias, const float* __restrict__ mean,
                    const float* __restrict__ rstd, float* __restrict__ sums, T* __restrict__ out) {
    const Place p = place(n, chunks, channels);
    const float w = weight[p.channel], r = rstd[p.m];
    float values[ITEMS], g[ITEMS], both[2] = {0.0f, 0.0f};
    read<T, W>(gradient + p.row, p.first, n, g);
    read<T, W>(x + p.row, p.first, n, values);
    undo(g, values, mean[p.m], r, w, bias[p.channel], slope);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {  // beyond the volume the gradient is 0
        both[0] += g[i];
        both[1] += g[i] * values[i];
    }
    const float* totals = block_sums(both, sums_in_block);
    if (threadIdx.x < 2) sums[(long long)gridDim.x * threadIdx.x + blockIdx.x] = totals[threadIdx.x];
    if (chunks > 1) return;
    propagate(g, values, w * r, totals[0] / n, totals[1] / n);
    write<T, W>(out + p.row, p.first, n, g);
}

// Gradient of x, one block per chunk. totals: (2, M), sums of norm_backward_chunk over chunks.
template <typename T, int W>
__global__ void __launch_bounds__(THREADS)
norm_backward_apply(int n, int chunks, int channels, float slope, const T* __restrict__ gradient, const T* __restrict__ x,
                    const float* __restrict__ weight, const float* __restrict__ bias, const float* __restrict__ mean,
                    const float* __restrict__ rstd, const float* __restrict__ totals, T* __restrict__ out) {
    const Place p = place(n, chunks, channels);
    const int volumes = gridDim.x / chunks;
    const float w = weight[p.channel], r = rstd[p.m];
    float values[ITEMS], g[ITEMS];
    read<T, W>(gradient + p.row, p.first, n, g);
    read<T, W>(x + p.row, p.first, n, values);
    undo(g, values, mean[p.m], r, w, bias[p.channel], slope);
    propagate(g, values, w * r, totals[p.m] / n, totals[volumes + p.m] / n);
    write<T, W>(out + p.row, p.first, n, g);
}
