// What depthwise.cu and norm.cu share: numbers as they are stored, and sums over a block. Their text follows this one.
//
// All arithmetic is in float; float, Half and BFloat16 only say how a volume is stored. No headers: NVRTC compiles this file
// as it is, and the tests compile it for the host, where they bring the conversions of Half.

struct Half {  // IEEE binary16
    unsigned short bits;
};
struct BFloat16 {  // the upper half of a float
    unsigned short bits;
};

#ifdef __CUDACC__
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(Half value) { return half_to_float(value.bits); }
__device__ __forceinline__ float widen(BFloat16 value) { return __uint_as_float((unsigned)value.bits << 16); }

__device__ __forceinline__ void narrow(float value, float& stored) { stored = value; }
__device__ __forceinline__ void narrow(float value, Half& stored) { stored.bits = float_to_half(value); }
__device__ __forceinline__ void narrow(float value, BFloat16& stored) {
    const unsigned bits = __float_as_uint(value);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;  // rounding could carry a NaN into another number
    stored.bits = (unsigned short)(nan ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// W neighbours that one instruction reads or writes.
template <typename T, int W>
struct alignas(W * sizeof(T)) Pack {
    T item[W];
};

constexpr int THREADS = 256;  // of every block
constexpr int ADDERS = 8;     // threads that add up one sum; with this distance between rows, no two share a bank
constexpr int PITCH = THREADS + ADDERS;

extern __shared__ float sums_in_block[];

// Floats of shared memory for sums of COUNT values.
__device__ constexpr int scratch(int count) { return count * (PITCH + ADDERS + 1); }

// Sums of each of the values over the threads of the block, in the same order in every run; all threads meet here.
//
// Args: shared: scratch(COUNT) floats that no other call of the kernel uses.
// Returns: the COUNT sums, in shared memory.
template <int COUNT>
__device__ __forceinline__ const float* block_sums(const float (&values)[COUNT], float* shared) {
    static_assert(COUNT * ADDERS <= THREADS, "a thread adds for one sum at most");
    float *parts = shared + COUNT * PITCH, *totals = parts + COUNT * ADDERS;
    const int tid = threadIdx.x, row = tid / ADDERS;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) shared[i * PITCH + tid] = values[i];
    __syncthreads();
    if (row < COUNT) {
        float part = 0.0f;
        for (int i = tid % ADDERS; i < THREADS; i += ADDERS) part += shared[row * PITCH + i];
        parts[tid] = part;
    }
    __syncthreads();
    if (tid < COUNT) {
        float total = 0.0f;
        for (int i = 0; i < ADDERS; ++i) total += parts[tid * ADDERS + i];
        totals[tid] = total;
    }
    __syncthreads();
    return totals;
}
